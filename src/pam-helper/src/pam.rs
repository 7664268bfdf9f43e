//! A small safe wrapper around libpam: one transaction, one password, one prompt answered.
//!
//! Invariants: the password is handed out exactly once, to one hidden prompt, and every other prompt
//! fails the conversation (a module that asks for a *new* password would otherwise set the old one
//! again); no panic crosses the C boundary; nothing a module says is ever more than text for the log.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use nix::libc;
use pam::ffi;
use zeroize::Zeroizing;

/// How much of what modules say is kept.
pub(crate) const TEXT_LIMIT: usize = 512;

/// What libpam returned; see `pam(3)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) c_int);

impl Code {
    pub(crate) const SUCCESS: Self = Self(ffi::PAM_SUCCESS);
    pub(crate) const PERM_DENIED: Self = Self(ffi::PAM_PERM_DENIED);
    pub(crate) const AUTH_ERR: Self = Self(ffi::PAM_AUTH_ERR);
    pub(crate) const USER_UNKNOWN: Self = Self(ffi::PAM_USER_UNKNOWN);
    pub(crate) const MAXTRIES: Self = Self(ffi::PAM_MAXTRIES);
    pub(crate) const NEW_AUTHTOK_REQD: Self = Self(ffi::PAM_NEW_AUTHTOK_REQD);
    pub(crate) const ACCT_EXPIRED: Self = Self(ffi::PAM_ACCT_EXPIRED);
    pub(crate) const AUTHTOK_EXPIRED: Self = Self(ffi::PAM_AUTHTOK_EXPIRED);
    pub(crate) const BUF_ERR: Self = Self(ffi::PAM_BUF_ERR);
}

/// What the modules asked for, and whether the password is among what they got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prompts {
    None,
    /// One hidden prompt, and it got the password.
    Password,
    /// The same, and then a prompt that could not be answered.
    PasswordAndMore,
    /// A prompt that could not be answered, so that nobody got the password.
    Unanswerable,
}

/// A `pam_handle_t` with its conversation. One question, then drop.
pub(crate) struct Transaction {
    handle: NonNull<ffi::pam_handle_t>,
    /// Allocated by a `Box`, shared with the callback, which runs only inside a `pam_*` call.
    talk: NonNull<Talk>,
    last: Code,
}

/// What the callback knows and learns.
struct Talk {
    password: Option<Zeroizing<Vec<u8>>>,
    prompts: Prompts,
    said: Vec<u8>,
}

impl Transaction {
    /// `pam_start`: reads the service file and loads its modules. No user yet.
    pub(crate) fn start(service: &CStr) -> Result<Self, Code> {
        let talk = Box::new(Talk { password: None, prompts: Prompts::None, said: Vec::new() });
        let talk = NonNull::from(Box::leak(talk));
        let conversation = ffi::pam_conv { conv: Some(converse), appdata_ptr: talk.as_ptr().cast() };
        let mut handle = ptr::null_mut();
        // SAFETY: service is a C string; the user may be null; libpam copies the conversation struct,
        // and `talk` lives until `drop` has ended the transaction; handle is a place for one pointer.
        let code = unsafe { ffi::pam_start(service.as_ptr(), ptr::null(), &raw const conversation, &raw mut handle) };
        match NonNull::new(handle) {
            Some(handle) if code == ffi::PAM_SUCCESS => Ok(Self { handle, talk, last: Code::SUCCESS }),
            _ => {
                // SAFETY: pam_start failed, so nobody but us has the pointer that `Box::leak` gave.
                drop(unsafe { Box::from_raw(talk.as_ptr()) });
                Err(Code(code))
            }
        }
    }

    /// Says who asks, from where; and that failures are answered without libpam's own delay.
    pub(crate) fn introduce(&mut self, user: &CStr, peer: &CStr, tty: &CStr) -> Result<(), Code> {
        for (item, text) in [(ffi::PAM_USER, user), (ffi::PAM_RHOST, peer), (ffi::PAM_TTY, tty)] {
            self.set_item(item, text.as_ptr().cast())?;
        }
        let no_delay: extern "C" fn(c_int, c_uint, *mut c_void) = no_delay;
        self.set_item(ffi::PAM_FAIL_DELAY, no_delay as *const c_void)
    }

