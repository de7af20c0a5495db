//! Changing the pool and the metadata files together, so that a crash in between can be undone.
//!
//! A transaction is opened by recording what is about to be done with the number after the pool's own transaction id, and
//! closed by raising the pool's id to that number. A number in the file that is higher than the pool's was never closed: the
//! device it names is deleted. That undoes a creation and completes a deletion.
//!
//! A layer that takes more than one transaction to make, or that takes the place of another, is built on the stage
//! ([`super::record::staged`]) and gets its name by one rename; what is on the stage after a crash is deleted.

use super::devices::{DeviceId, Devices, Entry};
use super::identity::{Likeness, SECTOR};
use super::record::{Device, Transaction, staged};
use crate::error::{Error, Result};
use crate::sys::dm::{Settle, is_busy, is_gone, is_taken_id, is_unknown_id};

/// What became of a device that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deleted {
    /// There is no such device any more.
    Gone,
    /// It is in use; it is marked, and goes later.
    Later,
}

impl Devices {
    /// Makes a thin device for the layer `layer`, as a snapshot of `origin` or empty, and records it. Nothing is left of it if that
    /// fails.
    pub(super) fn add(&self, mut device: Device, layer: &str, origin: Option<&Device>) -> Result<Device> {
        let mut ledger = self.ledger();
        let open = ledger.current + 1;
        device.transaction_id = open;
        device.device_id = self.make(&mut ledger, &device.hash, origin).map_err(|e| self.blame_pool(e))?;
        let recorded = self.store.save_device(&device, layer).and_then(|()| self.close(&mut ledger, open));
        match recorded {
            Ok(()) => {
                self.remember(device.clone());
                Ok(device)
            }
            Err(e) => Err(with_cleanup(e, self.discard(&mut ledger, device))),
        }
    }

    /// Gives a finished device of the stage its layer's name. What had the name before is on the stage then, to be deleted.
    pub(super) fn publish(&self, device: Device, layer: &str) -> Result<()> {
        let _ledger = self.ledger();
        let old = self.known(layer);
        let staged = device.hash.clone();
        self.store.publish(&staged, layer, old.is_some())?;
        self.forget(&staged);
        if let Some(old) = old {
            self.remember(Device { hash: staged, deleted: true, ..old });
        }
        self.remember(Device { hash: layer.to_owned(), ..device });
        Ok(())
    }

    /// Opens a transaction and makes the thin device, with the next id that the pool does not have.
    fn make(&self, ledger: &mut Entry<'_>, name: &str, origin: Option<&Device>) -> Result<DeviceId> {
        loop {
            let id = ledger.ids.next()?;
            let made = self.open(ledger, name, id).and_then(|_| match origin {
                None => self.kernel.message(&self.names.pool, &format!("create_thin {id}")),
                Some(origin) => self.snapshot(id, origin),
            });
            match made {
                Ok(()) => return Ok(id),
                // It stays marked as used: it belongs to a device whose file was lost.
                Err(e) if is_taken_id(&e) => ledger.note(format!("thin device {id} exists but is not known; skipped")),
                Err(e) => {
                    ledger.ids.release(id);
                    return Err(e);
                }
            }
        }
    }

