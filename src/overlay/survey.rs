//! Listing and checking a store: every layer in it. What is in home beside the layers is [`super::beside`].
//!
//! Nobody waits for a check and a check for nobody. A layer is looked at while it is held shared; one that cannot be had at once is
//! told to be busy. What looks wrong is looked at again while all layers are held that it may come from, and counts if it is wrong
//! then too. Past the driver there are no locks to take: there it counts if it is the same at the second look.

use super::Shared;
use super::judge::{Judge, Judged};
use super::layout::{Found, Home, RESERVED, Vacant, find};
use super::repair::Parent;
use crate::driver::{Condition, EachFinding, EachLayer, Finding, Flaw, Listed, Severity};
use crate::error::Result;
use crate::id::LayerId;
use crate::locks::{Held, Mode};
use crate::log;
use crate::quota::Control;
use crate::sys::fs;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// Overlayfs stacks no more.
const DEEPEST: usize = 500;

/// A look at a store.
pub(super) struct Survey<'a> {
    pub(super) home: &'a Home,
    pub(super) dir: OwnedFd,
    pub(super) quota: Option<&'a Control>,
    /// The driver that has the store; `None` past it.
    pub(super) driver: Option<&'a Shared>,
    /// Another process may be at work on any layer.
    pub(super) in_use: bool,
}

/// What has an id.
enum Seen {
    Nothing,
    Busy,
    /// A layer, or what stands in the way of one.
    Thing(Judged),
}

/// Layers that a look holds, if there is anybody to hold them against.
pub(super) struct Turn<'a>(#[allow(dead_code)] Option<Held<'a>>);

impl<'a> Survey<'a> {
    pub(super) fn of(shared: &'a Shared) -> Result<Survey<'a>> {
        let (home, quota) = (&shared.home, shared.quota.as_ref().ok());
        Ok(Survey { home, dir: home.open()?, quota, driver: Some(shared), in_use: false })
    }

    /// Shares these layers, no one twice, if that needs no waiting.
    pub(super) fn share<'id>(&self, ids: impl IntoIterator<Item = &'id LayerId>) -> Option<Turn<'a>> {
        let Some(driver) = self.driver else { return Some(Turn(None)) };
        let wanted: Vec<(&str, Mode)> = ids.into_iter().map(|id| (id.as_str(), Mode::Shared)).collect();
        driver.locks.try_hold(&wanted).map(|held| Turn(Some(held)))
    }

    /// See [`crate::driver::Inspect::layers`]. Whoever hears of a layer here was told of it.
    pub(super) fn layers(&self, each: EachLayer<'_>) -> Result<()> {
        let mut all = BTreeMap::new();
        for id in self.ids()? {
            match self.see(&id) {
                Seen::Nothing => {}
                Seen::Busy => drop(all.insert(id, None)),
                Seen::Thing(judged) if !judged.is_layer => {}
                Seen::Thing(judged) => {
                    if let Some(driver) = self.driver.filter(|_| !judged.is_void) {
                        driver.lease.tell(&id);
                    }
                    all.insert(id, Some(judged));
                }
            }
        }
        for (id, judged) in &all {
            let (parent, access) = judged.as_ref().map_or((None, None), |seen| (seen.parent.clone(), seen.access));
            each(&Listed { id: id.clone(), parent, access, condition: condition(&all, id) })?;
        }
        Ok(())
    }

    /// See [`crate::driver::Inspect::check`].
    pub(super) fn check(&self, mend: bool, each: EachFinding<'_>) -> Result<u64> {
        let mender = self.driver.filter(|_| mend);
        let (mut layers, mut projects) = (0, BTreeMap::<u32, Vec<LayerId>>::new());
        for id in self.ids()? {
            match self.see(&id) {
                Seen::Nothing => {}
                Seen::Busy => each(&Finding::busy(id))?,
                Seen::Thing(judged) => {
                    layers += u64::from(judged.is_layer);
                    if let Some(project) = judged.project {
                        projects.entry(project).or_default().push(id.clone());
                    }
                    let mended = mender.is_some_and(|driver| driver.mend_flaws(&id, &judged.flaws));
                    for flaw in judged.flaws {
                        let mended = mended && flaw.mendable;
                        each(&flaw.told(Some(&id), mended))?;
                    }
                }
            }
        }
        self.check_beside(mender, &projects, each)?;
        Ok(layers)
    }

    /// The names in home that a layer could have.
    fn ids(&self) -> Result<BTreeSet<LayerId>> {
        let mut ids = BTreeSet::new();
        fs::each_entry(&self.dir, |entry| {
            let id = LayerId::parse(entry.name.as_bytes()).ok();
            ids.extend(id.filter(|id| id.check_free(&RESERVED).is_ok()));
            Ok(())
        })?;
        Ok(ids)
    }

    fn see(&self, id: &LayerId) -> Seen {
        let Some(held) = self.share([id]) else { return Seen::Busy };
        let first = self.look(id);
        drop(held);
        let Some(first) = first else { return Seen::Nothing };
        if first.flaws.is_empty() {
            return Seen::Thing(first);
        }
        let around: BTreeSet<&LayerId> = first.around.iter().chain([id]).collect();
        let Some(_held) = self.share(around) else { return Seen::Busy };
        let Some(mut judged) = self.look(id) else { return Seen::Nothing };
        judged.flaws.retain(|flaw| first.flaws.contains(flaw));
        Seen::Thing(judged)
    }

    /// Judges what has an id; `None` if nothing has.
    fn look(&self, id: &LayerId) -> Option<Judged> {
        let judge = Judge { home: self.home, dir: &self.dir, quota: self.quota, in_use: self.in_use };
        let place = || fs::shown(self.home.path.join(id.as_str()));
        let thing = |what: &str, remedy: String| {
            let flaws = vec![Flaw::new(Severity::Note, what, remedy)];
            Some(Judged { flaws, ..Judged::default() })
        };
        match find(self.home, &self.dir, id) {
            Ok(Found::Nothing(Vacant::Absent)) => None,
            Ok(Found::Nothing(Vacant::Hollow)) => thing(
                "the name has nothing behind it",
                "none is needed: who makes a layer of that id replaces it".to_owned(),
            ),
            Ok(Found::Foreign) => {
                let remedy = format!("none, unless a layer of that id is wanted: then move '{}' away", place());
                thing("what has this name is no layer, and is left alone", remedy)
            }
            Ok(Found::Layer(layer)) => Some(judge.layer(&layer)),
            Err(e) => Some(Judged { flaws: vec![Flaw::unreadable(&e)], is_layer: true, ..Judged::default() }),
        }
    }
}