    /// `pam_authenticate` with this password; accounts without one are refused.
    pub(crate) fn authenticate(&mut self, password: &[u8]) -> (Code, Prompts) {
        let mut copy = Zeroizing::new(Vec::with_capacity(password.len()));
        copy.extend_from_slice(password);
        self.talk().password = Some(copy);
        // SAFETY: the handle is live; the callback has sole use of `talk` during the call.
        let code = unsafe { ffi::pam_authenticate(self.handle.as_ptr(), ffi::PAM_DISALLOW_NULL_AUTHTOK) };
        self.last = Code(code);
        let talk = self.talk();
        talk.password = None;
        (Code(code), talk.prompts)
    }

    /// `pam_acct_mgmt`.
    pub(crate) fn account(&mut self) -> (Code, Prompts) {
        // SAFETY: the handle is live; the callback has sole use of `talk` during the call.
        let code = unsafe { ffi::pam_acct_mgmt(self.handle.as_ptr(), ffi::PAM_DISALLOW_NULL_AUTHTOK) };
        self.last = Code(code);
        (Code(code), self.talk().prompts)
    }

    /// PAM_USER as it is now: modules change it.
    pub(crate) fn user(&mut self) -> Option<CString> {
        let mut item: *const c_void = ptr::null();
        // SAFETY: the handle is live and `item` is a place for one pointer.
        let code = unsafe { ffi::pam_get_item(self.handle.as_ptr(), ffi::PAM_USER, &raw mut item) };
        if code != ffi::PAM_SUCCESS || item.is_null() {
            return None;
        }
        // SAFETY: PAM_USER is a C string that libpam keeps until the item is set again or the
        // transaction ends; it is copied before either can happen.
        Some(unsafe { CStr::from_ptr(item.cast::<c_char>()) }.to_owned())
    }

    /// What the modules said, as they said it, at most [`TEXT_LIMIT`] bytes.
    pub(crate) fn said(&mut self) -> &[u8] {
        &self.talk().said
    }

    fn set_item(&mut self, item: c_int, value: *const c_void) -> Result<(), Code> {
        // SAFETY: the handle is live; for strings libpam copies the value, for PAM_FAIL_DELAY the
        // value is a function of the documented signature that lives as long as the program.
        let code = unsafe { ffi::pam_set_item(self.handle.as_ptr(), item, value) };
        if code == ffi::PAM_SUCCESS { Ok(()) } else { Err(Code(code)) }
    }

    fn talk(&mut self) -> &mut Talk {
        // SAFETY: the pointer comes from a live Box; `&mut self` and the absence of a running `pam_*`
        // call mean that neither another borrow nor the callback uses it.
        unsafe { self.talk.as_mut() }
    }
}

impl Drop for Transaction {
    /// `pam_end`: modules tidy up (Kerberos removes its ticket file here).
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used after this.
        unsafe { ffi::pam_end(self.handle.as_ptr(), self.last.0) };
        // SAFETY: the transaction is over, so nobody but us has the pointer that `Box::leak` gave.
        drop(unsafe { Box::from_raw(self.talk.as_ptr()) });
    }
}

/// Replaces libpam's sleep after a failure (about 2 s); the front end levels the timing.
extern "C" fn no_delay(_: c_int, _: c_uint, _: *mut c_void) {}

/// The conversation function that libpam and its modules call.
unsafe extern "C" fn converse(
    count: c_int,
    messages: *mut *const ffi::pam_message,
    responses: *mut *mut ffi::pam_response,
    talk: *mut c_void,
) -> c_int {
    let talked = catch_unwind(AssertUnwindSafe(|| {
        let count = usize::try_from(count).ok().filter(|count| (1..=ffi::PAM_MAX_NUM_MSG as usize).contains(count))?;
        let (messages, responses) = (NonNull::new(messages)?, NonNull::new(responses)?);
        // SAFETY: `talk` is the pointer that `start` registered; it is alive, and the thread that made
        // the running pam_* call holds no reference into it.
        let talk = unsafe { talk.cast::<Talk>().as_mut() }?;
        // SAFETY: libpam's contract: there is room for one pointer behind `responses`.
        unsafe { responses.write(ptr::null_mut()) };
        // SAFETY: libpam's contract (Linux-PAM): `messages` points to `count` pointers.
        let messages = unsafe { std::slice::from_raw_parts(messages.as_ptr(), count) };

        // 1. Decide about all of them before a single byte is handed out.
        let mut wants_password = None;
        for (index, &message) in messages.iter().enumerate() {
            // SAFETY: each pointer is null or leads to a message that lives during this call.
            let message = unsafe { message.as_ref() }?;
            match message.msg_style {
                ffi::PAM_TEXT_INFO | ffi::PAM_ERROR_MSG => talk.hear(message.msg),
                ffi::PAM_PROMPT_ECHO_OFF if talk.prompts == Prompts::None && wants_password.is_none() => wants_password = Some(index),
                _ => {
                    talk.prompts = match talk.prompts {
                        Prompts::None | Prompts::Unanswerable => Prompts::Unanswerable,
                        Prompts::Password | Prompts::PasswordAndMore => Prompts::PasswordAndMore,
                    };
                    talk.hear(message.msg);
                    return None;
                }
            }
        }

        // 2. Answer, in memory that the module will give back to free().
        let answers = Responses::allocate(count)?;
        if let Some(index) = wants_password {
            answers.put(index, talk.password.take()?)?;
            talk.prompts = Prompts::Password;
        }
        // SAFETY: as above; ownership of the array goes to the caller.
        unsafe { responses.write(answers.into_raw()) };
        Some(())
    }));
    match talked {
        Ok(Some(())) => ffi::PAM_SUCCESS,
        Ok(None) | Err(_) => ffi::PAM_CONV_ERR,
    }
}