    /// Takes a snapshot. An origin in use is frozen for the moment that it takes, and goes on before anything else happens.
    fn snapshot(&self, id: DeviceId, origin: &Device) -> Result<()> {
        let name = self.name(origin);
        let frozen = self.freeze(origin, &name)?;
        let pool = &self.names.pool;
        let taken = self.kernel.message(pool, &format!("create_snap {id} {}", origin.device_id));
        let resumed = if frozen { self.thaw(&name) } else { Ok(()) };
        match (taken, resumed) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(e), resumed) => Err(with_cleanup(e, resumed)),
            (Ok(()), Err(e)) => Err(with_cleanup(e, self.kernel.message(pool, &format!("delete {id}")))),
        }
    }

    /// Suspends a device if it is active. False if there is nothing to resume.
    fn freeze(&self, origin: &Device, name: &str) -> Result<bool> {
        match self.active(origin)? {
            Some((info, likeness, _)) if info.active && !info.suspended && likeness != Likeness::Other => {
                match self.kernel.suspend(name) {
                    Err(e) if is_gone(&e) => Ok(false),
                    outcome => outcome.map(|()| true),
                }
            }
            _ => Ok(false),
        }
    }

    pub(super) fn thaw(&self, name: &str) -> Result<()> {
        let resumed = self.kernel.resume(name, Settle::AtOnce).or_else(|_| self.kernel.resume(name, Settle::AtOnce));
        match resumed {
            Err(e) if is_gone(&e) => Ok(()),
            outcome => outcome,
        }
    }

    /// Deletes a device and its record; a busy one is marked instead. Of a copy, only the record goes.
    pub(super) fn delete(&self, name: &str) -> Result<Deleted> {
        self.find(name)?;
        let mut ledger = self.ledger();
        // As it is now: whoever had the ledger before may have deleted it, and its id may be another's.
        let Some(device) = self.known(name) else { return Ok(Deleted::Gone) };
        let id = device.device_id;
        if self.is_claimed_twice(id) {
            ledger.note(format!("another layer claims device {id} of '{name}' as well; the device stays"));
            self.store.forget_device(name)?;
            self.forget(name);
            return Ok(Deleted::Gone);
        }
        let open = self.open(&ledger, name, id)?;
        let outcome = match self.kernel.message(&self.names.pool, &format!("delete {id}")) {
            Err(e) if is_busy(&e) => {
                if !device.deleted {
                    self.save(Device { deleted: true, ..device })?;
                }
                Deleted::Later
            }
            Err(e) if !is_unknown_id(&e) => {
                // Else the next start would take it for interrupted, and complete what was reported as failed.
                return Err(with_cleanup(self.blame_pool(e), self.settle(&ledger, name, id)));
            }
            _ => {
                self.forget_gone(&mut ledger, device)?;
                Deleted::Gone
            }
        };
        // What was to be deleted is gone or marked, whatever the pool's number says: the next transaction raises it.
        if let Err(e) = self.close(&mut ledger, open) {
            ledger.note(format!("deletion of '{name}' was done but not closed: {e}"));
        }
        Ok(outcome)
    }

    /// Removes the record of a thin device that is gone. If that fails, the device is kept as deleted, to be tried again.
    fn forget_gone(&self, ledger: &mut Entry<'_>, device: Device) -> Result<()> {
        if let Err(e) = self.store.forget_device(&device.hash) {
            self.remember(Device { deleted: true, ..device });
            return Err(e);
        }
        self.forget(&device.hash);
        ledger.ids.release(device.device_id);
        Ok(())
    }

    /// Deletes a thin device whose transaction did not come to its end.
    fn discard(&self, ledger: &mut Entry<'_>, device: Device) -> Result<()> {
        match self.kernel.message(&self.names.pool, &format!("delete {}", device.device_id)) {
            Err(e) if !is_unknown_id(&e) => {
                self.remember(Device { deleted: true, ..device.clone() });
                let _ = self.save(Device { deleted: true, ..device });
                Err(e)
            }
            _ => self.forget_gone(ledger, device),
        }
    }

    /// Begins a transaction and returns its number.
    fn open(&self, ledger: &Entry<'_>, name: &str, id: DeviceId) -> Result<u64> {
        let open = ledger.current + 1;
        self.store.begin(&Transaction { open_transaction_id: open, device_hash: name.to_owned(), device_id: id })?;
        Ok(open)
    }

    /// Records that nothing is pending.
    fn settle(&self, ledger: &Entry<'_>, name: &str, id: DeviceId) -> Result<()> {
        let (open_transaction_id, device_hash) = (ledger.current, name.to_owned());
        self.store.end(&Transaction { open_transaction_id, device_hash, device_id: id })
    }

    /// Ends a transaction. If someone else raised the pool's number meanwhile, theirs is taken over.
    fn close(&self, ledger: &mut Entry<'_>, open: u64) -> Result<()> {
        let raise = |from: u64| self.kernel.message(&self.names.pool, &format!("set_transaction_id {from} {open}"));
        if let Err(e) = raise(ledger.current) {
            let found = self.pool_status()?;
            if found.transaction == ledger.current {
                return Err(found.health.explain(e, &self.names.pool));
            }
            let (pool, at, expected) = (&self.names.pool, found.transaction, ledger.current);
            ledger.note(format!(
                "pool '{pool}' is at transaction {at} where {expected} was expected: does another program use it?"
            ));
            if found.transaction < open {
                raise(found.transaction)?;
            }
            ledger.current = found.transaction.max(open);
            return Ok(());
        }
        ledger.current = open;
        Ok(())
    }

    /// The transaction that was open when the last process ended, if one was.
    pub(super) fn pending(&self) -> Result<Option<Transaction>> {
        let found = self.store.transaction()?;
        let current = self.ledger().current;
        Ok(found.filter(|found| found.open_transaction_id > current))
    }

    /// Settles the transaction that was open when the last process ended. Only for a pool that is known to be the right one.
    pub(super) fn recover(&self) -> Result<()> {
        let Some(pending) = self.pending()? else { return Ok(()) };
        let mut ledger = self.ledger();
        let (name, id, open) = (pending.device_hash, pending.device_id, pending.open_transaction_id);
        let what = format!("transaction {open} was interrupted (pool at {})", ledger.current);
        let known = self.known(&name).filter(|device| device.device_id == id);
        if id == DeviceId::default() || self.is_claimed_twice(id) || (known.is_none() && self.is_claimed(id)) {
            ledger.note(format!("{what}; device {id}, which it names for '{name}', is another layer's and stays"));
        } else {
            ledger.note(format!("{what}; deleting device {id} of '{name}'"));
            self.delete_pending(&mut ledger, id, &name, known)?;
        }
        self.settle(&ledger, &name, id)
    }

    /// A device that cannot be deleted now keeps its id, is marked, and is tried again by the worker: on the stage, if the name is
    /// another's.
    fn delete_pending(&self, ledger: &mut Entry<'_>, id: DeviceId, name: &str, known: Option<Device>) -> Result<()> {
        match self.kernel.message(&self.names.pool, &format!("delete {id}")) {
            Err(e) if !is_unknown_id(&e) => {
                ledger.note(format!("{e}; it will be tried again"));
                let lost = || Device { hash: staged(name), device_id: id, size: SECTOR, ..Device::default() };
                ledger.ids.take(id);
                self.save(Device { deleted: true, ..known.unwrap_or_else(lost) })
            }
            _ => match known {
                Some(device) => self.forget_gone(ledger, device),
                None => Ok(()),
            },
        }
    }
}

