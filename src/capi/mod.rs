//! The C interface. Nothing is decided here: each export turns C arguments into Rust values, makes one call into
//! [`crate::graph`], and turns the outcome back. All of them go through [`guard`].
#![allow(unsafe_code)]
// The contract of each export is its text in the header, and "as described there" all the safety there is.
#![allow(clippy::missing_safety_doc)]

mod additions;
#[cfg(test)]
mod conversions;
mod document;
mod input;
mod inspection;
mod output;
mod report;
mod requests;
mod transfer;
mod types;

pub use additions::*;
pub use document::*;
pub use inspection::*;
pub use transfer::*;
pub use types::*;

use crate::error::{Error, Kind, Result};
use crate::graph::Graph;
use crate::sys::{cmem, process};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The one driver of the process.
static GRAPH: Graph = Graph::new();

/// Runs the body of an export that answers. A failure, and also a panic (which must not reach C), becomes `failure` for the
/// caller, errno, the thread's last error and one line in the log; after any other answer errno is 0, so that the two can be
/// told apart whatever the answer is.
fn guard<T>(export: &'static str, failure: T, body: impl FnOnce() -> Result<T>) -> T {
    let (value, errno) = match attempt(export, body) {
        Ok(value) => (value, 0),
        Err(error) => (failure, error.errno()),
    };
    cmem::set_errno(errno);
    value
}

/// Runs the body of an export that has no answer, such as one that frees: errno stays as it is, for a caller that frees before
/// it looks at the errno of another call.
fn quiet(export: &'static str, body: impl FnOnce() -> Result<()>) {
    let errno = cmem::errno();
    let _ = attempt(export, body); // reported, as far as there is anything to report
    cmem::set_errno(errno);
}

/// Runs the body of an export as a guest of the host's thread, and reports its failure. Changes errno.
fn attempt<T>(export: &'static str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    process::undisturbed(|| {
        // Unwinding leaves nothing half done that a later call would see: the graph counts its users in a destructor, and the
        // drivers keep their state on disk.
        let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            let what = format!("this is a defect of libgraphdriver: {}", text.unwrap_or("panic"));
            Err(Error::new(Kind::Internal, what))
        });
        outcome.inspect_err(|error| report::failed(export, error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_the_next_call_works() {
        let result = guard("graphdriver_test", -1, || panic!("deliberate"));
        assert_eq!((result, cmem::errno()), (-1, 5));
        // SAFETY: the text is valid until the next failure on this thread.
        let text = unsafe { std::ffi::CStr::from_ptr(additions::graphdriver_last_error()) };
        assert!(text.to_str().unwrap().contains("deliberate"));
        assert_eq!(guard("graphdriver_test", -1, || Ok(0)), 0);
    }

    #[test]
    fn errno_tells_an_answer_from_a_failure_and_freeing_leaves_it() {
        cmem::set_errno(2);
        let answer = guard("graphdriver_test", true, || {
            cmem::set_errno(2); // as a system call on the way to the answer does
            Ok(false)
        });
        assert_eq!((answer, cmem::errno()), (false, 0));
        let failure = guard("graphdriver_test", false, || Err(Error::new(Kind::Busy, "deliberate")));
        assert_eq!((failure, cmem::errno()), (false, 16));
        quiet("graphdriver_test", || {
            cmem::set_errno(0);
            Ok(())
        });
        assert_eq!(cmem::errno(), 16);
    }
}
