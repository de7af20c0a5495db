//! Undoing: what a step changed is recorded as it is changed, and taken back in reverse order if a later step fails.

use crate::error::{Error, Result};
use crate::log;

/// How to take back one change.
type Step<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// What was changed so far.
pub struct Undo<'a>(Vec<Step<'a>>);

impl<'a> Undo<'a> {
    /// Records how to take a change back that was just made.
    pub fn with(&mut self, step: impl FnOnce() -> Result<()> + 'a) {
        self.0.push(Box::new(step));
    }

    /// What was recorded stays done, whatever fails later.
    pub fn keep(&mut self) {
        self.0.clear();
    }

    /// The earlier steps rely on the later ones being taken back: the first that cannot be ends it.
    fn roll_back(&mut self) -> Result<()> {
        while let Some(step) = self.0.pop() {
            if let Err(e) = step() {
                let left = self.0.len();
                self.0.clear();
                return Err(if left == 0 {
                    e
                } else {
                    e.context(format!("{left} earlier steps are not taken back either"))
                });
            }
        }
        Ok(())
    }
}

/// Also when a step panics.
impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.roll_back() {
            log::warn!("taking back what was done before a panic: {error}");
        }
    }
}

/// Does all of `work` or, if it fails, nothing: takes back what it recorded, the last change first, up to one that cannot be taken
/// back. The error then keeps also the cause of that.
///
/// # Errors
/// Those of `work`.
pub fn all_or_nothing<'a, T>(work: impl FnOnce(&mut Undo<'a>) -> Result<T>) -> Result<T> {
    let mut undo = Undo(Vec::new());
    let done = work(&mut undo);
    match done {
        Ok(value) => {
            undo.keep();
            Ok(value)
        }
        Err(error) => Err(undo.roll_back().err().into_iter().fold(error, Error::and_also)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use std::cell::RefCell;

    fn three(log: &RefCell<Vec<u32>>, fail: bool, stuck: u32) -> Result<()> {
        all_or_nothing(|undo| {
            for i in 0..3 {
                undo.with(move || {
                    log.borrow_mut().push(i);
                    if i == stuck { Err(Error::new(Kind::Busy, "it stays")) } else { Ok(()) }
                });
            }
            if fail { Err(Error::new(Kind::NoSpace, "full")) } else { Ok(()) }
        })
    }

    #[test]
    fn a_failure_takes_everything_back_the_last_first() {
        let log = RefCell::default();
        assert_eq!(three(&log, true, 9).unwrap_err().to_string(), "full");
        assert_eq!(*log.borrow(), [2, 1, 0]);
    }

    #[test]
    fn what_cannot_be_taken_back_ends_it_and_both_causes_are_kept() {
        let log = RefCell::default();
        let error = three(&log, true, 1).unwrap_err();
        assert_eq!(*log.borrow(), [2, 1], "the first step relies on the second's being undone");
        assert!(error.kind() == Kind::NoSpace && error.to_string().contains("it stays"), "{error}");
    }

    #[test]
    fn success_takes_nothing_back() {
        let log = RefCell::default();
        three(&log, false, 9).unwrap();
        assert!(log.borrow().is_empty());
    }

    #[test]
    fn a_panic_takes_everything_back() {
        let log = RefCell::new(Vec::new());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            all_or_nothing(|undo| -> Result<()> {
                undo.with(|| {
                    log.borrow_mut().push(7);
                    Ok(())
                });
                panic!("deliberate")
            })
        }));
        assert!(panicked.is_err() && *log.borrow() == [7]);
    }
}
