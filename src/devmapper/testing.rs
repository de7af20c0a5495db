//! What the unit tests share: a scratch directory, and a thin pool that exists in memory only.

use crate::error::errno::{EBUSY, EEXIST, EINVAL, ENODATA, ENXIO};
use crate::error::{Error, Result};
use crate::sys::dm::{Info, Ioctls, Settle, Target, Writes};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// A directory that goes away with the test.
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("graphdriver-devmapper-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The state of the pool in memory.
#[derive(Default)]
pub(super) struct Fake {
    pub transaction: u64,
    pub thins: HashSet<u32>,
    /// Thin devices that cannot be deleted.
    pub busy: HashSet<u32>,
    pub active: HashMap<String, Info>,
    /// The tables of active devices.
    pub tables: HashMap<String, Target>,
}

/// Device-mapper with one thin pool and nothing else, which outlives the drivers that use it.
#[derive(Clone, Default)]
pub(super) struct FakePool(pub Arc<Mutex<Fake>>);

pub(super) const POOL: &str = "pool";
/// 253:1, as `st_rdev` has it.
const POOL_DEVICE: u64 = 253 << 8 | 1;

fn errno<T>(number: i32) -> Result<T> {
    Err(Error::sys("fake device-mapper", number))
}

impl FakePool {
    fn change(&self, name: &str, change: impl FnOnce(&mut Info)) -> Result<()> {
        let mut fake = self.0.lock().unwrap();
        let Some(info) = fake.active.get_mut(name) else { return errno(ENXIO) };
        change(info);
        Ok(())
    }
}

impl Ioctls for FakePool {
    fn version(&self) -> Result<(u32, u32, u32)> {
        Ok((4, 47, 0))
    }
    fn names(&self) -> Result<Vec<String>> {
        Ok(self.0.lock().unwrap().active.keys().cloned().collect())
    }
    fn info(&self, name: &str) -> Result<Option<Info>> {
        if name == POOL {
            return Ok(Some(Info {
                open_count: 0,
                suspended: false,
                active: true,
                removal_pending: false,
                device: POOL_DEVICE,
            }));
        }
        Ok(self.0.lock().unwrap().active.get(name).copied())
    }
    fn create(&self, name: &str) -> Result<()> {
        let new = Info { open_count: 0, suspended: true, active: false, removal_pending: false, device: 1 };
        let mut fake = self.0.lock().unwrap();
        if fake.active.contains_key(name) {
            return errno(EBUSY);
        }
        fake.active.insert(name.to_owned(), new);
        Ok(())
    }
    fn load(&self, name: &str, target: &Target, _: Writes) -> Result<()> {
        self.0.lock().unwrap().tables.insert(name.to_owned(), target.clone());
        self.change(name, |info| info.active = true)
    }
    fn suspend(&self, name: &str) -> Result<()> {
        self.change(name, |info| info.suspended = true)
    }
    fn resume(&self, name: &str, _: Settle) -> Result<()> {
        self.change(name, |info| info.suspended = false)
    }
    fn remove(&self, name: &str, _: bool) -> Result<bool> {
        Ok(self.0.lock().unwrap().active.remove(name).is_some())
    }
    fn status(&self, name: &str) -> Result<Option<Target>> {
        let fake = self.0.lock().unwrap();
        let text =
            format!("{} 1/100 {}/100 - rw discard_passdown queue_if_no_space - 1", fake.transaction, fake.thins.len());
        if name == POOL { Ok(Some(Target { kind: "thin-pool".to_owned(), sectors: 12800, text })) } else { errno(ENXIO) }
    }
    fn table(&self, name: &str) -> Result<Option<Target>> {
        Ok(self.0.lock().unwrap().tables.get(name).cloned())
    }
    fn message(&self, name: &str, text: &str) -> Result<()> {
        assert_eq!(name, POOL);
        let mut fake = self.0.lock().unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        let number = |at: usize| words[at].parse::<u32>().unwrap();
        match words[0] {
            "create_thin" if fake.thins.insert(number(1)) => Ok(()),
            "create_snap" if !fake.thins.contains(&number(2)) => errno(ENODATA),
            "create_snap" if fake.thins.insert(number(1)) => Ok(()),
            "create_thin" | "create_snap" => errno(EEXIST),
            "delete" if fake.busy.contains(&number(1)) => errno(EBUSY),
            "delete" if fake.thins.remove(&number(1)) => Ok(()),
            "delete" => errno(ENODATA),
            "set_transaction_id" if u64::from(number(1)) == fake.transaction => {
                fake.transaction = number(2).into();
                Ok(())
            }
            _ => errno(EINVAL),
        }
    }
}
