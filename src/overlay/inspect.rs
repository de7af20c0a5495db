//! Looking at a store past its driver: without a lease, while another process may have it, and without writing anything.

use super::check_home;
use super::home::real_path;
use super::layout::{Found, Home, Layer, find};
use super::report;
use super::survey::Survey;
use super::{Overlay, Shared};
use crate::driver::{EachFinding, EachLayer, Inspect, Metadatum, Usage};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::lease;
use crate::quota::Control;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

/// A store without its driver.
struct Past {
    home: Home,
    quota: Option<Control>,
}

/// Makes ready to look at the store in `home`, which must be there. Nothing is written, locked or mounted.
///
/// # Errors
/// There is no such directory, or it cannot be looked at.
pub fn inspect(home: &Path) -> Result<Box<dyn Inspect>> {
    let what = || format!("overlay home '{}'", home.display());
    check_home(home).context(what)?;
    let home = Home { path: home.to_owned(), real: real_path(home).context(what)? };
    let dir = home.open().context(what)?;
    let quota = match Control::look(dir.as_fd(), &home.real) {
        Err(e) if e.kind() == Kind::Unsupported => None,
        found => Some(found.context(what)?),
    };
    Ok(Box::new(Past { home, quota }))
}

impl Past {
    fn survey(&self) -> Result<Survey<'_>> {
        let dir = self.home.open()?;
        let in_use = lease::holder(&dir)?.is_some();
        Ok(Survey { home: &self.home, dir, quota: self.quota.as_ref(), driver: None, in_use })
    }

    /// Asks something about a layer that is there, and the open home.
    fn ask<T>(&self, id: &LayerId, question: impl FnOnce(&OwnedFd, &Layer) -> Result<T>) -> Result<T> {
        let dir = self.home.open()?;
        match find(&self.home, &dir, id)? {
            Found::Layer(layer) => question(&dir, &layer),
            _ => Err(report::absent(id)),
        }
    }
}

impl Inspect for Past {
    fn layers(&self, each: EachLayer<'_>) -> Result<()> {
        self.survey()?.layers(each)
    }

    fn check(&self, mend: bool, each: EachFinding<'_>) -> Result<u64> {
        if mend {
            return Err(Error::new(Kind::Invalid, "only the driver that has a store mends it")
                .hint("initialise it, and check without naming a driver"));
        }
        self.survey()?.check(false, each)
    }

    fn layer_metadata(&self, id: &LayerId) -> Result<Vec<Metadatum>> {
        let parts = self.ask(id, |dir, layer| Ok(report::parts(&self.home, dir, layer, id)));
        parts.context(|| format!("metadata of layer '{id}'"))
    }

    fn layer_usage(&self, id: &LayerId) -> Result<Usage> {
        let usage = self.ask(id, |dir, layer| report::measure(self.quota.as_ref(), dir, layer));
        usage.context(|| format!("usage of layer '{id}'"))
    }
}

impl Inspect for Overlay {
    fn layers(&self, each: EachLayer<'_>) -> Result<()> {
        Survey::of(&self.shared)?.layers(each)
    }

    fn check(&self, mend: bool, each: EachFinding<'_>) -> Result<u64> {
        let checked = check_writable(&self.shared, mend).and_then(|()| Survey::of(&self.shared)?.check(mend, each));
        if self.shared.is_left.swap(false, Ordering::SeqCst) {
            self.worker.wake(&self.shared);
        }
        checked
    }

    fn layer_metadata(&self, id: &LayerId) -> Result<Vec<Metadatum>> {
        self.shared.metadata_of(id).context(|| format!("metadata of layer '{id}'"))
    }

    fn layer_usage(&self, id: &LayerId) -> Result<Usage> {
        self.shared.usage_of(id).context(|| format!("usage of layer '{id}'"))
    }
}

fn check_writable(shared: &Shared, mend: bool) -> Result<()> {
    if mend && crate::sys::fs::is_read_only(shared.home.open()?)? {
        let what = "nothing can be mended: the filesystem of home can only be read";
        return Err(Error::sys(what, crate::error::errno::EROFS));
    }
    Ok(())
}
