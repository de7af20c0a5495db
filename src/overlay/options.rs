//! The options of the overlay driver: `name=value`, names in any case, the last of several wins.

use crate::archive::{self, IdShift};
use crate::error::{Context, Error, Kind, Result};
use crate::options::{boolean, size, split};
use crate::quota::{Limits, check_size};

/// The driver's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Default limits of a read-write layer.
    pub limits: Limits,
    /// Leave the home directory's mount propagation alone.
    pub skip_mount_home: bool,
    /// Mount options for layers that are mounted without any of their own.
    pub mountopt: String,
    /// Force layers to disk, so that a power cut leaves them whole or absent.
    pub durable: bool,
    /// What becomes of layers that were mounted `volatile` when the machine went down.
    pub volatile: Volatile,
    /// Owner of the containers' root, and how far the ids of layer content are shifted.
    pub remap: Option<IdShift>,
    /// Bounds on what a layer archive may ask for.
    pub archive: archive::Limits,
}

/// What becomes of a layer that may be damaged because it was mounted `volatile`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Volatile {
    /// It is not mounted.
    #[default]
    Refuse,
    /// It is mounted as it is.
    Accept,
    /// It is mounted without what was written into it.
    Discard,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            limits: Limits::default(),
            skip_mount_home: false,
            mountopt: String::new(),
            durable: true,
            volatile: Volatile::default(),
            remap: None,
            archive: archive::Limits::default(),
        }
    }
}

impl Options {
    /// Reads the options of the daemon's configuration.
    ///
    /// # Errors
    /// An option is unknown or has a bad value.
    pub fn parse(options: &[&str]) -> Result<Options> {
        let mut parsed = Options::default();
        for option in options {
            let (name, value) = split(option)?;
            parsed.set(name, value).context(|| format!("overlay option '{}'", option.escape_debug()))?;
        }
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name.to_ascii_lowercase().as_str() {
            "overlay2.size" | "overlay2.basesize" => self.limits.bytes = check_size(size(value)?)?,
            "overlay2.inodes" => self.limits.inodes = inodes(value)?,
            // No kernel version is checked; the option is in every shipped configuration.
            "overlay2.override_kernel_check" => drop(boolean(value)?),
            "overlay2.skip_mount_home" => self.skip_mount_home = boolean(value)?,
            "overlay2.mountopt" => value.clone_into(&mut self.mountopt),
            "overlay2.sync" => self.durable = durable(value)?,
            "overlay2.volatile" => self.volatile = volatile(value)?,
            "overlay2.userns_remap" => self.remap = Some(remap(value)?),
            archive::MAX_WINDOW => self.archive.set_window(size(value)?)?,
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

fn unknown() -> Error {
    Error::new(Kind::Invalid, "there is no such option").hint(
        "known are overlay2.size, overlay2.basesize, overlay2.inodes, overlay2.override_kernel_check, \
         overlay2.skip_mount_home, overlay2.mountopt, overlay2.sync, overlay2.volatile, overlay2.userns_remap and archive.max_window",
    )
}

fn inodes(value: &str) -> Result<u64> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { value.parse().ok() } else { None };
    number.ok_or_else(|| Error::new(Kind::Invalid, "not a number of inodes"))
}

fn durable(value: &str) -> Result<bool> {
    match value {
        "full" => Ok(true),
        "none" => Ok(false),
        _ => Err(Error::new(Kind::Invalid, "not a way to sync").hint("use full (the default) or none")),
    }
}

fn volatile(value: &str) -> Result<Volatile> {
    match value {
        "refuse" => Ok(Volatile::Refuse),
        "accept" => Ok(Volatile::Accept),
        "discard" => Ok(Volatile::Discard),
        _ => Err(Error::new(Kind::Invalid, "not a way to treat volatile layers")
            .hint("use refuse (the default), accept or discard")),
    }
}

/// `uid:gid:size`, as the daemon's `userns-remap` setting.
fn remap(value: &str) -> Result<IdShift> {
    let refuse = || Error::new(Kind::Invalid, "not of the form uid:gid:size with ids below 2^32 - 1 and a size above 0");
    let fields: Option<Vec<u32>> = value
        .split(':')
        .map(|field| if field.bytes().all(|b| b.is_ascii_digit()) { field.parse().ok() } else { None })
        .collect();
    match fields.as_deref() {
        // The kernel's (uid_t)-1 is no id, and the last one of the range must lie below it.
        Some(&[uid, gid, size]) if size > 0 && uid.max(gid).checked_add(size).is_some() => Ok(IdShift { uid, gid, size }),
        _ => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_case_and_the_last_one_wins() {
        let options = ["overlay2.size=1G", "Overlay2.BaseSize=8k", "overlay2.mountopt=a=b,c", "overlay2.sync=none"];
        let parsed = Options::parse(&options).unwrap();
        assert_eq!((parsed.limits.bytes, parsed.mountopt.as_str(), parsed.durable), (8192, "a=b,c", false));
        let shipped = Options::parse(&["overlay2.override_kernel_check=true"]).unwrap();
        assert_eq!(shipped, Options::default());
        assert_eq!(Options::parse(&["archive.max_window=256M"]).unwrap().archive.window, 256 << 20);
    }

    #[test]
    fn userns_remap_takes_three_numbers_in_range() {
        let parse = |value: &str| Options::parse(&[&format!("overlay2.userns_remap={value}")]);
        assert_eq!(parse("100000:200000:65536").unwrap().remap, Some(IdShift { uid: 100_000, gid: 200_000, size: 65536 }));
        for bad in ["", "1:2", "1:2:3:4", "1:2:0", "-1:2:3", "+1:2:3", "4294967295:0:1", "0:4294967290:6", "a:b:c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_options_are_named() {
        for bad in [
            "x",
            "overlay2.nope=1",
            "overlay2.size=",
            "overlay2.skip_mount_home=maybe",
            "overlay2.sync=sometimes",
            "overlay2.volatile=",
            "=1",
            "archive.max_window=3G",
            "archive.max_window=1K",
        ] {
            let error = Options::parse(&[bad]).unwrap_err();
            assert!(error.kind() == Kind::Invalid && error.to_string().contains(bad), "{error}");
        }
    }
}
