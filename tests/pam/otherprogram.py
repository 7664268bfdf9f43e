"""Another program on this host that asks PAM, such as a mail store: what it does shows in the same counts and locks."""

import ctypes

SUCCESS, BUF_ERR, ECHO_OFF = 0, 5, 1


class Message(ctypes.Structure):
    _fields_ = [("style", ctypes.c_int), ("text", ctypes.c_char_p)]


class Response(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("code", ctypes.c_int)]


Converse = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.POINTER(Message)),
                            ctypes.POINTER(ctypes.POINTER(Response)), ctypes.c_void_p)
NoDelay = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
FAIL_DELAY = 10


class Conversation(ctypes.Structure):
    _fields_ = [("talk", Converse), ("data", ctypes.c_void_p)]


def authenticate(service, user, password):
    """What pam_authenticate returns."""
    pam, libc = ctypes.CDLL("libpam.so.0"), ctypes.CDLL(None)
    libc.calloc.restype, libc.strdup.restype = ctypes.c_void_p, ctypes.c_void_p

    @Converse
    def talk(count, messages, responses, _):
        array = libc.calloc(count, ctypes.sizeof(Response))
        if not array:
            return BUF_ERR
        responses[0] = ctypes.cast(array, ctypes.POINTER(Response))
        for number in range(count):
            if messages[number].contents.style == ECHO_OFF:
                responses[0][number].text = libc.strdup(password.encode())
        return SUCCESS

    no_delay = NoDelay(lambda *_: None)
    handle = ctypes.c_void_p()
    conversation = Conversation(talk, None)
    if pam.pam_start(service.encode(), user.encode(), ctypes.byref(conversation), ctypes.byref(handle)) != SUCCESS:
        raise AssertionError(f"PAM did not start for {service}")
    pam.pam_set_item(handle, FAIL_DELAY, ctypes.cast(no_delay, ctypes.c_void_p))
    code = pam.pam_authenticate(handle, 0)
    pam.pam_end(handle, code)
    return code
