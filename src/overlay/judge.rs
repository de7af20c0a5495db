//! Judging one layer: what it says about itself is compared with what is there. Nothing is changed.

use super::layout::{DIFF, Home, LOWER, Layer, LinkId, Lowers, Unfinished, hides_all};
use super::leftover::children;
use super::links::{Standing, owner, standing};
use super::repair::{known_lowers, lowers_of, missing_parts};
use super::volatile;
use crate::driver::{Access, Flaw, Severity};
use crate::error::{Kind, Result};
use crate::id::LayerId;
use crate::quota::{Belonging, Control};
use crate::sys::fs;
use std::os::fd::{AsFd, OwnedFd};

/// What was seen of a layer.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) flaws: Vec<Flaw>,
    pub(super) is_layer: bool,
    /// Nothing would be lost with it: its first unpacking was interrupted.
    pub(super) is_void: bool,
    /// The layers that it refers to by its links, there or not.
    pub(super) around: Vec<LayerId>,
    pub(super) parent: Option<LayerId>,
    pub(super) access: Option<Access>,
    /// The project that was made for it.
    pub(super) project: Option<u32>,
}

const REPAIR: &str = "check again with mending, or call graphdriver_try_repair_lowers";
const ANEW: &str = "remove the layer and make it anew (an image layer: pull its image again)";

/// What a layer is compared with.
pub(super) struct Judge<'a> {
    pub(super) home: &'a Home,
    pub(super) dir: &'a OwnedFd,
    pub(super) quota: Option<&'a Control>,
    /// Another process may be at work on any layer.
    pub(super) in_use: bool,
}

/// Judges one part of a layer.
type Part<'a> = fn(&Judge<'a>, &Layer, &mut Judged) -> Result<()>;

