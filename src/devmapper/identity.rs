//! What a device is: its name, and the whole of its table line. Nothing is adopted, resized or taken away by its name alone.
//!
//! A name is `container-<major>:<minor>-<inode>-<layer id>`, numbers of the driver's home directory. A table line has three parts:
//! the pool (by its device number, since a name may come to mean another pool), the thin device's id in it, and the length.
//! Whether the *pool* is the one that belongs to this home is told by the UUID of its base device ([`super::base`]), which all
//! layers inherit.

use super::devices::DeviceId;
use super::record::{Device, in_stage};
use crate::sys::dm::Target;
use crate::sys::fs::Stat;
use crate::sys::process::device_numbers;
use std::path::PathBuf;

/// Longest device name: `DM_NAME_LEN` of `linux/dm-ioctl.h` less the NUL.
const MAX_NAME: usize = 127;
/// `linux/types.h`: a sector, the unit of device-mapper's tables, bytes.
pub(super) const SECTOR: u64 = 512;

pub(super) struct Names {
    /// With the dash at its end, so that the devices of home 12 are not taken for those of home 123.
    prefix: String,
    /// Device-mapper name of the thin pool.
    pub(super) pool: String,
}

/// The beginning of the names of all devices of the driver's home.
pub(super) fn prefix(home: &Stat) -> String {
    let (major, minor) = device_numbers(home.device);
    // The C module keeps 32 bits of the inode number.
    format!("container-{major}:{minor}-{}-", home.inode & 0xffff_ffff)
}

impl Names {
    pub(super) fn new(prefix: String, pool: String) -> Names {
        Names { prefix, pool }
    }

    /// The device of a layer. An id too long for a device name, which the C module could not have, gets its number instead;
    /// no layer id can contain the `@`.
    pub(super) fn device(&self, layer: &str, id: DeviceId) -> String {
        let name = format!("{}{layer}", self.prefix);
        if name.len() <= MAX_NAME && !in_stage(layer) { name } else { format!("{}@{id}", self.prefix) }
    }

    /// The device through which a thin device is looked at that is not trusted yet.
    pub(super) fn look(&self, id: DeviceId) -> String {
        format!("{}@look-{id}", self.prefix)
    }

    /// Whether that is what a device is for.
    pub(super) fn is_look(&self, device: &str) -> bool {
        device.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with("@look-"))
    }

    /// Whether a device has a name of this home, and is not the pool.
    pub(super) fn is_ours(&self, device: &str) -> bool {
        device != self.pool && device.starts_with(&self.prefix)
    }
}

/// The name of the pool on loop files. No layer id can contain the `@`.
pub(super) fn loop_pool(prefix: &str) -> String {
    format!("{prefix}@pool")
}

/// The node of a device.
pub(super) fn node(device: &str) -> PathBuf {
    PathBuf::from("/dev/mapper").join(device)
}

/// A device number as tables have it.
pub(super) fn number(device: u64) -> String {
    let (major, minor) = device_numbers(device);
    format!("{major}:{minor}")
}

/// The table line of a device, in the pool of this number.
pub(super) fn table(pool: &str, device: &Device) -> Target {
    Target { kind: "thin".to_owned(), sectors: device.size / SECTOR, text: format!("{pool} {}", device.device_id) }
}

/// How an active device compares with what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// Pool, id and length.
    Same,
    /// Pool and id; it has fewer sectors.
    Shorter,
    /// Pool and id; it has more sectors.
    Longer,
    /// Something else with this name.
    Other,
}

/// The rule: only what is the same in pool *and* id is the device; what differs in length has to get the right one before use.
pub(super) fn compare(found: &Target, expected: &Target) -> Likeness {
    if found.kind != expected.kind || found.text.trim_end() != expected.text {
        return Likeness::Other;
    }
    match found.sectors.cmp(&expected.sectors) {
        std::cmp::Ordering::Equal => Likeness::Same,
        std::cmp::Ordering::Less => Likeness::Shorter,
        std::cmp::Ordering::Greater => Likeness::Longer,
    }
}

/// Whether a table line is that of any thin device in the pool of this number.
pub(super) fn is_in_pool(found: &Target, pool: &str) -> bool {
    found.kind == "thin" && found.text.split(' ').next() == Some(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_c_module() {
        let names = Names::new("container-8:1-12-".to_owned(), "container-8:1-12-@pool".to_owned());
        let id = DeviceId::try_from(7).unwrap();
        assert_eq!(names.device("base", id), "container-8:1-12-base");
        assert_eq!(names.device(&"a".repeat(110), id).len(), MAX_NAME);
        assert_eq!(names.device(&"a".repeat(111), id), "container-8:1-12-@7");
        assert!(names.is_ours("container-8:1-12-x") && !names.is_ours("container-8:1-123-x"));
        assert!(!names.is_ours(&names.pool));
    }

    #[test]
    fn a_device_is_its_whole_table_line() {
        let device = Device { device_id: DeviceId::try_from(7).unwrap(), size: 1 << 20, ..Device::default() };
        let expected = table("253:1", &device);
        let found = |text: &str, sectors| Target { kind: "thin".to_owned(), sectors, text: text.to_owned() };
        assert_eq!(compare(&found("253:1 7 ", 2048), &expected), Likeness::Same);
        assert_eq!(compare(&found("253:1 7", 2047), &expected), Likeness::Shorter);
        assert_eq!(compare(&found("253:1 7", 2049), &expected), Likeness::Longer);
        for other in ["253:2 7", "253:1 8", "253:1 77", "253:1 7 7:3", "253:11 7"] {
            assert_eq!(compare(&found(other, 2048), &expected), Likeness::Other, "{other}");
        }
        assert_eq!(compare(&Target { kind: "linear".to_owned(), ..expected.clone() }, &expected), Likeness::Other);
        assert!(is_in_pool(&expected, "253:1") && !is_in_pool(&expected, "253:11") && !is_in_pool(&expected, "25"));
    }
}
