"""How many right passwords PAM alone can check in a second: the ceiling for any server's logins.

Each process calls libpam's pam_start, pam_authenticate, pam_acct_mgmt, pam_end again and again. All are in one session, as
the relay's workers are: where the kernel shares out the processor by sessions, on a busy machine, both get the same.
"""

import ctypes
import multiprocessing
import os
import time

PAM_PROMPT_ECHO_OFF, PAM_SUCCESS, PAM_BUF_ERR = 1, 0, 5


class Message(ctypes.Structure):
    _fields_ = [("style", ctypes.c_int), ("text", ctypes.c_char_p)]


class Response(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("code", ctypes.c_int)]


Converse = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.POINTER(Message)),
                            ctypes.POINTER(ctypes.POINTER(Response)), ctypes.c_void_p)


class Conversation(ctypes.Structure):
    _fields_ = [("converse", Converse), ("data", ctypes.c_void_p)]


def count_checks(service, user, password, seconds, counts):
    libc, libpam = ctypes.CDLL("libc.so.6"), ctypes.CDLL("libpam.so.0")
    libc.calloc.restype = libc.strdup.restype = ctypes.c_void_p

    @Converse
    def converse(number, messages, responses, _):
        block = libc.calloc(number, ctypes.sizeof(Response))
        if not block:
            return PAM_BUF_ERR
        responses[0] = ctypes.cast(block, ctypes.POINTER(Response))
        for index in range(number):
            if messages[index].contents.style == PAM_PROMPT_ECHO_OFF:
                responses[0][index].text = libc.strdup(password.encode())
        return PAM_SUCCESS

    conversation = Conversation(converse, None)
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        handle = ctypes.c_void_p()
        steps = [libpam.pam_start(service.encode(), user.encode(), ctypes.byref(conversation), ctypes.byref(handle))]
        steps += [libpam.pam_authenticate(handle, 0), libpam.pam_acct_mgmt(handle, 0)]
        libpam.pam_end(handle, steps[-1])
        if any(steps):
            raise RuntimeError(f"PAM answered {steps}")
        done += 1
    counts.put(done)


def rate(service, user, password, seconds, processes):
    counts = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=count_checks, args=(service, user, password, seconds, counts)) for _ in range(processes)]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("PAM alone did not accept the password")
    return sum(counts.get() for _ in workers) / (time.monotonic() - began)
