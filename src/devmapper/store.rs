//! The metadata files in `<home>/metadata`: reading, replacing and forgetting them so that a crash leaves the old or the new.
//!
//! A device's file is replaced by rename. Where the disk has no room for a second file, and for the transaction always, the new
//! content is written over the old: it is one sector, which is written whole or not at all, and takes no space, so that layers
//! can be deleted when the disk is full.

use super::kernel::Steps;
use super::record::{Device, DeviceSet, Transaction, is_device_file, padded};
use crate::error::errno::{EBADMSG, EFBIG, EIO, ENODATA, EUCLEAN};
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::sys::fs::{self, FileKind};
use crate::sys::rename;
use crate::undo;
use std::os::fd::{AsFd, OwnedFd};

const SET: &str = "deviceset-metadata";
const TRANSACTION: &str = "transaction-metadata";
/// Where files go that cannot be read and are in the way; beside `metadata`, because the C module deletes what it does not know in
/// there.
const CORRUPT: &str = "metadata-corrupt";
/// A metadata file is a few hundred bytes.
const MAX_FILE: usize = 1 << 16;
/// The least that a disk writes whole or not at all, bytes.
const ATOMIC: usize = 512;

pub(super) struct Store {
    home: OwnedFd,
    dir: OwnedFd,
    steps: Steps,
}

/// What the directory holds.
#[derive(Default)]
pub(super) struct Contents {
    pub devices: Vec<Device>,
    /// Files of layers that cannot be read, and why.
    pub damaged: Vec<(String, Error)>,
    /// Left by writes that a crash ended.
    pub stale: Vec<String>,
    /// Of others.
    pub foreign: Vec<String>,
}

impl Store {
    /// Opens the directory, making it if need be.
    pub(super) fn open(home: OwnedFd, steps: Steps) -> Result<Store> {
        let dir = make_dir(&home, "metadata", 0o700)?;
        Ok(Store { home, dir, steps })
    }

    /// Opens the directory to look only: nothing is made.
    pub(super) fn look(home: OwnedFd) -> Result<Store> {
        let dir = fs::open_dir_at(&home, "metadata")?;
        Ok(Store { home, dir, steps: Steps::default() })
    }

    /// Reads all device files, and changes nothing.
    pub(super) fn scan(&self) -> Result<Contents> {
        let mut names = Vec::new();
        fs::each_entry(&self.dir, |entry| {
            names.push((entry.name, entry.kind));
            Ok(())
        })?;
        let mut contents = Contents::default();
        for (name, kind) in names {
            match name.to_str() {
                Some(SET | TRANSACTION) => {}
                Some(name) if is_stale_staging(name) => contents.stale.push(name.to_owned()),
                Some(name) if is_device_file(name) => match self.device_of(name, kind) {
                    Ok(device) => contents.devices.extend(device),
                    // One file costs its layer, and not all the others.
                    Err(e) if e.kind() == Kind::Corrupt => contents.damaged.push((name.to_owned(), e)),
                    Err(e) => return Err(e),
                },
                _ => contents.foreign.push(fs::shown(&name)),
            }
        }
        Ok(contents)
    }

    /// Removes what a crash left of a write.
    pub(super) fn sweep(&self, name: &str) -> Result<()> {
        log::info!("devicemapper: removing '{name}', left by a crash");
        fs::remove_file_at(&self.dir, name)
    }

    /// Moves a damaged file out of the way. The thin device it stood for keeps its id: the pool refuses to make it again.
    pub(super) fn set_aside(&self, name: &str) -> Result<()> {
        let corrupt = make_dir(&self.home, CORRUPT, 0o700)?;
        let to = format!("{}-{}", &name[..name.len().min(200)], fs::random_name::<5>()?);
        log::warn!(
            "devicemapper: damaged metadata file '{name}' is moved to '{CORRUPT}/{to}'; the pool still has its device"
        );
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
        self.device_of(name, None)
    }

    /// The same where it may be known already what kind of file it is. What it holds may be damaged; what cannot be read now is not.
    fn device_of(&self, name: &str, known: Option<FileKind>) -> Result<Option<Device>> {
        let damaged = |e: Error| {
            let e = e.with_kind(Kind::Corrupt).hint("restore it from a backup, or remove the layer");
            e.context(format!("metadata file '{name}' is damaged"))
        };
        let kind = match known {
            Some(kind) => kind,
            None => match fs::stat_at(&self.dir, name) {
                Err(e) if fs::is_absent(&e) => return Ok(None),
                Err(e) if is_lost(&e) => return Err(damaged(e)),
                stat => stat?.kind,
            },
        };
        if kind != FileKind::File {
            return Err(damaged(Error::new(Kind::Corrupt, "it is no regular file")));
        }
        match self.read(name) {
            Err(e) if is_lost(&e) => Err(damaged(e)),
            read => read?.map(|content| Device::parse(name, &content).map_err(damaged)).transpose(),
        }
    }

