//! Listing and checking a store: the metadata files are compared with each other, with the pool, and with what is active and mounted.
//!
//! A layer is looked at while it is held shared; one that cannot be had at once is told to be busy. What the ledger is about is
//! looked at while that is held: between two transactions. Past the driver only the files are looked at, twice, and what is the
//! same at both looks counts.

use super::base;
use super::devices::gone_is_none;
use super::identity::{Likeness, is_in_pool};
use super::judge::{self, ANEW, Files, access, is_deleted};
use super::mount::{Occupant, POINTS};
use super::pool::Health;
use super::record::{BASE, Device, file_name, in_stage, layer_id};
use super::report;
use super::store::{Contents, Store};
use super::{DeviceMapper, Shared, absent};
use crate::driver::{
    Condition, Driver as _, EachFinding, EachLayer, Finding, Flaw, Inspect, Listed, Metadatum, Severity, Usage,
};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::lease;
use crate::locks::{Mode, lock};
use crate::sys::fs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Thin devices without a file that a check asks the pool for: each takes about a millisecond.
const MOST_ASKED: usize = 4096;

/// What has a layer's name.
enum Seen {
    Nothing,
    Busy,
    Layer(Option<Device>, Vec<Flaw>),
}

/// One thing to be asked about a layer, beside its file.
type Question = fn(&Shared, &Device) -> Result<Option<Flaw>>;

fn id_of(file: &str) -> Option<LayerId> {
    LayerId::parse(layer_id(file).as_bytes()).ok()
}

/// The files of layers, and of the base, by their names.
fn names(contents: &Contents) -> Vec<String> {
    let live = contents.devices.iter().filter(|device| !is_deleted(device)).map(|device| &device.hash);
    let damaged = contents.damaged.iter().map(|(name, _)| name).filter(|name| !in_stage(name));
    live.chain(damaged).cloned().collect()
}

/// Tells the layers that were seen.
fn list(seen: BTreeMap<String, Seen>, each: EachLayer<'_>) -> Result<()> {
    for (name, seen) in seen.into_iter().filter(|(name, _)| name != BASE) {
        let Some(id) = id_of(&name) else { continue };
        let (device, condition) = match seen {
            Seen::Nothing => continue,
            Seen::Busy => (None, Condition::Busy),
            Seen::Layer(device, flaws) => {
                let condition = match flaws.into_iter().find(|flaw| flaw.blocks) {
                    None => Condition::Whole,
                    Some(flaw) if flaw.severity == Severity::Busy => Condition::Busy,
                    Some(flaw) => Condition::Unusable(flaw.what),
                };
                (device, condition)
            }
        };
        let parent = device.as_ref().and_then(|device| id_of(&device.parent).filter(|_| device.parent != BASE));
        each(&Listed { id, parent, access: device.as_ref().map(access), condition })?;
    }
    Ok(())
}

/// What is in the metadata directory beside the devices' files.
fn beside(contents: &Contents, in_use: bool) -> Vec<Flaw> {
    let foreign = contents.foreign.iter().map(|name| {
        let what = format!("'{name}' in the metadata directory is none of ours, and is left alone");
        Flaw::new(Severity::Note, what, "none is needed; the C module would delete it")
    });
    let stale = contents.stale.iter().filter(|_| !in_use).map(|name| {
        let what = format!("a crash left the half written metadata file '{name}'");
        Flaw::new(Severity::Note, what, "none is needed: the next start removes it")
    });
    foreign.chain(stale).collect()
}

impl Inspect for DeviceMapper {
    fn layers(&self, each: EachLayer<'_>) -> Result<()> {
        let shared = &self.shared;
        let contents = shared.devices.store.scan()?;
        let files = Files::of(&contents, false);
        let seen = shared.names(&contents).into_iter().map(|name| (name.clone(), shared.see(&name, &files))).collect();
        list(seen, &mut |layer| {
            if layer.condition != Condition::Busy {
                shared.lease.tell(&layer.id);
            }
            each(layer)
        })
    }

