//! The metadata files in `<home>/metadata`: reading, replacing and forgetting them so that a crash leaves the old or the new.

use super::record::{BASE, Device, DeviceSet, Transaction};
use super::steps::Steps;
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::log;
use crate::sys::fs::{self, FileKind};
use std::os::fd::{AsFd, OwnedFd};

const SET: &str = "deviceset-metadata";
const TRANSACTION: &str = "transaction-metadata";
/// Where files go that cannot be read; beside `metadata`, because the C module deletes what it does not know in there.
const CORRUPT: &str = "metadata-corrupt";
/// A metadata file is a few hundred bytes.
const MAX_FILE: usize = 1 << 16;

pub(super) struct Store {
    home: OwnedFd,
    dir: OwnedFd,
    steps: Steps,
}

/// What the directory holds.
#[derive(Default)]
pub(super) struct Contents {
    pub devices: Vec<Device>,
}

impl Store {
    /// Opens the directory, making it if need be.
    pub(super) fn open(home: OwnedFd, steps: Steps) -> Result<Store> {
        let dir = make_dir(&home, "metadata", 0o700)?;
        Ok(Store { home, dir, steps })
    }

    /// Reads all device files. Damaged ones are set aside, files of others are left where they are.
    pub(super) fn scan(&self) -> Result<Contents> {
        let mut names = Vec::new();
        fs::each_entry(&self.dir, |entry| {
            names.push(entry.name);
            Ok(())
        })?;
        let mut contents = Contents::default();
        for name in names {
            let shown = fs::shown(&name);
            match name.to_str() {
                Some(SET | TRANSACTION) => {}
                Some(name) if is_stale_staging(name) => self.sweep(name)?,
                Some(name) if name == BASE || LayerId::parse(name.as_bytes()).is_ok() => {
                    if fs::stat_at(&self.dir, name)?.kind == FileKind::File {
                        contents.devices.extend(self.device_or_set_aside(name)?);
                    }
                }
                _ => log::warn!("devicemapper: '{shown}' in the metadata directory is none of ours; left alone"),
            }
        }
        Ok(contents)
    }

    fn sweep(&self, name: &str) -> Result<()> {
        log::info!("devicemapper: removing '{name}', left by a crash");
        fs::remove_file_at(&self.dir, name)
    }

    fn device_or_set_aside(&self, name: &str) -> Result<Option<Device>> {
        match self.device(name) {
            Err(e) if e.kind() == Kind::Corrupt => self.set_aside(name, &e).map(|()| None),
            outcome => outcome,
        }
    }

    /// Moves a damaged file out of the way. The thin device it stood for keeps its id: the pool refuses to make it again.
    fn set_aside(&self, name: &str, why: &Error) -> Result<()> {
        let corrupt = make_dir(&self.home, CORRUPT, 0o700)?;
        let to = format!("{}-{}", &name[..name.len().min(200)], hex()?);
        log::warn!("devicemapper: METADATA FILE '{name}' IS DAMAGED ({why}); moved to '{CORRUPT}/{to}', its layer is lost");
        fs::rename_at(&self.dir, name, &corrupt, &to)?;
        fs::fsync(&corrupt, CORRUPT)?;
        fs::fsync(&self.dir, "metadata")
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read_at(&self.dir, name, MAX_FILE) {
            Ok(content) => Ok(Some(content)),
            Err(e) if fs::is_absent(&e) => Ok(None),
            Err(e) => Err(e.context("devicemapper metadata")),
        }
    }

    /// The file of one device; `None` if there is none.
    pub(super) fn device(&self, name: &str) -> Result<Option<Device>> {
        let content = self.read(name)?;
        let parsed = content.map(|content| Device::parse(name, &content)).transpose();
        let parsed = parsed.context(|| format!("metadata file '{name}'"))?;
        // A copy under another name must not make two layers of one device: deleting one would destroy the other.
        Ok(parsed.filter(|device| {
            let is_own = device.hash == name;
            if !is_own {
                log::warn!("devicemapper: metadata file '{name}' is about '{}'; ignored", device.hash.escape_debug());
            }
            is_own
        }))
    }

    pub(super) fn save_device(&self, device: &Device) -> Result<()> {
        self.save(&device.hash, &device.text())
    }

    /// Removes a device's file; one that is not there is a success.
    pub(super) fn forget_device(&self, name: &str) -> Result<()> {
        self.forget(name)
    }