    /// Writes the file of a device. One on the stage says already which layer it is going to be, or was.
    pub(super) fn save_device(&self, device: &Device, layer: &str) -> Result<()> {
        self.save(&device.hash, &device.text(layer))
    }

    /// Gives a file of the stage its layer's name; the file that has the name, if there is one, gets that of the stage.
    pub(super) fn publish(&self, staged: &str, name: &str, exchange: bool) -> Result<()> {
        self.steps.make("publish", name, || {
            let rename = |from: &str, to: &str| match exchange {
                true => rename::exchange_at(&self.dir, from, to),
                false => rename::rename_new_at(&self.dir, from, to),
            };
            undo::all_or_nothing(|undo| {
                rename(staged, name)?;
                undo.with(|| rename(name, staged));
                fs::fsync(&self.dir, "metadata")
            })
        })
    }

    /// Removes a device's file; one that is not there is a success.
    pub(super) fn forget_device(&self, name: &str) -> Result<()> {
        self.steps.make("forget", name, || match fs::remove_file_at(&self.dir, name) {
            Err(e) if fs::is_absent(&e) => Ok(()),
            outcome => outcome.and_then(|()| fs::fsync(&self.dir, "metadata")),
        })
    }

    /// What was saved about the whole set; a damaged file counts as none.
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

    /// Records that a transaction is about to be made.
    pub(super) fn begin(&self, transaction: &Transaction) -> Result<()> {
        self.write_transaction("begin", transaction)
    }

    /// Records that none is pending: that of the number that the pool has was the last.
    pub(super) fn end(&self, transaction: &Transaction) -> Result<()> {
        self.write_transaction("end", transaction)
    }

    fn write_transaction(&self, step: &str, transaction: &Transaction) -> Result<()> {
        self.steps.make(step, TRANSACTION, || match self.overwrite(TRANSACTION, &transaction.text()) {
            Err(e) if fs::is_absent(&e) => self.replace(TRANSACTION, &transaction.text()),
            outcome => outcome,
        })
    }

    /// Sees to it that the transaction's file has the room that any transaction may need.
    pub(super) fn make_room_for_transactions(&self, current: u64) -> Result<()> {
        if self.read(TRANSACTION)?.is_some_and(|content| content.len() >= Transaction::LENGTH) {
            return Ok(());
        }
        let none = Transaction { open_transaction_id: current, ..Transaction::default() };
        self.steps.make("end", TRANSACTION, || self.replace(TRANSACTION, &none.text()))
    }

    fn special<T>(&self, name: &str, parse: fn(&[u8]) -> Result<T>) -> Result<Option<T>> {
        let Some(content) = self.read(name)? else { return Ok(None) };
        match parse(&content) {
            Ok(value) => Ok(Some(value)),
            Err(e) => {
                log::warn!("devicemapper: metadata file '{name}' is damaged ({e}); it counts as missing");
                Ok(None)
            }
        }
    }

    fn save(&self, name: &str, content: &[u8]) -> Result<()> {
        self.steps.make("save", name, || match self.put(name, content) {
            Err(e) if e.kind() == Kind::NoSpace => self.overwrite(name, content).map_err(|other| e.and_also(other)),
            outcome => outcome.and_then(|()| fs::fsync(&self.dir, "metadata")),
        })
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        self.put(name, content).and_then(|()| fs::fsync(&self.dir, "metadata"))
    }

    /// Gives the name to a file with this content; what is left is to force the directory to disk.
    fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        let staging = format!(".tmp-{}-{}", &name[..name.len().min(200)], fs::random_name::<5>()?);
        fs::put_at(&self.dir, name, &staging, content, 0o640, true)
    }

    /// Writes over the content of a file, as long as it is, which takes no space.
    fn overwrite(&self, name: &str, content: &[u8]) -> Result<()> {
        let length = usize::try_from(fs::stat_at(&self.dir, name)?.size).unwrap_or(usize::MAX);
        if content.len().max(length) > ATOMIC {
            return Err(Error::new(Kind::NoSpace, format!("'{name}' is too long to be written in place")));
        }
        fs::overwrite_at(&self.dir, name, &padded(content, length))
    }
}

/// Whether an error says that the content is lost, and not that it cannot be had now: too long to be ours, a bad sector, a
/// bad inode or checksum (the filesystems' EFSCORRUPTED and EFSBADCRC).
fn is_lost(error: &Error) -> bool {
    [EFBIG, EIO, ENODATA, EBADMSG, EUCLEAN].contains(&error.errno())
}