    fn check(&self, mend: bool, each: EachFinding<'_>) -> Result<u64> {
        let shared = &self.shared;
        let contents = shared.devices.store.scan()?;
        let files = Files::of(&contents, false);
        let mut layers = 0;
        for name in shared.names(&contents) {
            let id = id_of(&name).filter(|_| name != BASE);
            match shared.see(&name, &files) {
                Seen::Nothing => {}
                Seen::Busy => id.map_or(Ok(()), |id| each(&Finding::busy(id)))?,
                Seen::Layer(_, flaws) => {
                    layers += u64::from(name != BASE);
                    let mended = mend && flaws.iter().any(|flaw| flaw.mendable) && shared.thaw(&name);
                    for flaw in flaws {
                        let mended = mended && flaw.mendable;
                        each(&flaw.told(id.as_ref(), mended))?;
                    }
                }
            }
        }
        for part in [Shared::check_pool, Shared::check_files, Shared::check_active, Shared::check_unrecorded] {
            let found = part(shared, mend).unwrap_or_else(|e| vec![Flaw::unreadable(&e).told(None, false)]);
            found.iter().try_for_each(&mut *each)?;
        }
        if mend {
            self.resume();
        }
        Ok(layers)
    }

    fn layer_metadata(&self, id: &LayerId) -> Result<Vec<Metadatum>> {
        self.shared.metadata(id).context(|| format!("metadata of layer '{id}'"))
    }

    fn layer_usage(&self, id: &LayerId) -> Result<Usage> {
        self.shared.usage(id).context(|| format!("usage of layer '{id}'"))
    }
}

impl Shared {
    fn see(&self, name: &str, files: &Files) -> Seen {
        let Some(_held) = self.locks.try_hold(&[(name, Mode::Shared)]) else { return Seen::Busy };
        // The table learns of it, if somebody put it there behind the driver's back.
        let _ = self.devices.find(name);
        match self.devices.store.device(name) {
            Ok(None) => self.without_file(name),
            Ok(Some(device)) if is_deleted(&device) => Seen::Nothing,
            Err(why) if why.kind() == Kind::Corrupt => Seen::Layer(None, vec![judge::damaged(&why)]),
            Err(why) => Seen::Layer(None, vec![Flaw::unreadable(&why)]),
            Ok(Some(device)) => {
                let mut flaws = files.judge(&device, self.devices.is_claimed_twice(device.device_id));
                let asked: [Question; 4] = [Shared::ask_table, Shared::ask_pool, Shared::ask_active, Shared::ask_mounts];
                for ask in asked {
                    flaws.extend(ask(self, &device).unwrap_or_else(|e| Some(Flaw::unreadable(&e))));
                }
                Seen::Layer(Some(device), flaws)
            }
        }
    }

    /// The driver may still know of a layer in memory.
    fn without_file(&self, name: &str) -> Seen {
        // Files and table change together under it.
        let _ledger = self.devices.ledger();
        let known = self.devices.known(name).filter(|device| !is_deleted(device));
        let Some(device) = known.filter(|_| matches!(self.devices.store.device(name), Ok(None))) else {
            return Seen::Nothing;
        };
        let what =
            format!("its metadata file is gone: after the next start nobody knows of its thin device {}", device.device_id);
        let remedy = "restore the file from a backup before the daemon is restarted; else remove the layer now";
        Seen::Layer(Some(device), vec![Flaw::new(Severity::Hand, what, remedy)])
    }

    /// The names of all layers, by their files and in memory.
    fn names(&self, contents: &Contents) -> Vec<String> {
        let mut names = names(contents);
        names.extend(self.devices.select(|device| !is_deleted(device)).into_iter().map(|device| device.hash));
        names.sort_by(|a, b| layer_id(a).cmp(layer_id(b)).then_with(|| a.cmp(b)));
        names.dedup();
        names
    }

