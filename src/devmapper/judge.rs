//! Judging one device's file: what it says about itself and what the other files say. Nothing is read or changed.

use super::devices::DeviceId;
use super::record::{Device, in_stage};
use super::store::Contents;
use crate::driver::{Access, Flaw, Severity};
use crate::error::Error;
use std::collections::{HashMap, HashSet};

pub(super) const ANEW: &str = "remove the layer and make it anew (an image layer: pull its image again)";

/// What the files say together.
pub(super) struct Files {
    claims: HashMap<DeviceId, usize>,
    names: HashSet<String>,
    parents: HashSet<String>,
    /// Another process may be at work on any of them.
    in_use: bool,
}

impl Files {
    pub(super) fn of(contents: &Contents, in_use: bool) -> Files {
        let mut claims = HashMap::new();
        for device in &contents.devices {
            *claims.entry(device.device_id).or_default() += 1;
        }
        let live = || contents.devices.iter().filter(|device| !is_deleted(device));
        let damaged = contents.damaged.iter().map(|(name, _)| name.clone());
        let names = live().map(|device| device.hash.clone()).chain(damaged).collect();
        let parents = live().map(|device| device.parent.clone()).collect();
        Files { claims, names, parents, in_use }
    }

    /// Whether the file of another layer names the same thin device. Of a driver at work its table tells: its files change names.
    pub(super) fn is_claimed_twice(&self, device: &Device) -> bool {
        self.claims.get(&device.device_id).is_some_and(|claims| *claims > 1)
    }

    /// All that is wrong with a layer as far as the files tell.
    pub(super) fn judge(&self, device: &Device, is_claimed_twice: bool) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        if is_claimed_twice {
            let what = format!("the file of another layer claims its thin device {} as well", device.device_id);
            let remedy =
                "find out which of the two metadata files is a copy, and remove that layer: the device stays with the other";
            flaws.push(Flaw::new(Severity::Hand, what, remedy).blocking());
        }
        if device.incomplete {
            flaws.push(self.incomplete(device));
        }
        if !device.parent.is_empty() && !self.names.contains(&device.parent) {
            let what = format!("the layer that it was made from, '{}', is no more", device.parent);
            let remedy = "none is needed: it has all its content; to export what it changed, name another ancestor";
            flaws.push(Flaw::new(Severity::Note, what, remedy));
        }
        flaws
    }

    fn incomplete(&self, device: &Device) -> Flaw {
        if self.in_use {
            let what = "something is being unpacked into it, or that was interrupted: the process that uses the store knows";
            return Flaw::new(Severity::Busy, what, "check again later, or with that process's driver").blocking();
        }
        if !device.unfilled {
            let what = "filling or growing it was interrupted: its content cannot be trusted";
            return Flaw::new(Severity::Loss, what, ANEW).blocking();
        }
        let what = "the first unpacking into it was interrupted";
        if self.parents.contains(&device.hash) {
            return Flaw::new(Severity::Hand, what, ANEW).blocking();
        }
        Flaw::new(Severity::Note, what, "none is needed: the next start removes it, or who pulls it again replaces it")
            .blocking()
    }
}

/// Whether a file is about no layer any more, or not yet.
pub(super) fn is_deleted(device: &Device) -> bool {
    device.deleted || in_stage(&device.hash)
}

/// A file that cannot be read.
pub(super) fn damaged(why: &Error) -> Flaw {
    let what = format!("its metadata file cannot be read: {}", why.message());
    let remedy = "restore the file from a backup (its device is still in the pool); else remove the layer, which moves the file to metadata-corrupt";
    Flaw::new(Severity::Hand, what, remedy).blocking()
}

pub(super) fn access(device: &Device) -> Access {
    if device.read_only { Access::ReadOnly } else { Access::ReadWrite }
}