/// A file that was being written when its process died: `.tmp-<name>-<10 hex digits>`.
fn is_stale_staging(name: &str) -> bool {
    let tail = name.strip_prefix(".tmp-").and_then(|rest| rest.rsplit_once('-'));
    tail.is_some_and(|(_, hex)| hex.len() == 10 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
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

    fn device(name: &str) -> Device {
        Device { hash: name.to_owned(), device_id: 7.try_into().unwrap(), size: 4096, ..Device::default() }
    }

    fn names(dir: &std::path::Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_come_back_as_they_were_saved() {
        let scratch = Scratch::new("save");
        let store = store(&scratch);
        store.save_device(&device("l1"), "l1").unwrap();
        assert_eq!(store.device("l1").unwrap(), Some(device("l1")));
        assert_eq!(store.scan().unwrap().devices, [device("l1")]);
        store.forget_device("l1").unwrap();
        store.forget_device("l1").unwrap();
        assert_eq!(store.device("l1").unwrap(), None);
        assert_eq!(names(&scratch.0.join("metadata")), [""; 0]);
    }

    #[test]
    fn a_scan_tells_the_damaged_and_changes_nothing() {
        let scratch = Scratch::new("damage");
        let store = store(&scratch);
        let dir = scratch.0.join("metadata");
        let stale = ".tmp-x-0123456789";
        let copy = "{\"hash\": \"l1\", \"device_id\": 3, \"size\": 4096}";
        let long = " ".repeat(MAX_FILE + 1);
        let files = [("bad", "{"), ("empty", "{}"), ("copy", copy), ("long", &long), ("README.txt~", "x"), (".hidden", "x")];
        for (name, content) in files.into_iter().chain([(stale, "{"), (SET, "{"), (TRANSACTION, "")]) {
            std::fs::write(dir.join(name), content).unwrap();
        }
        std::fs::create_dir(dir.join("dir")).unwrap();
        let before = names(&dir);
        let found = store.scan().unwrap();
        assert_eq!(found.devices, []);
        let mut damaged: Vec<_> = found.damaged.iter().map(|(name, _)| name.as_str()).collect();
        damaged.sort_unstable();
        assert_eq!(damaged, ["bad", "copy", "dir", "empty", "long"]);
        assert!(found.damaged.iter().all(|(_, why)| why.kind() == Kind::Corrupt));
        assert_eq!((found.stale, found.foreign.len()), (vec![stale.to_owned()], 2));
        assert_eq!(store.device_set().unwrap(), DeviceSet::default());
        assert_eq!(store.transaction().unwrap(), None);
        assert_eq!(names(&dir), before);
        store.set_aside("bad").unwrap();
        assert_eq!(names(&scratch.0.join(CORRUPT)).len(), 1);
    }

    #[test]
    fn a_transaction_is_written_in_place() {
        let scratch = Scratch::new("in-place");
        let store = store(&scratch);
        let file = scratch.0.join("metadata").join(TRANSACTION);
        // As long as the C module makes it: it gets its full length while there is room.
        std::fs::write(&file, "{\n    \"open_transaction_id\": 3\n}\n").unwrap();
        store.make_room_for_transactions(3).unwrap();
        let before = std::fs::metadata(&file).unwrap();
        for (number, name) in [(7, "short".to_owned()), (8, "x".repeat(255)), (9, "y".to_owned())] {
            let transaction =
                Transaction { open_transaction_id: number, device_hash: name, device_id: 5.try_into().unwrap() };
            store.begin(&transaction).unwrap();
            assert_eq!(store.transaction().unwrap(), Some(transaction));
        }
        use std::os::unix::fs::MetadataExt;
        let after = std::fs::metadata(&file).unwrap();
        assert_eq!((before.ino(), before.len()), (after.ino(), after.len()));
        assert_eq!(names(&scratch.0.join("metadata")), [TRANSACTION]);
    }

    #[test]
    fn a_device_is_marked_in_place_where_there_is_no_room() {
        let scratch = Scratch::new("full");
        let store = store(&scratch);
        store.save_device(&device("l1"), "l1").unwrap();
        for marked in [Device { deleted: true, ..device("l1") }, device("l1")] {
            store.overwrite("l1", &marked.text("l1")).unwrap();
            assert_eq!(store.device("l1").unwrap(), Some(marked));
        }
        let parent = "x".repeat(500);
        let long = Device { parent, ..device("l1") };
        assert_eq!(store.overwrite("l1", &long.text("l1")).unwrap_err().kind(), Kind::NoSpace);
    }

    #[test]
    fn a_layer_gets_its_name_or_another_s() {
        let scratch = Scratch::new("publish");
        let store = store(&scratch);
        let staged = crate::devmapper::record::staged("l1");
        let new = Device { hash: staged.clone(), device_id: 8.try_into().unwrap(), ..device("l1") };
        store.save_device(&device("l1"), "l1").unwrap();
        store.save_device(&new, "l1").unwrap();
        store.publish(&staged, "l1", false).unwrap_err();
        store.publish(&staged, "l1", true).unwrap();
        assert_eq!(store.device("l1").unwrap().map(|device| device.device_id.number()), Some(8));
        assert_eq!(store.device(&staged).unwrap(), Some(Device { hash: staged, ..device("l1") }));
    }
}