    /// What the driver knows in memory.
    fn ask_table(&self, device: &Device) -> Result<Option<Flaw>> {
        let known = self.devices.known(&device.hash).filter(|known| known.device_id != device.device_id);
        Ok(known.map(|known| {
            let what =
                format!("its metadata file names thin device {}, and was {} before", device.device_id, known.device_id);
            let remedy = "somebody has changed the file while the driver had it: restart the daemon, and check again";
            Flaw::new(Severity::Hand, what, remedy)
        }))
    }

    /// Whether the pool has the device, and was as far when that was made.
    fn ask_pool(&self, device: &Device) -> Result<Option<Flaw>> {
        let devices = &self.devices;
        let active = devices.active(device)?.filter(|(_, likeness, found)| found.is_some() && *likeness != Likeness::Other);
        let is_there = active.is_some() || {
            let _turn = lock(&self.asking);
            base::is_there(devices, device.device_id)?
        };
        if !is_there {
            let what =
                format!("its thin device {} is not in pool '{}': its content is gone", device.device_id, devices.names.pool);
            return Ok(Some(Flaw::new(Severity::Loss, what, ANEW).blocking()));
        }
        let current = devices.ledger().current;
        if device.transaction_id <= current {
            return Ok(None);
        }
        let what = format!("it was made in transaction {}, and the pool is at {current}", device.transaction_id);
        let remedy =
            "the pool's metadata or the metadata files are from a backup of another time: restore both from the same";
        Ok(Some(Flaw::new(Severity::Hand, what, remedy)))
    }

    /// What is active under the device's name. One that is frozen while nobody takes a snapshot was left so.
    fn ask_active(&self, device: &Device) -> Result<Option<Flaw>> {
        let _ledger = self.devices.ledger();
        let Some((info, likeness, found)) = self.devices.active(device)? else { return Ok(None) };
        let name = self.devices.name(device);
        if let (Likeness::Other, Some(found)) = (likeness, found) {
            let what = format!("its block device's name '{name}' is taken by '{} {}'", found.kind, found.text.trim_end());
            let remedy =
                format!("end what uses that device (dmsetup info '{name}', lsof), then run dmsetup remove '{name}'");
            return Ok(Some(Flaw::new(Severity::Hand, what, remedy).blocking()));
        }
        if !info.active || !info.suspended {
            return Ok(None);
        }
        let what = format!("its block device '{name}' is suspended: whoever reads or writes it hangs");
        let remedy = format!("check again with mending, or run dmsetup resume '{name}'");
        Ok(Some(Flaw::new(Severity::Hand, what, remedy).mendable()))
    }

    fn ask_mounts(&self, device: &Device) -> Result<Option<Flaw>> {
        let points = &self.place.points;
        if points.occupant(&self.devices, device)? != Occupant::Stranger {
            return Ok(None);
        }
        let place = fs::shown(points.of(&device.hash));
        let what = format!("something else is mounted on '{place}'");
        let remedy = format!("find out who mounted it, and unmount it (umount '{place}')");
        Ok(Some(Flaw::new(Severity::Hand, what, remedy).blocking()))
    }

    /// Lets a device go on that was left suspended.
    fn thaw(&self, name: &str) -> bool {
        let _ledger = self.devices.ledger();
        let Some(device) = self.devices.known(name) else { return false };
        self.devices.thaw(&self.devices.name(&device)).is_ok()
    }

    fn check_pool(&self, _mend: bool) -> Result<Vec<Finding>> {
        let devices = &self.devices;
        let status = devices.pool_status()?;
        let mut flaws = Vec::new();
        if status.health != Health::Good {
            let what = format!("thin pool '{}' is in state {}", devices.names.pool, status.health);
            let severity = if status.health == Health::Failed { Severity::Loss } else { Severity::Hand };
            flaws.push(Flaw::new(severity, what, status.health.advice()));
        }
        if let Some(pending) = devices.pending()? {
            // Begun before the ledger could be had, and through by now? What is not was left by a call that failed.
            let _ledger = devices.ledger();
            let is_open = devices.store.transaction()?.is_some_and(|now| now == pending);
            if is_open && devices.pool_status()?.transaction < pending.open_transaction_id {
                let what = format!(
                    "transaction {} (thin device {} of '{}') was not closed",
                    pending.open_transaction_id, pending.device_id, pending.device_hash
                );
                flaws.push(Flaw::new(Severity::Note, what, "none is needed: the next transaction or start settles it"));
            }
        }
        if devices.find(BASE).is_ok_and(|base| base.is_none_or(|base| !base.initialized || base.deleted)) {
            let what = "there is no record of a finished base device: layers without a parent cannot be made";
            flaws.push(Flaw::new(Severity::Hand, what, "restore the file 'base' of the metadata directory from a backup"));
        }
        Ok(flaws.into_iter().map(|flaw| flaw.told(None, false)).collect())
    }

