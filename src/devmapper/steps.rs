//! Every change that the driver makes to the pool or to its files is one step, which an observer can watch.
//!
//! Tests use it to count, to fail and to crash at each step; the driver itself never does.

use crate::error::Result;
use std::sync::Arc;

/// When an observer is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The step is about to be made.
    Before,
    /// The step was made and succeeded.
    After,
}

/// One request to the kernel's device-mapper, one write of a metadata file, or one program run.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What is done: a device-mapper request (`create`, `message create_snap 2 1`), `save`, `forget`, `fork`.
    pub what: &'a str,
    /// The device or file that it is done to.
    pub on: &'a str,
    /// Before or after.
    pub moment: Moment,
}

/// Is told of each step, on the thread that makes it. An error before a step makes the step fail; after it, it is ignored.
pub type Observer = dyn Fn(&Step<'_>) -> Result<()> + Send + Sync;

/// Makes steps.
#[derive(Clone, Default)]
pub(super) struct Steps(pub(super) Option<Arc<Observer>>);

impl Steps {
    pub(super) fn make<T>(&self, what: &str, on: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(observer) = &self.0 else { return step() };
        observer(&Step { what, on, moment: Moment::Before })?;
        let made = step()?;
        let _ = observer(&Step { what, on, moment: Moment::After });
        Ok(made)
    }
}
