//! Checking what is in home beside the layers: short names, what is half made or half deleted, quota projects, and mounts.

use super::Shared;
use super::layout::{Found, LINKS, Layer, LinkId, MERGED, find, is_temporary, link_text, owner_of};
use super::links::{self, is_referred_to, is_staging, is_unneeded};
use super::survey::Survey;
use crate::driver::{EachFinding, Finding, Flaw, Severity};
use crate::error::Result;
use crate::error::errno::{EINVAL, ENOTDIR};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::log;
use crate::mounts;
use crate::quota::{self, Control};
use crate::sys::fs;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::atomic::Ordering;

/// Which layers have which quota project.
type Projects = BTreeMap<u32, Vec<LayerId>>;

/// Finds what is wrong with one part of it.
type Part<'a> = &'a dyn Fn() -> Result<Vec<Finding>>;

/// Where the remote layer store may be mounted.
const REMOTE: &str = super::layout::RESERVED[1];

impl Survey<'_> {
    /// All that is wrong beside the layers.
    pub(super) fn check_beside(&self, mender: Option<&Shared>, projects: &Projects, each: EachFinding<'_>) -> Result<()> {
        let parts: [(&str, Part<'_>); 5] = [
            ("the short names", &|| self.stray_links(mender)),
            ("what is half made or half deleted", &|| self.leftovers(mender)),
            ("the quota projects", &|| self.projects(projects)),
            ("raised limits", &|| self.raised_limits(mender, projects)),
            ("the mounts", &|| self.stray_mounts()),
        ];
        for (what, part) in parts {
            let found = part().unwrap_or_else(|e| {
                let what = format!("{what} cannot be looked at: {e}");
                vec![Flaw::new(Severity::Hand, what, "see the error, and check again").told(None, false)]
            });
            found.iter().try_for_each(&mut *each)?;
        }
        Ok(())
    }

    /// Short names that lead to no layer, and those that nobody needs. While another process makes and removes layers there are always some.
    fn stray_links(&self, mender: Option<&Shared>) -> Result<Vec<Finding>> {
        let links = match links::open(&self.dir) {
            Ok(Some(links)) => links,
            Ok(None) => return Ok(Vec::new()), // each layer says that its own is missing
            Err(e) if e.errno() == ENOTDIR => {
                let (what, remedy) = (format!("'{LINKS}' is no directory"), "move it away; it is made again then");
                return Ok(vec![Flaw::new(Severity::Hand, what, remedy).told(None, false)]);
            }
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        fs::each_entry(&links, |entry| {
            names.push(entry.name);
            Ok(())
        })?;
        let mut found = Vec::new();
        for name in names {
            let Ok(text) = fs::read_link_at(&links, &name) else {
                found.extend(self.no_link(&name));
                continue;
            };
            match (owner_of(&text), LinkId::parse(name.as_bytes())) {
                (Some(owner), Ok(link)) => found.extend(self.stray_link(mender, &link, &owner)?),
                (Some(owner), Err(_)) if is_staging(name.as_bytes()) => {
                    found.extend(self.half_made_link(mender, &name, &owner)?)
                }
                _ => found.extend(self.no_link(&name)),
            }
        }
        Ok(found)
    }

    fn no_link(&self, name: &OsString) -> Option<Finding> {
        // Gone meanwhile?
        fs::stat_at(&self.dir, Path::new(LINKS).join(name)).ok()?;
        let what = format!("'{LINKS}/{}' is no short name of a layer, and is left alone", fs::shown(name));
        Some(Flaw::new(Severity::Note, what, "none is needed").told(None, false))
    }

    fn stray_link(&self, mender: Option<&Shared>, link: &LinkId, owner: &LayerId) -> Result<Option<Finding>> {
        let is_own = Layer::open(&self.dir, owner).and_then(|layer| layer.link()).is_ok_and(|own| own == *link);
        if is_own || self.in_use {
            return Ok(None);
        }
        let Some(held) = self.share([owner]) else { return Ok(None) };
        let is_there = fs::read_link_at(&self.dir, link.path()).is_ok_and(|text| text == link_text(owner));
        // To who is stacked upon a layer that is missing, its name tells which that was.
        let is_stray = is_there && is_unneeded(&self.dir, link, owner)? && !is_referred_to(&self.dir, link)?;
        drop(held);
        if !is_stray {
            return Ok(None);
        }
        let what = format!("the short name '{}' of '{owner}' is nobody's any more", link.path());
        let mended = mender.is_some_and(|driver| {
            driver.sweep_link(&self.dir, link, owner).unwrap_or_else(|e| {
                log::warn!("'{}' cannot be removed: {e}", link.path());
                false
            })
        });
        Ok(Some(Flaw::new(Severity::Note, what, "none is needed: the next start removes it").told(None, mended)))
    }

    fn half_made_link(&self, mender: Option<&Shared>, name: &OsString, owner: &LayerId) -> Result<Option<Finding>> {
        if self.in_use {
            return Ok(None);
        }
        let is_there = || fs::stat_at(&self.dir, Path::new(LINKS).join(name)).is_ok();
        // Whoever makes one holds its layer.
        let Some(held) = self.share([owner]) else { return Ok(None) };
        let was_left = is_there();
        drop(held);
        if !was_left {
            return Ok(None);
        }
        let what = format!("a crash left the half made short name '{LINKS}/{}' of '{owner}'", fs::shown(name));
        if let Some(driver) = mender {
            driver.sweep_staging(&self.dir)?;
        }
        let mended = mender.is_some() && !is_there();
        Ok(Some(Flaw::new(Severity::Note, what, "none is needed: the next start removes it").told(None, mended)))
    }

    /// What the worker deletes, or a start hands to it.
    fn leftovers(&self, mender: Option<&Shared>) -> Result<Vec<Finding>> {
        let mut names = match self.driver {
            Some(driver) => driver.leftovers(&self.dir)?,
            None if self.in_use => Vec::new(),
            None => self.names(|name| is_temporary(name.as_bytes()))?,
        };
        // An operation that ended meanwhile has deleted its own.
        names.retain(|name| fs::stat_at(&self.dir, name).is_ok());
        if let Some(driver) = mender.filter(|_| !names.is_empty()) {
            driver.is_left.store(true, Ordering::SeqCst);
        }
        let finding = |name: &OsString| {
            let what = format!("'{}' is half made or half deleted", fs::shown(name));
            let remedy = "none is needed: it is deleted in the background, and by the next start";
            Flaw::new(Severity::Note, what, remedy).told(None, mender.is_some())
        };
        Ok(names.iter().map(finding).collect())
    }

    /// The names in home that are wanted.
    fn names(&self, wanted: impl Fn(&OsString) -> bool) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        fs::each_entry(&self.dir, |entry| {
            if wanted(&entry.name) {
                names.push(entry.name);
            }
            Ok(())
        })?;
        Ok(names)
    }

    fn projects(&self, projects: &Projects) -> Result<Vec<Finding>> {
        let Some(quota) = self.quota else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (project, layers) in projects.iter().filter(|(_, layers)| layers.len() > 1) {
            let Some(_held) = self.share(layers) else { continue };
            let mut all = true;
            for id in layers {
                all &= self.project_of(quota, id)? == Some(*project);
            }
            if all {
                let names: Vec<&str> = layers.iter().map(LayerId::as_str).collect();
                let what =
                    format!("layers '{}' have the same quota project {project}: they share one limit", names.join("', '"));
                let remedy = "remove one of them and make it anew; or give it another project while it is not mounted (chattr -R -p on its directory), and limits (setquota -P)";
                found.push(Flaw::new(Severity::Hand, what, remedy).told(None, false));
            }
        }
        if let (false, Err(why)) = (projects.is_empty(), quota.check_enforced(self.dir.as_fd())) {
            let what = format!("layers have limits, which are not enforced: {}", why.message());
            let remedy = "mount the filesystem with project quota (-o prjquota), or switch it on as said";
            found.push(Flaw::new(Severity::Hand, what, remedy).told(None, false));
        }
        let unused = quota.unused_limits(self.dir.as_fd()).unwrap_or_else(|e| {
            found.push(Flaw::unreadable(&e.context("look for limits that are nobody's")).told(None, false));
            Vec::new()
        });
        for project in unused {
            let what = format!("quota project {project} has a limit, and nobody has the project");
            let remedy =
                format!("if it is none of yours, run setquota -P {project} 0 0 0 0 on the filesystem's mount point");
            // It may well be an administrator's.
            found.push(Flaw::new(Severity::Note, what, remedy).told(None, false));
        }
        Ok(found)
    }

    fn project_of(&self, quota: &Control, id: &LayerId) -> Result<Option<u32>> {
        match find(self.home, &self.dir, id)? {
            Found::Layer(layer) => quota.project(self.dir.as_fd(), layer.as_fd()),
            _ => Ok(None),
        }
    }

    /// Limits that a crash left raised for the moment of a mount.
    fn raised_limits(&self, mender: Option<&Shared>, projects: &Projects) -> Result<Vec<Finding>> {
        let Some(quota) = self.quota.filter(|_| !self.in_use) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for note in self.names(|name| quota::is_note(name))? {
            let holders = quota::project_of(&note).and_then(|project| projects.get(&project));
            let holders = holders.map_or(&[][..], Vec::as_slice);
            let Some(held) = self.share(holders) else { continue };
            match fs::read_link_at(&self.dir, &note) {
                // The mount is through; or it is nobody's note.
                Err(e) if fs::is_absent(&e) || e.errno() == EINVAL => continue,
                read => drop(read?),
            }
            drop(held);
            let mended = mender.is_some_and(|driver| {
                let wanted: Vec<_> = holders.iter().map(|id| (id.as_str(), Mode::Exclusive)).collect();
                let held = driver.locks.try_hold(&wanted);
                // Whose it is may be unknown because somebody is at work on it.
                held.is_some() && !holders.is_empty() && quota.settle_note(self.dir.as_fd(), &note).is_ok()
            });
            let what = format!("limits are raised as a crash left them ('{}')", fs::shown(&note));
            let remedy = "none is needed: the next start or mount lowers them again";
            found.push(Flaw::new(Severity::Note, what, remedy).told(None, mended));
        }
        Ok(found)
    }

    /// Mounts on places in home where this driver makes none. Those inside a mounted layer are its user's.
    fn stray_mounts(&self) -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        for (point, kind) in mounts::kinds_below(&self.home.real)? {
            let below = point.strip_prefix(&self.home.real).unwrap_or(&point);
            let names: Vec<&[u8]> = below.components().map(|part: Component<'_>| part.as_os_str().as_bytes()).collect();
            let what = match names.as_slice() {
                [name, ..] if is_temporary(name) || *name == REMOTE.as_bytes() => continue,
                [_, part, _, ..] if *part == MERGED.as_bytes() => continue,
                [_, part] if *part == MERGED.as_bytes() && kind == b"overlay" => continue,
                [_, part] if *part == MERGED.as_bytes() => {
                    format!("'{}' has something mounted on it that is not the layer", fs::shown(&point))
                }
                _ => format!("something is mounted on '{}', where it hides what the store has there", fs::shown(&point)),
            };
            let remedy = format!("find out who mounted it, and unmount it (umount '{}')", fs::shown(&point));
            found.push(Flaw::new(Severity::Hand, what, remedy).told(None, false));
        }
        Ok(found)
    }
}