    /// What is on the stage or deleted, and what is in the metadata directory beside.
    fn check_files(&self, mend: bool) -> Result<Vec<Finding>> {
        // Writes are made by those who hold the ledger, or a layer.
        let first = self.devices.store.scan()?;
        let ledger = self.devices.ledger();
        let mut contents = self.devices.store.scan()?;
        drop(ledger);
        contents.stale.retain(|name| first.stale.contains(name));
        contents.foreign.retain(|name| first.foreign.contains(name));
        let mut found = Vec::new();
        for flaw in beside(&contents, false) {
            found.push(flaw.told(None, false));
        }
        for device in contents.devices.iter().filter(|device| is_deleted(device)) {
            let layer = device.hash.strip_prefix(".stage-").unwrap_or(&device.hash);
            let Some(held) = self.locks.try_hold(&[(layer, Mode::Shared)]) else { continue };
            let is_there = self.devices.store.device(&device.hash).is_ok_and(|now| now.as_ref() == Some(device));
            drop(held);
            if is_there {
                let is_known = self.devices.known(&device.hash).is_some_and(|known| known.deleted);
                let what = format!(
                    "thin device {} of '{}' is half made or deleted, and not gone yet",
                    device.device_id, device.hash
                );
                let remedy = "none is needed: it is deleted in the background when nobody uses it, and by the next start";
                found.push(Flaw::new(Severity::Note, what, remedy).told(None, mend && is_known));
            }
        }
        Ok(found)
    }

    /// Devices of this home and pool that are active, and of no layer.
    fn check_active(&self, _mend: bool) -> Result<Vec<Finding>> {
        let devices = &self.devices;
        let pool = devices.pool_number()?;
        let mut found = Vec::new();
        for name in devices.kernel.names()?.into_iter().filter(|name| devices.names.is_ours(name)) {
            let is_known = || devices.select(|_| true).iter().any(|device| devices.name(device) == name);
            if devices.names.is_look(&name) || is_known() {
                continue;
            }
            let Some(table) = gone_is_none(devices.kernel.table(&name))? else { continue };
            // Its layer may have been removed, or made, meanwhile.
            if is_in_pool(&table, &pool)
                && !is_known()
                && devices.kernel.info(&name)?.is_some_and(|info| !info.removal_pending)
            {
                let what = format!("block device '{name}' is active, and of no layer");
                let remedy = "none is needed: the next start removes it when nobody uses it";
                found.push(Flaw::new(Severity::Note, what, remedy).told(None, false));
            }
        }
        Ok(found)
    }

    /// Thin devices in the pool of which no file tells. The kernel lists none, so each id that may have been used is asked for.
    fn check_unrecorded(&self, _mend: bool) -> Result<Vec<Finding>> {
        let devices = &self.devices;
        let ids = devices.ledger().ids.ever_used();
        let mut found = Vec::new();
        for id in ids.filter(|id| !devices.is_claimed(*id)).take(MOST_ASKED) {
            let _turn = lock(&self.asking);
            // So that nobody is about to record it.
            let _ledger = devices.ledger();
            if devices.is_claimed(id) || !base::is_there(devices, id)? {
                continue;
            }
            let pool = &devices.names.pool;
            let what = format!("thin device {id} is in pool '{pool}', and no metadata file tells of it");
            let remedy = format!(
                "if metadata-corrupt or a backup has its file, restore that; else free its space with dmsetup message {pool} 0 'delete {id}'"
            );
            found.push(Flaw::new(Severity::Hand, what, remedy).told(None, false));
        }
        // A file that cannot be read is of one of them, most likely, and was told already.
        let damaged = devices.store.scan()?.damaged.len();
        Ok(if found.len() > damaged { found } else { Vec::new() })
    }
}

