//! Device-mapper: the dozen requests that a thin-pool driver makes, as a trait, and the kernel behind it.
//!
//! Most requests go through the `devicemapper` crate. The three that make udev work (suspend, resume and remove) go through
//! [`super::dm_event`], because the crate waits for udev without a bound.

use crate::error::{Error, Result};
use crate::sys::{dm_event, dm_node};
use devicemapper::{DM, DevId, DmError, DmFlags, DmName, DmOptions, errors};
use nix::errno::Errno;

/// What the kernel knows about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// How many have it open: mounts, other devices, programs.
    pub open_count: u32,
    /// I/O is held back.
    pub suspended: bool,
    /// There is a table in force.
    pub active: bool,
    /// It will be removed when the last user closes it.
    pub removal_pending: bool,
    /// Its number, as in `st_rdev`.
    pub device: u64,
}

/// The single target of a device: its type and the text that goes with it (status or table).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// For example `thin-pool`.
    pub kind: String,
    /// Length of the device, sectors of 512 bytes.
    pub sectors: u64,
    /// The status or the table line after the type.
    pub text: String,
}

/// What to do about udev after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Come back when the device's node is in `/dev/mapper`.
    Wait,
    /// Come back at once: the node does not change.
    AtOnce,
}

/// Whether a device can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// It can.
    Allowed,
    /// It cannot, by anybody.
    Refused,
}

/// Device-mapper requests. A device that does not exist is `ENXIO`, a name that is taken `EBUSY`.
pub trait Ioctls: Send + Sync {
    /// Version of the kernel's interface.
    fn version(&self) -> Result<(u32, u32, u32)>;
    /// Names of all devices.
    fn names(&self) -> Result<Vec<String>>;
    /// `None` if there is no such device.
    fn info(&self, name: &str) -> Result<Option<Info>>;
    /// Makes a device without a table.
    fn create(&self, name: &str) -> Result<()>;
    /// Loads a table of one target that starts at sector 0; [`Ioctls::resume`] puts it in force.
    fn load(&self, name: &str, target: &Target, writes: Writes) -> Result<()>;
    /// Writes the filesystem upon it out, freezes it, and holds back I/O.
    fn suspend(&self, name: &str) -> Result<()>;
    /// Lets I/O go on, with the table loaded last.
    fn resume(&self, name: &str, settle: Settle) -> Result<()>;
    /// Removes a device; `deferred`: when its last user closes it. False if there is none.
    fn remove(&self, name: &str, deferred: bool) -> Result<bool>;
    /// What the target says about its state; `None` without a table.
    fn status(&self, name: &str) -> Result<Option<Target>>;
    /// The table in force; `None` without one.
    fn table(&self, name: &str) -> Result<Option<Target>>;
    /// Sends a message to the target at sector 0 (or, with `@`, to the device itself).
    fn message(&self, name: &str, text: &str) -> Result<()>;
}

/// The kernel of this machine.
pub struct Kernel(DM);

impl Kernel {
    /// Opens the control node.
    pub fn open() -> Result<Kernel> {
        // The crate tells only the text of this failure, so the node is tried first for its errno.
        let control = "/dev/mapper/control";
        match std::fs::File::open(control) {
            Ok(_) => DM::new().map(Kernel).map_err(|e| failed("open the control node", control, &e).context(e.to_string())),
            Err(e) => Err(Error::io(format!("open {control}"), &e)
                .hint("is the module dm_thin_pool loaded, and is this process root?")),
        }
    }

    fn targets(&self, name: &str, flags: DmFlags, call: &str) -> Result<Option<Target>> {
        let options = DmOptions::default().set_flags(flags);
        let (_, targets) = with_id(name, |id| self.0.table_status(id, options)).map_err(|e| failed(call, name, &e))?;
        Ok(targets.into_iter().next().map(|(_, sectors, kind, text)| Target { kind, sectors, text }))
    }
}

/// The errno within an error of the crate.
fn errno(error: &DmError) -> i32 {
    match error {
        DmError::Core(errors::Error::Ioctl(_, _, _, errno)) => **errno as i32,
        DmError::Core(errors::Error::InvalidArgument(_)) => libc::EINVAL,
        _ => libc::EIO,
    }
}