impl Talk {
    fn hear(&mut self, text: *const c_char) {
        if text.is_null() || self.said.len() >= TEXT_LIMIT {
            return;
        }
        // SAFETY: libpam's contract: a text that is not null is a C string, alive during this call.
        let text = unsafe { CStr::from_ptr(text) }.to_bytes();
        if !self.said.is_empty() {
            self.said.extend_from_slice(b" | ");
        }
        self.said.extend(text.iter().take(TEXT_LIMIT - self.said.len().min(TEXT_LIMIT)));
    }
}

/// A zeroed C array of responses. Until it is handed over, dropping it frees what it holds.
struct Responses {
    array: NonNull<ffi::pam_response>,
    count: usize,
}

impl Responses {
    fn allocate(count: usize) -> Option<Self> {
        // SAFETY: calloc checks the product itself and returns null or zeroed memory of that size, and
        // all zeroes is a valid pam_response (no text, code 0).
        let array = unsafe { libc::calloc(count, size_of::<ffi::pam_response>()) };
        Some(Self { array: NonNull::new(array.cast())?, count })
    }

    /// Puts a C copy of `secret` at `index`; the module wipes and frees it.
    fn put(&self, index: usize, secret: Zeroizing<Vec<u8>>) -> Option<()> {
        if index >= self.count {
            return None;
        }
        // SAFETY: as in `allocate`; the extra byte stays zero and ends the C string.
        let copy = unsafe { libc::calloc(secret.len().checked_add(1)?, 1) };
        let copy = NonNull::new(copy.cast::<u8>())?;
        // SAFETY: both are valid for `secret.len()` bytes, and fresh memory overlaps nothing.
        unsafe { ptr::copy_nonoverlapping(secret.as_ptr(), copy.as_ptr(), secret.len()) };
        // SAFETY: index < count, so the element lies inside the array.
        let mut response = unsafe { self.array.add(index) };
        // SAFETY: the element is initialised and only this function has a pointer to it.
        unsafe { response.as_mut() }.resp = copy.as_ptr().cast();
        Some(())
    }

    fn into_raw(self) -> *mut ffi::pam_response {
        let array = self.array.as_ptr();
        std::mem::forget(self);
        array
    }
}