/// A store without its driver.
struct Past {
    home: PathBuf,
}

/// Makes ready to look at the files of the store in `home`, which must be there. The pool is not looked at: only the driver's options
/// say which it is. Nothing is written or locked.
///
/// # Errors
/// There is no such directory.
pub fn inspect(home: &Path) -> Result<Box<dyn Inspect>> {
    let past = Past { home: home.to_owned() };
    past.store()?;
    Ok(Box::new(past))
}

impl Past {
    fn store(&self) -> Result<(Store, bool)> {
        let what = || format!("devicemapper home '{}'", self.home.display());
        let home = fs::open_dir(&self.home).context(what)?;
        let in_use = lease::holder(&home)?.is_some();
        Ok((Store::look(home).context(what)?, in_use))
    }

    /// Every layer with what is wrong with it at two looks, and what is beside.
    fn seen(&self) -> Result<(BTreeMap<String, Seen>, Vec<Flaw>)> {
        let (store, in_use) = self.store()?;
        let first = store.scan()?;
        let second = store.scan()?;
        let (before, now) = (Files::of(&first, in_use), Files::of(&second, in_use));
        let mut seen = BTreeMap::new();
        for device in second.devices.iter().filter(|device| !is_deleted(device)) {
            let earlier = before.judge(device, before.is_claimed_twice(device));
            let flaws =
                now.judge(device, now.is_claimed_twice(device)).into_iter().filter(|flaw| earlier.contains(flaw)).collect();
            seen.insert(device.hash.clone(), Seen::Layer(Some(device.clone()), flaws));
        }
        for (name, why) in second.damaged.iter().filter(|(name, _)| !in_stage(name)) {
            if first.damaged.iter().any(|(before, _)| before == name) {
                seen.insert(name.clone(), Seen::Layer(None, vec![judge::damaged(why)]));
            }
        }
        let found_before = beside(&first, in_use);
        let beside = beside(&second, in_use).into_iter().filter(|flaw| found_before.contains(flaw)).collect();
        Ok((seen, beside))
    }
}

impl Inspect for Past {
    fn layers(&self, each: EachLayer<'_>) -> Result<()> {
        list(self.seen()?.0, each)
    }

    fn check(&self, mend: bool, each: EachFinding<'_>) -> Result<u64> {
        if mend {
            return Err(Error::new(Kind::Invalid, "only the driver that has a store mends it")
                .hint("initialise it, and check without naming a driver"));
        }
        let (seen, beside) = self.seen()?;
        let layers = seen.keys().filter(|name| *name != BASE).count() as u64;
        for (name, seen) in seen {
            let Seen::Layer(_, flaws) = seen else { continue };
            let id = id_of(&name).filter(|_| name != BASE);
            flaws.into_iter().try_for_each(|flaw| each(&flaw.told(id.as_ref(), false)))?;
        }
        beside.into_iter().try_for_each(|flaw| each(&flaw.told(None, false)))?;
        Ok(layers)
    }

    /// Without the name of the block device: it has that of the pool in it.
    fn layer_metadata(&self, id: &LayerId) -> Result<Vec<Metadatum>> {
        let name = file_name(id);
        let found = self.store().and_then(|(store, _)| store.device(&name));
        let device = found.and_then(|found| found.filter(|device| !is_deleted(device)).ok_or_else(|| absent(&name)));
        let device = device.context(|| format!("metadata of layer '{id}'"))?;
        Ok(report::parts(&device, None, &self.home.join(POINTS)))
    }

    fn layer_usage(&self, id: &LayerId) -> Result<Usage> {
        let what = format!("usage of layer '{id}': past the driver it cannot be told, since the pool counts it");
        Err(Error::new(Kind::Unsupported, what).hint("initialise the driver"))
    }
}
