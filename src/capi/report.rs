//! How failures reach C: errno, the thread's last error, the error callback and the log.

use super::types::{graphdriver_error_func_t, graphdriver_log_func_t};
use crate::error::Error;
use crate::log::{self, Level};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};

type ErrorFunc = extern "C" fn(message: *const c_char, user: *mut c_void);

thread_local! {
    static LAST: RefCell<Rc<CStr>> = RefCell::new(Rc::from(c""));
}

static ON_ERROR: RwLock<Option<(ErrorFunc, Opaque)>> = RwLock::new(None);

/// A pointer of the host's that is only ever handed back to it.
#[derive(Clone, Copy)]
struct Opaque(*mut c_void);

// SAFETY: this library never looks behind the pointer; that the callback may be called from any thread is documented.
unsafe impl Send for Opaque {}
// SAFETY: as above.
unsafe impl Sync for Opaque {}

impl Opaque {
    /// A method, so that closures capture the whole value and with it its `Send`.
    fn get(self) -> *mut c_void {
        self.0
    }
}

/// A text without what C would take for its end.
fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "\\0")).unwrap_or_default()
}

/// Reports one failure of an export. The callbacks may call the library and fail at it: the text stays that of this failure, for
/// them and afterwards, also behind a pointer that they asked for first.
pub(super) fn failed(export: &str, error: &Error) {
    let text: Rc<CStr> = c_text(&error.message()).into();
    // On a thread that is being torn down there is nobody left to ask for it.
    let remember = || drop(LAST.try_with(|last| last.replace(Rc::clone(&text))));
    remember();
    log::line(Level::Error, format_args!("{export}: {error}"));
    remember();
    let on_error = *ON_ERROR.read().unwrap_or_else(PoisonError::into_inner);
    if let (Some(sentence), Some((callback, user))) = (error.user_message(), on_error) {
        callback(c_text(sentence).as_ptr(), user.get());
    }
    remember();
}

/// The text of the calling thread's last failure.
pub(super) fn last() -> *const c_char {
    const NOTHING: &CStr = c"";
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(NOTHING.as_ptr())
}

pub(super) fn set_error_callback(callback: graphdriver_error_func_t, user: *mut c_void) {
    *ON_ERROR.write().unwrap_or_else(PoisonError::into_inner) = callback.map(|callback| (callback, Opaque(user)));
}

pub(super) fn set_log_callback(callback: graphdriver_log_func_t, user: *mut c_void) {
    let user = Opaque(user);
    log::set_sink(callback.map(|callback| -> Arc<log::Sink> {
        Arc::new(move |level: Level, line: &str| callback(level as i32, c_text(line).as_ptr(), user.get()))
    }));
}
