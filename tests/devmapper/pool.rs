//! Thin pools made without the driver, as an administrator's LVM would.

#![allow(dead_code)] // each test binary uses a part of it

use super::ground::output;
use std::path::Path;

/// A pool on two loop files, by name. It stays until [`ForeignPool::remove`].
pub struct ForeignPool {
    pub name: String,
    loops: [String; 2],
}

impl ForeignPool {
    pub fn new(dir: &Path, name: &str) -> ForeignPool {
        ForeignPool::with_blocks(dir, name, "512")
    }

    /// On disks with logical blocks of so many bytes.
    pub fn with_blocks(dir: &Path, name: &str, bytes: &str) -> ForeignPool {
        let loops = [("meta", 16 << 20), ("data", 1 << 30)].map(|(part, size)| {
            let file = dir.join(format!("{name}-{part}"));
            std::fs::File::create(&file).unwrap().set_len(size).unwrap();
            output("losetup", &["-f", "--show", "-b", bytes, file.to_str().unwrap()]).trim().to_owned()
        });
        let table = format!("0 {} thin-pool {} {} 128 1024", (1_u64 << 30) / 512, loops[0], loops[1]);
        output("dmsetup", &["create", name, "--table", &table]);
        ForeignPool { name: name.to_owned(), loops }
    }

    pub fn message(&self, text: &str) {
        output("dmsetup", &["message", &self.name, "0", text]);
    }

    /// Used data blocks, as `used/total`.
    pub fn data(&self) -> String {
        output("dmsetup", &["status", &self.name]).split(' ').nth(5).unwrap().to_owned()
    }

    pub fn transaction(&self) -> String {
        output("dmsetup", &["status", &self.name]).split(' ').nth(3).unwrap().to_owned()
    }

    /// Removes the pool; its metadata must be sound.
    pub fn remove(self) {
        output("dmsetup", &["remove", &self.name]);
        output("thin_check", &[&self.loops[0]]);
        for device in &self.loops {
            output("losetup", &["-d", device]);
        }
    }
}
