//! The C interface. Nothing is decided here: each export turns C arguments into Rust values, makes one call into
//! [`crate::graph`], and turns the outcome back. All of them go through [`guard`].
#![allow(unsafe_code)]
// The contract of each export is its text in the header, and "as described there" all the safety there is.
#![allow(clippy::missing_safety_doc)]

mod additions;
mod document;
mod input;
mod output;
mod report;
mod requests;
mod transfer;
mod types;

pub use additions::*;
pub use document::*;
pub use transfer::*;
pub use types::*;

use crate::error::{Error, Kind, Result};
use crate::graph::Graph;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The one driver of the process.
static GRAPH: Graph = Graph::new();

/// Runs the body of an export. A failure, and also a panic (which must not reach C), becomes `failure` for the caller, errno,
/// the thread's last error and one line in the log.
fn guard<T>(export: &'static str, failure: T, body: impl FnOnce() -> Result<T>) -> T {
    // Unwinding leaves nothing half done that a later call would see: the graph counts its users in a destructor, and the
    // drivers keep their state on disk.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            report::failed(export, &error);
            failure
        }
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            let what = format!("this is a defect of libgraphdriver: {}", text.unwrap_or("panic"));
            report::failed(export, &Error::new(Kind::Internal, what));
            failure
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::cmem;

    #[test]
    fn a_panic_becomes_an_error_and_the_next_call_works() {
        let result = guard("graphdriver_test", -1, || panic!("deliberate"));
        assert_eq!((result, cmem::errno()), (-1, 5));
        // SAFETY: the text is valid until the next failure on this thread.
        let text = unsafe { std::ffi::CStr::from_ptr(additions::graphdriver_last_error()) };
        assert!(text.to_str().unwrap().contains("deliberate"));
        assert_eq!(guard("graphdriver_test", -1, || Ok(0)), 0);
    }
}
