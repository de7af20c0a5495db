//! Looking at a store past its driver: without a lease, while another process may have it, and without writing anything.

use super::check_home;
use super::home::real_path;
use super::layout::Home;
use super::survey::Survey;
use super::{Overlay, Shared};
use crate::driver::{EachFinding, EachLayer, Inspect};
use crate::error::{Context, Error, Kind, Result};
use crate::lease;
use crate::quota::Control;
use std::os::fd::AsFd;
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
/// There is no such directory.
pub fn inspect(home: &Path) -> Result<Box<dyn Inspect>> {
    let what = || format!("overlay home '{}'", home.display());
    check_home(home).context(what)?;
    let home = Home { path: home.to_owned(), real: real_path(home).context(what)? };
    let dir = home.open().context(what)?;
    let quota = Control::look(dir.as_fd(), &home.real).ok();
    Ok(Box::new(Past { home, quota }))
}

impl Past {
    fn survey(&self) -> Result<Survey<'_>> {
        let dir = self.home.open()?;
        let in_use = lease::is_taken(&dir)?;
        Ok(Survey { home: &self.home, dir, quota: self.quota.as_ref(), driver: None, in_use })
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
}

fn check_writable(shared: &Shared, mend: bool) -> Result<()> {
    if mend && crate::sys::fs::is_read_only(shared.home.open()?)? {
        let what = "nothing can be mended: the filesystem of home can only be read";
        return Err(Error::sys(what, crate::error::errno::EROFS));
    }
    Ok(())
}