impl<'a> Judge<'a> {
    /// All that is wrong with a layer. What cannot be asked of it is a flaw as well.
    pub(super) fn layer(&self, layer: &Layer) -> Judged {
        let mut judged = Judged { is_layer: true, ..Judged::default() };
        let parts: [Part<'a>; 6] = [Self::content, Self::marks, Self::link, Self::parents, Self::parts, Self::project];
        for part in parts {
            if let Err(e) = part(self, layer, &mut judged) {
                let flaw = Flaw::unreadable(&e);
                if !judged.flaws.contains(&flaw) {
                    judged.flaws.push(flaw);
                }
            }
        }
        judged
    }

    fn content(&self, layer: &Layer, judged: &mut Judged) -> Result<()> {
        if !layer.has_dir(DIFF)? {
            let place = fs::shown(self.home.path(&layer.id, DIFF));
            let remedy = format!("restore '{place}' from a backup, or {ANEW}");
            judged.flaws.push(Flaw::new(Severity::Loss, "its content, the directory 'diff', is missing", remedy).blocking());
        }
        Ok(())
    }

    fn marks(&self, layer: &Layer, judged: &mut Judged) -> Result<()> {
        judged.access = layer.access()?;
        if !layer.is_access_clear()? {
            let what = "the mark that tells a read-only layer from a read-write one holds neither 'ro' nor 'rw'";
            let remedy = "set it with setfattr -n trusted.graphdriver.access -v rw (a container's) or ro (an image's) on its directory";
            judged.flaws.push(Flaw::new(Severity::Hand, what, remedy));
        }
        if let Some(how) = layer.unfinished()? {
            judged.is_void = how == Unfinished::First;
            judged.flaws.push(self.unfinished(layer, how, judged.access)?);
        }
        if volatile::is_doubtful(self.home, layer)? {
            let what =
                "it was mounted 'volatile' when the machine went down: what was written last may be missing or broken";
            let remedy =
                "remove it; or start the daemon with overlay2.volatile=accept (as it is) or =discard (without content)";
            judged.flaws.push(Flaw::new(Severity::Loss, what, remedy).blocking());
        }
        Ok(())
    }

    fn unfinished(&self, layer: &Layer, how: Unfinished, access: Option<Access>) -> Result<Flaw> {
        if self.in_use {
            let what = "something is being unpacked into it, or that was interrupted: the process that uses the store knows";
            return Ok(Flaw::new(Severity::Busy, what, "check again later, or with that process's driver").blocking());
        }
        let interrupted = "the first unpacking into it was interrupted";
        Ok(match how {
            Unfinished::Again => {
                let what = "an unpacking into its content was interrupted: it is neither the old nor the new";
                Flaw::new(Severity::Loss, what, ANEW)
            }
            Unfinished::First if access == Some(Access::ReadOnly) && children(self.dir, layer)?.told()?.is_none() => {
                Flaw::new(
                    Severity::Note,
                    interrupted,
                    "none is needed: the next start removes it, or who pulls it again replaces it",
                )
            }
            Unfinished::First => Flaw::new(Severity::Hand, interrupted, ANEW),
        }
        .blocking())
    }

    fn link(&self, layer: &Layer, judged: &mut Judged) -> Result<()> {
        let link = match layer.link() {
            Ok(link) => link,
            Err(e) if e.kind() == Kind::Corrupt => {
                let what = "the file 'link', which holds its short name, is missing or damaged";
                judged.flaws.push(Flaw::new(Severity::Hand, what, REPAIR).blocking().mendable());
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let flaw = match standing(self.dir, &link, &layer.id)? {
            Standing::Own => return Ok(()),
            Standing::Missing => {
                let what = format!("its short name '{}' is missing, or leads elsewhere", link.path());
                Flaw::new(Severity::Note, what, "none is needed: the next start or mount makes it again").mendable()
            }
            Standing::Others => {
                let what = format!("its short name '{}' is another layer's as well", link.path());
                Flaw::new(Severity::Hand, what, REPAIR).blocking().mendable()
            }
        };
        judged.flaws.push(flaw);
        Ok(())
    }

    fn parents(&self, layer: &Layer, judged: &mut Judged) -> Result<()> {
        let own = match layer.own_lowers() {
            Ok(Some(own)) => own,
            Ok(None) => return self.untold(layer, Severity::Note, judged),
            Err(e) if e.kind() == Kind::Corrupt => return self.untold(layer, Severity::Hand, judged),
            Err(e) => return Err(e),
        };
        for link in &own.0 {
            judged.around.extend(owner(self.dir, link)?);
        }
        let Some(first) = own.0.first() else { return Ok(()) };
        judged.parent = owner(self.dir, first)?;
        if layer.has_dir(DIFF)? && layer.is_root_opaque()? {
            let what = "its root hides all layers below it, and yet it is stacked upon some";
            judged.flaws.push(Flaw::new(Severity::Hand, what, REPAIR).mendable());
        } else {
            judged.flaws.extend(self.parent(layer, &own, first)?);
        }
        Ok(())
    }

    /// The layer itself does not tell what it is stacked upon: the layers above it may, or that it has the form of one without parents.
    fn untold(&self, layer: &Layer, severity: Severity, judged: &mut Judged) -> Result<()> {
        let said = children(self.dir, layer)?.told()?;
        let first = said.as_ref().and_then(|lowers| lowers.0.first());
        judged.parent = first.map(|first| owner(self.dir, first)).transpose()?.flatten();
        let what = "its list of parents, the file 'lower', is missing or damaged";
        if said.is_some() {
            judged.flaws.push(Flaw { blocks: severity > Severity::Note, ..Flaw::new(severity, what, REPAIR).mendable() });
        } else if severity > Severity::Note || known_lowers(lowers_of(self.dir, layer).map(Some))?.is_none() {
            let remedy =
                format!("call graphdriver_try_repair_lowers with its parent, or with none if it has none; else {ANEW}");
            judged.flaws.push(Flaw::new(Severity::Hand, what, remedy).blocking());
        }
        Ok(())
    }

    /// The parent and its list. Whatever is wrong further down is told of the layers there.
    fn parent(&self, layer: &Layer, own: &Lowers, first: &LinkId) -> Result<Option<Flaw>> {
        let id = owner(self.dir, first)?;
        let parent = id.as_ref().map(|id| Layer::find(self.dir, id)).transpose()?.flatten();
        let Some(parent) = parent else { return self.without_parent(own, first, id.as_ref()) };
        if parent.id == layer.id {
            let remedy = format!("correct its file 'lower' by hand; else {ANEW}");
            return Ok(Some(Flaw::new(Severity::Hand, "it is stacked upon itself", remedy).blocking()));
        }
        let has_content = parent.has_dir(DIFF)?;
        let (Ok(Some(theirs)), true) = (parent.own_lowers(), has_content) else { return Ok(None) };
        if parent.is_root_opaque()? || own.0[1..] == theirs.0 || self.seen(&own.0[1..])? == self.seen(&theirs.0)? {
            return Ok(None);
        }
        let what = format!("its list of parents does not go on as that of its parent '{}'", parent.id);
        let remedy = format!("compare the files '{LOWER}' of both, and correct the wrong one by hand; else {ANEW}");
        Ok(Some(Flaw::new(Severity::Hand, what, remedy).blocking()))
    }

    /// The name of the parent leads to nobody: that is the parent's flaw if somebody says that it is its name.
    fn without_parent(&self, own: &Lowers, first: &LinkId, id: Option<&LayerId>) -> Result<Option<Flaw>> {
        let mut is_somebodys = false;
        super::layout::each_layer(self.dir, |_, other| {
            match other.and_then(|other| other.known_link()) {
                Err(e) if e.kind() == Kind::NotFound => {} // deleted meanwhile
                link => is_somebodys |= link?.is_some_and(|link| link == *first),
            }
            Ok(())
        })?;
        if is_somebodys {
            return Ok(None);
        }
        let parent = id.map_or_else(|| format!("known only by its short name '{}'", first.path()), |id| format!("'{id}'"));
        let what = format!("the layer that it is stacked upon, {parent}, is missing ({} below it in all)", own.0.len());
        let remedy = "make that layer anew under the same id, or restore it from a backup; else remove this one";
        Ok(Some(Flaw::new(Severity::Loss, what, remedy).blocking()))
    }

    /// The layers that a list shows, down to one whose root hides what is below it.
    fn seen(&self, list: &[LinkId]) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        for link in list {
            seen.push(owner(self.dir, link)?.map_or_else(|| link.path(), |id| id.to_string()));
            if hides_all(self.dir, link)? {
                break;
            }
        }
        Ok(seen)
    }

    fn parts(&self, layer: &Layer, judged: &mut Judged) -> Result<()> {
        for (name, is_hidden) in missing_parts(self.dir, layer)? {
            let flaw = if is_hidden {
                let place = fs::shown(self.home.path(&layer.id, name));
                let remedy = format!("move '{place}' away; it is made again then");
                Flaw::new(Severity::Hand, format!("'{name}' is no directory"), remedy).blocking()
            } else {
                let what = format!("the directory '{name}', which holds nothing of anybody's, is missing");
                Flaw::new(Severity::Note, what, "none is needed: the next mount makes it again").mendable()
            };
            judged.flaws.push(flaw);
        }
        Ok(())
    }

    fn project(&self, layer: &Layer, judged: &mut Judged) -> Result<()> {
        let Some(quota) = self.quota else { return Ok(()) };
        if !layer.has_dir(DIFF)? {
            return Ok(());
        }
        let whose = quota.belonging(self.dir.as_fd(), layer.as_fd(), layer.diff()?.as_fd())?;
        let (id, flaw) = match whose {
            Belonging::Nobodys => return Ok(()),
            Belonging::Project(id) => (id, None),
            Belonging::Lent(id) => {
                let what = format!("a crash left its directory outside its quota project {id}");
                (id, Some(Flaw::new(Severity::Note, what, "none is needed: the next use puts it right").mendable()))
            }
            Belonging::Divided(id) => {
                let place = fs::shown(self.home.path.join(layer.id.as_str()));
                let what =
                    format!("either its directory or its content is not in its quota project {id}: its limit does not hold");
                let remedy = format!(
                    "while it is not mounted, run chattr -R -p {id} '{place}' and find '{place}' -type d -exec chattr +P {{}} +"
                );
                (id, Some(Flaw::new(Severity::Hand, what, remedy)))
            }
        };
        judged.project = Some(id);
        judged.flaws.extend(flaw);
        Ok(())
    }
}
