//! The device-mapper of [`crate::sys::dm`], each request a [step](super::steps).

use super::steps::Steps;
use crate::error::Result;
use crate::sys::dm::{Info, Ioctls, Settle, Target};

pub(super) struct Kernel {
    dm: Box<dyn Ioctls>,
    steps: Steps,
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

    pub(super) fn load(&self, name: &str, target: &Target) -> Result<()> {
        self.steps.make("load", name, || self.dm.load(name, target))
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
