//! The store that is looked at or worked on, by its driver or past it.

use crate::arguments::Arguments;
use crate::mounts::bytes;
use crate::output::{Progress, complain, failed, shown_bytes};
use graphdriver::driver::{Driver, Finding, Inspect, Listed, Metadatum, Usage};
use graphdriver::error::{Error, Kind, Result};
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use graphdriver::{lease, log};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The names by which drivers have homes. iSulad calls its own `overlay`.
const DRIVERS: [&str; 3] = ["overlay2", "overlay", "devicemapper"];

/// A store and, once it is asked for, its driver.
pub struct Store {
    graph: Graph,
    pub driver: String,
    pub root: PathBuf,
    options: Vec<String>,
    /// What of the library's log is shown once its driver works.
    log: log::Level,
    /// The driver is initialised: all goes by it.
    is_driven: bool,
}

impl Store {
    /// The store that the command line means.
    pub fn find(arguments: &Arguments) -> Result<Store> {
        let log = if arguments.verbose { log::Level::Debug } else { log::Level::Warn };
        if arguments.verbose {
            show_log(log);
        }
        let root = std::path::absolute(&arguments.root).map_err(|e| failed("resolve the path of --root", &e))?;
        let driver = arguments.driver.clone().map_or_else(|| driver_in(&root), Ok)?;
        let options = arguments.options.clone();
        let mut store = Store { graph: Graph::new(), driver, root, options, log, is_driven: false };
        if arguments.with_driver {
            store.drive()?;
        }
        Ok(store)
    }

    /// Where the driver keeps its layers.
    pub fn home(&self) -> PathBuf {
        self.root.join(&self.driver)
    }

    /// The same for who reads it, in whatever form.
    pub fn shown_home(&self) -> String {
        shown_bytes(bytes(&self.home()))
    }

    /// Initialises the driver; nobody else can use the store then. A home that is missing is not made.
    pub fn drive(&mut self) -> Result<()> {
        if self.is_driven {
            return Ok(());
        }
        self.look(|_| Ok(()))?;
        show_log(self.log);
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        self.graph.init(&self.driver, &self.root, &options)?;
        self.is_driven = true;
        Ok(())
    }

    /// Lets go of the driver. Mounted layers keep home as it is.
    pub fn release(&self) {
        if self.is_driven {
            if let Err(e) = self.graph.cleanup().or_else(|e| if e.kind() == Kind::Busy { Ok(()) } else { Err(e) }) {
                complain(&e.message());
            }
        }
    }

    /// Looks at the store.
    pub fn look<T>(&self, look: impl FnOnce(&dyn Inspect) -> Result<T>) -> Result<T> {
        let past = (!self.is_driven).then_some((self.driver.as_str(), self.root.as_path()));
        self.graph.inspect(past, look)
    }

    /// Works on the store.
    pub fn work<T>(&mut self, work: impl FnOnce(&dyn Driver) -> Result<T>) -> Result<T> {
        self.drive()?;
        self.graph.with(work)
    }

    /// All layers, in the order of their ids.
    pub fn layers(&self) -> Result<Vec<Listed>> {
        let mut layers = Vec::new();
        self.look(|store| {
            store.layers(&mut |layer| {
                layers.push(layer.clone());
                Ok(())
            })
        })?;
        Ok(layers)
    }

    /// All findings, and how many layers there are.
    pub fn findings(&self, mend: bool) -> Result<(u64, Vec<Finding>)> {
        let mut findings = Vec::new();
        let layers = self.look(|store| {
            store.check(mend, &mut |finding| {
                findings.push(finding.clone());
                Ok(())
            })
        })?;
        Ok((layers, findings))
    }

    /// Where a layer's parts are; none of one that cannot tell.
    pub fn parts(&self, id: &LayerId) -> Vec<Metadatum> {
        self.look(|store| store.layer_metadata(id)).unwrap_or_default()
    }

    /// What each of these layers occupies, told by the driver if it cannot be told past it. Shows how far it is.
    pub fn usages(&mut self, ids: &[&LayerId]) -> Result<Vec<Result<Usage>>> {
        let mut progress = Progress::new();
        let mut usages = Vec::with_capacity(ids.len());
        for id in ids {
            progress.tell(|| format!("measuring layer {} of {}", usages.len() + 1, ids.len()));
            let mut told = self.look(|store| store.layer_usage(id));
            if !self.is_driven && told.as_ref().is_err_and(|e| e.kind() == Kind::Unsupported) {
                self.drive()?;
                told = self.look(|store| store.layer_usage(id));
            }
            usages.push(told);
        }
        Ok(usages)
    }

    /// What one layer occupies.
    pub fn usage(&mut self, id: &LayerId) -> Result<Usage> {
        self.usages(&[id])?.remove(0)
    }

    /// The process that has the store, if it can be seen.
    pub fn holder(&self) -> Option<u32> {
        let home: OwnedFd = std::fs::File::open(self.home()).ok()?.into();
        lease::holder(&home).ok()?.filter(|pid| *pid != std::process::id())
    }
}

/// The library's log goes to stderr, as far as it is at least so grave.
fn show_log(least: log::Level) {
    log::set_sink(Some(Arc::new(move |level, line: &str| {
        if level <= least {
            complain(line);
        }
    })));
}

/// The driver that has a home in this directory.
fn driver_in(root: &Path) -> Result<String> {
    // By where they are: one may be a symlink to another.
    let homes = DRIVERS.iter().filter_map(|name| Some((root.join(name).canonicalize().ok()?, *name)));
    let mut found = BTreeMap::new();
    for (home, name) in homes.filter(|(home, _)| home.is_dir()) {
        found.entry(home).or_insert(name);
    }
    let names: Vec<&str> = found.into_values().collect();
    let place = root.display();
    match names.as_slice() {
        [name] => Ok((*name).to_owned()),
        [] => {
            let what = format!("there is no store in '{place}': it has none of {}", DRIVERS.join(", "));
            Err(Error::new(Kind::NotFound, what).hint("name the daemon's storage directory with --root"))
        }
        several => {
            let what = format!("there are several stores in '{place}': {}", several.join(", "));
            Err(Error::new(Kind::Invalid, what).hint("name one with --driver"))
        }
    }
}