impl Drop for Responses {
    /// Reached only before `put` has succeeded, so there is no text to free.
    fn drop(&mut self) {
        // SAFETY: the array comes from calloc and nobody else has it.
        unsafe { libc::free(self.array.as_ptr().cast()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> Talk {
        Talk { password: Some(Zeroizing::new(b"secret".to_vec())), prompts: Prompts::None, said: Vec::new() }
    }

    /// Calls the conversation function as libpam does and gives back code and texts.
    fn say(talk: &mut Talk, messages: &[(c_int, Option<&CStr>)]) -> (c_int, Vec<Option<CString>>) {
        let messages: Vec<_> = messages
            .iter()
            .map(|(style, text)| ffi::pam_message { msg_style: *style, msg: text.map_or(ptr::null(), CStr::as_ptr) })
            .collect();
        let mut pointers: Vec<*const ffi::pam_message> = messages.iter().map(ptr::from_ref).collect();
        let mut answers = ptr::null_mut();
        let count = c_int::try_from(pointers.len()).unwrap();
        // SAFETY: arguments as libpam would pass them.
        let code = unsafe { converse(count, pointers.as_mut_ptr(), &raw mut answers, ptr::from_mut(talk).cast()) };
        if answers.is_null() {
            return (code, Vec::new());
        }
        let texts = (0..messages.len())
            .map(|index| {
                // SAFETY: the function returned an array of that many responses.
                let response = unsafe { answers.add(index) };
                // SAFETY: the element is initialised.
                let text = unsafe { response.read() }.resp;
                // SAFETY: a text that is not null is a C string from calloc.
                let copy = (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_owned());
                // SAFETY: as above; free takes null too.
                unsafe { libc::free(text.cast()) };
                copy
            })
            .collect();
        // SAFETY: the array comes from calloc.
        unsafe { libc::free(answers.cast()) };
        (code, texts)
    }

    #[test]
    fn one_hidden_prompt_gets_the_password_and_the_next_fails() {
        let mut talk = talk();

        let first = say(&mut talk, &[(ffi::PAM_PROMPT_ECHO_OFF, Some(c"Password: "))]);
        let second = say(&mut talk, &[(ffi::PAM_PROMPT_ECHO_OFF, Some(c"New password: "))]);

        assert_eq!(first, (ffi::PAM_SUCCESS, vec![Some(c"secret".to_owned())]));
        assert_eq!(second, (ffi::PAM_CONV_ERR, vec![]));
        assert_eq!(talk.prompts, Prompts::PasswordAndMore);
        assert_eq!(talk.said, b"New password: ");
    }

    #[test]
    fn two_hidden_prompts_at_once_get_nothing() {
        let mut talk = talk();
        let prompt = (ffi::PAM_PROMPT_ECHO_OFF, Some(c"Password: "));

        assert_eq!(say(&mut talk, &[prompt, prompt]), (ffi::PAM_CONV_ERR, vec![]));
        assert_eq!(talk.prompts, Prompts::Unanswerable);
    }

    #[test]
    fn visible_and_unknown_prompts_fail() {
        for style in [ffi::PAM_PROMPT_ECHO_ON, ffi::PAM_BINARY_PROMPT, 0, -1, 99] {
            let mut talk = talk();

            assert_eq!(say(&mut talk, &[(style, Some(c"?"))]), (ffi::PAM_CONV_ERR, vec![]));
            assert_eq!(talk.prompts, Prompts::Unanswerable);
        }
    }

    #[test]
    fn after_a_prompt_that_was_not_answered_the_password_is_not_handed_out() {
        let mut talk = talk();

        say(&mut talk, &[(ffi::PAM_PROMPT_ECHO_ON, Some(c"Code: "))]);

        assert_eq!(say(&mut talk, &[(ffi::PAM_PROMPT_ECHO_OFF, Some(c"Password: "))]), (ffi::PAM_CONV_ERR, vec![]));
        assert_eq!(talk.prompts, Prompts::Unanswerable);
    }

    #[test]
    fn texts_are_kept_within_bounds_and_answered_with_nothing() {
        let mut talk = talk();
        let huge = CString::new(vec![b'x'; 1_000_000]).unwrap();

        let answer =
            say(&mut talk, &[(ffi::PAM_TEXT_INFO, Some(c"a\r\nb")), (ffi::PAM_ERROR_MSG, None), (ffi::PAM_ERROR_MSG, Some(&huge))]);

        assert_eq!(answer, (ffi::PAM_SUCCESS, vec![None, None, None]));
        assert!(talk.said.starts_with(b"a\r\nb | xxx"));
        assert!(talk.said.len() <= TEXT_LIMIT);
        for _ in 0..1000 {
            say(&mut talk, &[(ffi::PAM_TEXT_INFO, Some(c"line"))]);
        }
        assert!(talk.said.len() <= TEXT_LIMIT + 3);
    }

    #[test]
    fn impossible_counts_fail() {
        let mut talk = talk();
        let mut answers = ptr::null_mut();
        let mut none = [ptr::null(); 1];
        for count in [-1, 0, 33] {
            // SAFETY: the count is refused before a message is read.
            let code = unsafe { converse(count, none.as_mut_ptr(), &raw mut answers, ptr::from_mut(&mut talk).cast()) };
            assert_eq!(code, ffi::PAM_CONV_ERR);
        }
        // SAFETY: one null message, as a broken module might pass.
        let code = unsafe { converse(1, none.as_mut_ptr(), &raw mut answers, ptr::from_mut(&mut talk).cast()) };
        assert_eq!(code, ffi::PAM_CONV_ERR);
    }
}