/// What came of some work, once what it needed is given back.
pub(super) fn once_released<T>(done: Result<T>, released: Result<()>) -> Result<T> {
    match done {
        Ok(value) => released.map(|()| value),
        Err(e) => Err(with_cleanup(e, released)),
    }
}

/// Adds what went wrong while undoing to the error that made it necessary.
pub(super) fn with_cleanup(error: Error, cleanup: Result<()>) -> Error {
    match cleanup {
        Ok(()) => error,
        Err(other) => error.and_also(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devmapper::identity::Names;
    use crate::devmapper::kernel::{Kernel, Moment, Steps};
    use crate::devmapper::record::BASE;
    use crate::devmapper::store::Store;
    use crate::devmapper::testing::{FakePool, POOL, Scratch};
    use crate::error::Kind;
    use crate::sys::dm::Info;
    use crate::sys::fs;
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn open(scratch: &Scratch, pool: &FakePool, steps: Steps) -> Result<Devices> {
        let store = Store::open(fs::open_dir(&scratch.0).unwrap(), steps.clone())?;
        let kernel = Kernel::new(Box::new(pool.clone()), steps);
        let (devices, contents) = Devices::read(kernel, store, Names::new("p-".to_owned(), POOL.to_owned()))?;
        // What a start does about frozen devices.
        for (name, info) in pool.0.lock().unwrap().active.iter_mut() {
            info.suspended &= !name.starts_with("p-");
        }
        devices.recover()?;
        assert!(devices.pending()?.is_none() && contents.damaged.is_empty());
        Ok(devices)
    }

    fn layer(name: &str) -> Device {
        Device { hash: name.to_owned(), size: 4096, ..Device::default() }
    }

    /// Steps of a process that dies at its `at`-th moment: nothing it tries afterwards happens.
    fn dying(at: usize) -> (Steps, Arc<AtomicUsize>) {
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        let steps = Steps(Some(Arc::new(move |_: &_| match count.fetch_add(1, Ordering::SeqCst) {
            n if n < at => Ok(()),
            _ => Err(Error::new(Kind::Internal, "the process is dead")),
        })));
        (steps, seen)
    }

    /// Pool and files agree, and nothing is marked.
    fn check(devices: &Devices, pool: &FakePool) {
        let recorded: HashSet<u32> = devices.select(|_| true).iter().map(|device| device.device_id.number()).collect();
        let fake = pool.0.lock().unwrap();
        assert_eq!(recorded, fake.thins);
        assert_eq!(devices.select(|device| device.deleted), []);
        assert!(fake.active.values().all(|info| !info.suspended), "a device was left frozen");
        assert_eq!(devices.ledger().current, fake.transaction);
    }

    /// A store with a base, of which a snapshot is taken while it is in use.
    fn prepared(scratch: &Scratch, pool: &FakePool) -> Device {
        let devices = open(scratch, pool, Steps::default()).unwrap();
        let base = devices.add(layer(BASE), BASE, None).unwrap();
        let info = Info { open_count: 1, suspended: false, active: true, removal_pending: false, device: 1 };
        pool.0.lock().unwrap().active.insert("p-base".to_owned(), info);
        let table = crate::devmapper::identity::table("253:1", &base);
        pool.0.lock().unwrap().tables.insert("p-base".to_owned(), table);
        base
    }

    /// Runs `operation` in processes that die at ever later moments, until one lives; after each, a restart must settle it.
    fn crash_at_every_moment(
        name: &str,
        operation: impl Fn(&Devices, &Device) -> Result<()>,
        ended: impl Fn(&Devices) -> bool,
    ) {
        for at in 0.. {
            let (scratch, pool) = (Scratch::new(name), FakePool::default());
            let base = prepared(&scratch, &pool);
            if !name.starts_with("create") {
                open(&scratch, &pool, Steps::default()).unwrap().add(layer("l1"), "l1", Some(&base)).unwrap();
            }
            let (steps, seen) = dying(usize::MAX);
            let devices = open(&scratch, &pool, steps).unwrap();
            let opening = seen.load(Ordering::SeqCst);
            drop(devices);
            let (steps, seen) = dying(opening + at);
            let devices = open(&scratch, &pool, steps).unwrap();
            let lived = operation(&devices, &base).is_ok() && seen.load(Ordering::SeqCst) <= opening + at;
            drop(devices);
            let devices = open(&scratch, &pool, Steps::default()).unwrap();
            settle(&devices);
            check(&devices, &pool);
            if lived {
                assert!(ended(&devices));
                assert!(at >= 8, "only {at} moments were seen");
                return;
            }
            // Whatever happened, the same can be done now.
            drop(devices);
            let devices = open(&scratch, &pool, Steps::default()).unwrap();
            if !ended(&devices) {
                operation(&devices, &base).unwrap();
            }
            assert!(ended(&devices));
            check(&devices, &pool);
        }
    }

    #[test]
    fn a_crash_while_creating_leaves_all_or_nothing() {
        let create = |devices: &Devices, base: &Device| devices.add(layer("l1"), "l1", Some(base)).map(drop);
        crash_at_every_moment("create", create, |devices| devices.known("l1").is_some());
    }

    #[test]
    fn a_crash_while_deleting_leaves_all_or_nothing() {
        let delete = |devices: &Devices, _: &Device| devices.delete("l1").map(drop);
        crash_at_every_moment("delete", delete, |devices| devices.known("l1").is_none());
    }

    /// What the worker does: the stage is emptied.
    fn settle(devices: &Devices) {
        for device in devices.select(|device| device.deleted) {
            assert_eq!(devices.delete(&device.hash).unwrap(), Deleted::Gone);
        }
    }

    #[test]
    fn a_crash_while_replacing_leaves_the_old_one_or_the_new_one() {
        let replace = |devices: &Devices, base: &Device| {
            let new = devices.add(Device { parent: "new".to_owned(), ..layer(&staged("l1")) }, "l1", Some(base))?;
            devices.publish(new, "l1")?;
            devices.delete(&staged("l1")).map(drop)
        };
        crash_at_every_moment("replace", replace, |devices| devices.known("l1").unwrap().parent == "new");
    }

    #[test]
    fn each_failing_step_of_a_creation_leaves_nothing() {
        for at in 0.. {
            let (scratch, pool) = (Scratch::new("fail"), FakePool::default());
            let base = prepared(&scratch, &pool);
            let count = Arc::new(AtomicUsize::new(usize::MAX / 2));
            let seen = Arc::clone(&count);
            let steps = Steps(Some(Arc::new(move |step: &crate::devmapper::Step<'_>| {
                let failing = step.moment == Moment::Before && seen.fetch_add(1, Ordering::SeqCst) == at;
                if failing { Err(Error::sys("injected", 5)) } else { Ok(()) }
            })));
            let devices = open(&scratch, &pool, steps).unwrap();
            count.store(0, Ordering::SeqCst);
            let made = devices.add(layer("l1"), "l1", Some(&base));
            count.store(usize::MAX / 2, Ordering::SeqCst);
            check(&devices, &pool);
            assert_eq!(devices.known("l1").is_some(), made.is_ok());
            drop(devices);
            check(&open(&scratch, &pool, Steps::default()).unwrap(), &pool);
            if made.is_ok() && at > 4 {
                return;
            }
        }
    }

    #[test]
    fn a_busy_device_is_marked_and_goes_later() {
        let (scratch, pool) = (Scratch::new("busy"), FakePool::default());
        let base = prepared(&scratch, &pool);
        let devices = open(&scratch, &pool, Steps::default()).unwrap();
        let made = devices.add(layer("l1"), "l1", Some(&base)).unwrap();
        pool.0.lock().unwrap().busy.insert(made.device_id.number());
        assert_eq!(devices.delete("l1").unwrap(), Deleted::Later);
        drop(devices);
        let devices = open(&scratch, &pool, Steps::default()).unwrap();
        assert!(devices.known("l1").unwrap().deleted);
        assert_eq!(devices.delete("l1").unwrap(), Deleted::Later);
        pool.0.lock().unwrap().busy.clear();
        assert_eq!(devices.delete("l1").unwrap(), Deleted::Gone);
        check(&devices, &pool);
    }

    #[test]
    fn an_interrupted_creation_whose_device_is_busy_is_not_forgotten() {
        let (scratch, pool) = (Scratch::new("pending"), FakePool::default());
        prepared(&scratch, &pool);
        let devices = open(&scratch, &pool, Steps::default()).unwrap();
        let id = DeviceId::try_from(9).unwrap();
        devices.open(&devices.ledger(), "l9", id).unwrap();
        pool.0.lock().unwrap().thins.insert(9);
        pool.0.lock().unwrap().busy.insert(9);
        drop(devices);
        let devices = open(&scratch, &pool, Steps::default()).unwrap();
        let staged = staged("l9");
        assert!(devices.known(&staged).unwrap().deleted && devices.known("l9").is_none());
        pool.0.lock().unwrap().busy.clear();
        assert_eq!(devices.delete(&staged).unwrap(), Deleted::Gone);
        check(&devices, &pool);
    }

    /// A copy of a file, or a pool that went back in time: what an interrupted transaction names may be another layer's by now.
    #[test]
    fn a_device_of_two_layers_is_not_deleted() {
        let (scratch, pool) = (Scratch::new("twice"), FakePool::default());
        let base = prepared(&scratch, &pool);
        let devices = open(&scratch, &pool, Steps::default()).unwrap();
        let made = devices.add(layer("l1"), "l1", Some(&base)).unwrap();
        let id = made.device_id;
        devices.open(&devices.ledger(), "l9", id).unwrap();
        drop(devices);
        let devices = open(&scratch, &pool, Steps::default()).unwrap();
        assert_eq!(devices.known("l1"), Some(made.clone()));
        check(&devices, &pool);

        devices.save(Device { hash: "copy".to_owned(), ..made.clone() }).unwrap();
        assert!(devices.is_claimed_twice(id));
        assert_eq!(devices.delete("l1").unwrap(), Deleted::Gone);
        assert!(devices.known("l1").is_none() && pool.0.lock().unwrap().thins.contains(&id.number()));
        assert!(!devices.is_claimed_twice(id));
        assert_eq!(devices.delete("copy").unwrap(), Deleted::Gone);
        check(&devices, &pool);
    }

    #[test]
    fn ids_that_only_the_pool_knows_are_skipped() {
        let (scratch, pool) = (Scratch::new("skip"), FakePool::default());
        let base = prepared(&scratch, &pool);
        pool.0.lock().unwrap().thins.extend([2, 3]);
        let devices = open(&scratch, &pool, Steps::default()).unwrap();
        assert_eq!(devices.add(layer("l1"), "l1", Some(&base)).unwrap().device_id.number(), 4);
    }

    #[test]
    fn a_transaction_number_changed_by_others_is_taken_over() {
        let (scratch, pool) = (Scratch::new("others"), FakePool::default());
        let base = prepared(&scratch, &pool);
        let devices = open(&scratch, &pool, Steps::default()).unwrap();
        pool.0.lock().unwrap().transaction = 40;
        devices.add(layer("l1"), "l1", Some(&base)).unwrap();
        devices.add(layer("l2"), "l2", Some(&base)).unwrap();
        check(&devices, &pool);
        assert_eq!(pool.0.lock().unwrap().transaction, 41);
    }

    /// The state of a real host: an open transaction 8 while the pool is at 7.
    #[test]
    fn the_transaction_of_a_real_host_is_rolled_back() {
        let (scratch, pool) = (Scratch::new("host"), FakePool::default());
        let names = [
            "068615102be4457b22d40c9702e4bd316dd50ae85467b0378a419b23b60ba73d",
            "3d24ee258efc3bfe4066a1a9fb83febf6dc0b1548dfe896161533668281c9f4f",
            "ba0dae6243cc9fa2890df40a625721fdbea5c94ca6da897acdd814d710149770",
        ];
        let dir = scratch.0.join("metadata");
        std::fs::create_dir(&dir).unwrap();
        for (name, id, transaction) in [(names[0], 6, 8), (names[1], 4, 4), (names[2], 2, 2), (BASE, 1, 1)] {
            let text = format!(
                "{{\n    \"hash\": \"{name}\",\n    \"device_id\": {id},\n    \"size\": 10737418240,\n    \
                \"transaction_id\": {transaction}\n}}\n"
            );
            std::fs::write(dir.join(name), text).unwrap();
        }
        let open_file = format!(
            "{{\n    \"open_transaction_id\": 8,\n    \"device_hash\": \"{}\",\n    \"device_id\": 6\n}}\n",
            names[0]
        );
        std::fs::write(dir.join("transaction-metadata"), open_file).unwrap();
        std::fs::write(dir.join("deviceset-metadata"), "{\n    \"next_device_id\": 7\n}\n").unwrap();
        pool.0.lock().unwrap().thins.extend([1, 2, 4, 6]);
        pool.0.lock().unwrap().transaction = 7;
        let devices = open(&scratch, &pool, Steps::default()).unwrap();
        assert!(devices.known(names[0]).is_none() && devices.known(names[1]).is_some());
        check(&devices, &pool);
        assert!(!dir.join(names[0]).exists() && devices.pending().unwrap().is_none());
        assert_eq!(devices.add(layer("next"), "next", devices.known(BASE).as_ref()).unwrap().device_id.number(), 8);
    }
}