/// Whether a layer can be used: itself, and all below it.
fn condition(all: &BTreeMap<LayerId, Option<Judged>>, id: &LayerId) -> Condition {
    let mut next = Some(id);
    for _ in 0..=DEEPEST {
        let Some(at) = next else { return Condition::Whole };
        // One that is not listed is missing, which its child says of itself.
        let Some(seen) = all.get(at) else { return Condition::Whole };
        let Some(judged) = seen else { return Condition::Busy };
        match judged.flaws.iter().find(|flaw| flaw.blocks) {
            Some(flaw) if flaw.severity == Severity::Busy => return Condition::Busy,
            Some(flaw) if at == id => return Condition::Unusable(flaw.what.clone()),
            Some(flaw) => return Condition::Unusable(format!("a layer below it, '{at}': {}", flaw.what)),
            None => next = judged.parent.as_ref(),
        }
    }
    Condition::Unusable("it is stacked upon itself".to_owned())
}

impl Shared {
    /// Repairs a layer, if nobody is working on it, and if nothing is wrong with it that a repair would have to guess.
    fn mend_flaws(&self, id: &LayerId, flaws: &[Flaw]) -> bool {
        let is_safe = flaws.iter().all(|flaw| flaw.mendable || !flaw.blocks);
        if !is_safe || !flaws.iter().any(|flaw| flaw.mendable) {
            return false;
        }
        let Some(_held) = self.locks.try_hold(&[(id.as_str(), Mode::Exclusive)]) else { return false };
        let mended = self.home.open().and_then(|home| {
            let Found::Layer(layer) = find(&self.home, &home, id)? else { return Ok(()) };
            self.before_use(&home, &layer);
            self.mend(&home, &layer, Parent::Unsaid)
        });
        mended.inspect_err(|e| log::warn!("layer '{id}' cannot be mended: {e}")).is_ok()
    }
}
