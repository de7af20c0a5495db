//! The device-mapper of [`crate::sys::dm`], each request a step that can be watched.
//!
//! Every change that the driver makes to the pool or to its files is one step. Tests use an observer to count, to fail and to
//! crash at each; the driver itself never does.

use crate::error::Result;
use crate::sys::dm::{Info, Ioctls, Settle, Target, Writes};
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
    /// What is done: a device-mapper request (`create`, `message create_snap 2 1`), `begin` and `end` of the transaction file,
    /// `save`, `publish` and `forget` of a device's file, `sync`, `fork`.
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

/// Device-mapper.
pub(super) struct Kernel {
    dm: Box<dyn Ioctls>,
    pub(super) steps: Steps,
}

impl Kernel {
    pub(super) fn new(dm: Box<dyn Ioctls>, steps: Steps) -> Kernel {
        Kernel { dm, steps }
    }

    pub(super) fn version(&self) -> Result<(u32, u32, u32)> {
        self.steps.make("version", "", || self.dm.version())
    }

    pub(super) fn names(&self) -> Result<Vec<String>> {
        self.steps.make("names", "", || self.dm.names())
    }

    pub(super) fn info(&self, name: &str) -> Result<Option<Info>> {
        self.steps.make("info", name, || self.dm.info(name))
    }

    pub(super) fn create(&self, name: &str) -> Result<()> {
        self.steps.make("create", name, || self.dm.create(name))
    }

    pub(super) fn load(&self, name: &str, target: &Target, writes: Writes) -> Result<()> {
        self.steps.make("load", name, || self.dm.load(name, target, writes))
    }

    pub(super) fn suspend(&self, name: &str) -> Result<()> {
        self.steps.make("suspend", name, || self.dm.suspend(name))
    }

    pub(super) fn resume(&self, name: &str, settle: Settle) -> Result<()> {
        self.steps.make("resume", name, || self.dm.resume(name, settle))
    }

    pub(super) fn remove(&self, name: &str, deferred: bool) -> Result<bool> {
        self.steps.make("remove", name, || self.dm.remove(name, deferred))
    }

    pub(super) fn status(&self, name: &str) -> Result<Option<Target>> {
        self.steps.make("status", name, || self.dm.status(name))
    }

    pub(super) fn table(&self, name: &str) -> Result<Option<Target>> {
        self.steps.make("table", name, || self.dm.table(name))
    }

    pub(super) fn message(&self, name: &str, text: &str) -> Result<()> {
        self.steps.make(&format!("message {text}"), name, || self.dm.message(name, text))
    }
}