fn failed(call: &str, name: &str, error: &DmError) -> Error {
    Error::sys(format!("device-mapper: {call} '{name}'"), errno(error))
}

fn with_id<T>(name: &str, call: impl FnOnce(&DevId<'_>) -> Result<T, DmError>) -> Result<T, DmError> {
    call(&DevId::Name(DmName::new(name)?))
}

impl Ioctls for Kernel {
    fn version(&self) -> Result<(u32, u32, u32)> {
        self.0.version().map_err(|e| failed("version", "", &e))
    }

    fn names(&self) -> Result<Vec<String>> {
        let devices = self.0.list_devices().map_err(|e| failed("list devices", "", &e))?;
        Ok(devices.into_iter().map(|(name, _, _)| name.to_string()).collect())
    }

    fn info(&self, name: &str) -> Result<Option<Info>> {
        let info = match with_id(name, |id| self.0.device_info(id)) {
            Err(e) if errno(&e) == libc::ENXIO => return Ok(None),
            outcome => outcome.map_err(|e| failed("info", name, &e))?,
        };
        let flags = info.flags();
        Ok(Some(Info {
            open_count: u32::try_from(info.open_count()).unwrap_or(0),
            suspended: flags.contains(DmFlags::DM_SUSPEND),
            active: flags.contains(DmFlags::DM_ACTIVE_PRESENT),
            removal_pending: flags.contains(DmFlags::DM_DEFERRED_REMOVE),
            device: info.device().into(),
        }))
    }

    fn create(&self, name: &str) -> Result<()> {
        let created = DmName::new(name).and_then(|name| self.0.device_create(name, None, DmOptions::default()));
        created.map(drop).map_err(|e| failed("create", name, &e))
    }

    fn load(&self, name: &str, target: &Target, writes: Writes) -> Result<()> {
        let line = [(0, target.sectors, target.kind.clone(), target.text.clone())];
        let flags = if writes == Writes::Refused { DmFlags::DM_READONLY } else { DmFlags::empty() };
        let loaded = with_id(name, |id| self.0.table_load(id, &line, DmOptions::default().set_flags(flags)));
        loaded.map(drop).map_err(|e| failed(&format!("load '{} {}' into", target.kind, target.text), name, &e))
    }

    fn suspend(&self, name: &str) -> Result<()> {
        dm_event::suspend(&self.0, name)
    }

    fn resume(&self, name: &str, settle: Settle) -> Result<()> {
        let device = dm_event::resume(&self.0, name, settle)?;
        if settle == Settle::Wait { dm_node::ensure(name, device) } else { Ok(()) }
    }

    fn remove(&self, name: &str, deferred: bool) -> Result<bool> {
        let removed = dm_event::remove(&self.0, name, deferred)?;
        // The device is gone, whatever becomes of its node: who tried again would find nothing to remove. A node that stays is
        // replaced by the next device of the name, or swept by the next start.
        let _ = dm_node::forget(name);
        Ok(removed)
    }

    fn status(&self, name: &str) -> Result<Option<Target>> {
        // Without NOFLUSH the pool commits its metadata first, so that the numbers are exact.
        self.targets(name, DmFlags::empty(), "status of")
    }

    fn table(&self, name: &str) -> Result<Option<Target>> {
        self.targets(name, DmFlags::DM_STATUS_TABLE, "table of")
    }

    fn message(&self, name: &str, text: &str) -> Result<()> {
        let sent = with_id(name, |id| self.0.target_msg(id, None, text));
        sent.map(drop).map_err(|e| failed(&format!("message '{text}' to"), name, &e))
    }
}

/// Whether the failure is "no such device": it is not active.
pub fn is_gone(error: &Error) -> bool {
    error.errno() == Errno::ENXIO as i32
}

/// Whether the failure is "no data": the pool has no thin device of this id.
pub fn is_unknown_id(error: &Error) -> bool {
    error.errno() == Errno::ENODATA as i32
}

/// Whether the failure is "exists": the pool has a thin device of this id.
pub fn is_taken_id(error: &Error) -> bool {
    error.errno() == Errno::EEXIST as i32
}

/// Whether the failure is "busy".
pub fn is_busy(error: &Error) -> bool {
    error.errno() == Errno::EBUSY as i32
}