    /// What was saved about the whole set; a damaged file is set aside and counts as none.
    pub(super) fn device_set(&self) -> Result<DeviceSet> {
        self.special(SET, DeviceSet::parse).map(Option::unwrap_or_default)
    }

    pub(super) fn save_device_set(&self, set: &DeviceSet) -> Result<()> {
        self.save(SET, &set.text())
    }

    /// The transaction begun last, if its file is there and whole.
    pub(super) fn transaction(&self) -> Result<Option<Transaction>> {
        self.special(TRANSACTION, Transaction::parse)
    }

    pub(super) fn save_transaction(&self, transaction: &Transaction) -> Result<()> {
        self.save(TRANSACTION, &transaction.text())
    }

    pub(super) fn forget_transaction(&self) -> Result<()> {
        self.forget(TRANSACTION)
    }

    fn special<T>(&self, name: &str, parse: fn(&[u8]) -> Result<T>) -> Result<Option<T>> {
        let Some(content) = self.read(name)? else { return Ok(None) };
        match parse(&content) {
            Ok(value) => Ok(Some(value)),
            Err(e) => self.set_aside(name, &e).map(|()| None),
        }
    }

    fn save(&self, name: &str, content: &[u8]) -> Result<()> {
        self.steps.make("save", name, || {
            let staging = format!(".tmp-{}-{}", &name[..name.len().min(200)], hex()?);
            fs::replace_at(&self.dir, name, &staging, content, 0o640, true)
        })
    }

    fn forget(&self, name: &str) -> Result<()> {
        self.steps.make("forget", name, || match fs::remove_file_at(&self.dir, name) {
            Err(e) if fs::is_absent(&e) => Ok(()),
            outcome => outcome.and_then(|()| fs::fsync(&self.dir, "metadata")),
        })
    }
}

/// A file that was being written when its process died: `.tmp-<name>-<10 hex digits>`.
fn is_stale_staging(name: &str) -> bool {
    let tail = name.strip_prefix(".tmp-").and_then(|rest| rest.rsplit_once('-'));
    tail.is_some_and(|(_, hex)| hex.len() == 10 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn hex() -> Result<String> {
    use std::fmt::Write;
    let mut text = String::new();
    for byte in fs::random::<5>()? {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// Opens a directory, making it if need be.
pub(super) fn make_dir(parent: impl AsFd, name: &str, mode: u32) -> Result<OwnedFd> {
    match fs::make_dir_at(&parent, name, mode) {
        Err(e) if e.kind() != Kind::Exists => return Err(e),
        _ => {}
    }
    fs::open_dir_at(parent, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devmapper::testing::Scratch;

    fn store(scratch: &Scratch) -> Store {
        Store::open(fs::open_dir(&scratch.0).unwrap(), Steps::default()).unwrap()
    }

    #[test]
    fn files_come_back_as_they_were_saved() {
        let scratch = Scratch::new("save");
        let store = store(&scratch);
        let device = Device { hash: "l1".to_owned(), size: 4096, ..Device::default() };
        store.save_device(&device).unwrap();
        assert_eq!(store.device("l1").unwrap(), Some(device.clone()));
        assert_eq!(store.scan().unwrap().devices, [device]);
        store.forget_device("l1").unwrap();
        store.forget_device("l1").unwrap();
        assert_eq!(store.device("l1").unwrap(), None);
        let names: Vec<_> = std::fs::read_dir(scratch.0.join("metadata")).unwrap().collect();
        assert!(names.is_empty(), "{names:?}");
    }

    #[test]
    fn damaged_files_are_set_aside_and_foreign_ones_left() {
        let scratch = Scratch::new("damage");
        let store = store(&scratch);
        let dir = scratch.0.join("metadata");
        let staging = ".tmp-x-0123456789";
        for (name, content) in
            [("bad", "{"), ("README.txt~", "x"), (".hidden", "x"), (staging, "{"), (SET, "{"), (TRANSACTION, "")]
        {
            std::fs::write(dir.join(name), content).unwrap();
        }
        std::fs::create_dir(dir.join("dir")).unwrap();
        std::fs::write(dir.join("copy"), "{\"hash\": \"l1\", \"device_id\": 3}").unwrap();
        assert!(store.scan().unwrap().devices.is_empty());
        assert_eq!(store.device_set().unwrap(), DeviceSet::default());
        assert_eq!(store.transaction().unwrap(), None);
        let mut left: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, [".hidden", "README.txt~", "copy", "dir"]);
        assert_eq!(std::fs::read_dir(scratch.0.join(CORRUPT)).unwrap().count(), 3);
    }
}
