//! Names of device-mapper devices: `container-<major>:<minor>-<inode>-<layer id>`, numbers of the driver's home directory.

use super::ids::DeviceId;
use crate::sys::fs::Stat;
use crate::sys::process::device_numbers;
use std::path::PathBuf;

/// Longest device name: `DM_NAME_LEN` of `linux/dm-ioctl.h` less the NUL.
const MAX_NAME: usize = 127;

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
        if name.len() <= MAX_NAME { name } else { format!("{}@{id}", self.prefix) }
    }

    /// Whether a device is one of our layers (or the base), and not the pool.
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
}
