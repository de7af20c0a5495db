//! Where operations are tried: a driver's store, what can be seen of it, and what must not be left of it.

use super::common::mounts_below;
use super::common::subject::{Outcome, Rust, Subject};
use super::disk::{attribute, set_attribute};
use super::operations::{IDS, Operation, furnish, tree};
use super::supervisor::{Child, Link};
use graphdriver::lease;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the store is called; what a caller was told of it goes by that.
const NAME: &str = "as prepared";

/// What a new process makes of each layer, and of the store.
pub type View = BTreeMap<String, String>;

/// A store of one driver, used by one process after the other. No process but these has a driver: what a driver remembers ends with
/// its process.
pub struct Ground {
    pub driver: &'static str,
    pub root: PathBuf,
    pub options: Vec<String>,
    /// In the check every so manieth point, or pair, is tried: how slow it is.
    pub step: usize,
    /// Says what is there and must not be, with no layer in the store and no driver.
    pub leaks: fn(&Ground) -> Vec<String>,
}

impl Ground {
    pub fn home(&self) -> PathBuf {
        self.root.join(self.driver)
    }

    pub fn init(&self, subject: &dyn Subject) -> Outcome<()> {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        subject.init(self.driver, &self.root, &options)
    }

    /// The same for what is not under test: nothing is forced to disk.
    fn init_quick(&self, subject: &dyn Subject) -> Outcome<()> {
        let quick = ["overlay2.sync=none"].into_iter().filter(|_| self.driver != "devicemapper");
        let options: Vec<&str> = self.options.iter().map(String::as_str).chain(quick).collect();
        subject.init(self.driver, &self.root, &options)
    }

    /// Until the process has one thread only: a child of [`Child`] begins with one.
    pub fn wait_for_the_worker(&self) {
        super::common::eventually("the worker has nothing left to do", || {
            // Also while calls are made to fail.
            std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.filter(Result::is_ok).count() == 1)
        });
    }

    /// Runs something in a process of its own, which has to tell one thing.
    pub fn process(&self, body: impl FnOnce(&Link)) -> Value {
        let mut child = Child::start(body);
        let told = child.told().expect("a process ended without a word");
        child.end();
        told
    }

    /// Makes a store as the operation wants it.
    pub fn prepare(&self, operation: &Operation) {
        self.process(|link| {
            let subject = Rust::default();
            self.init_quick(&subject).unwrap();
            furnish(&subject).unwrap();
            (operation.prepare)(&subject, self).unwrap();
            self.wait_for_the_worker();
            // Mounted layers keep home.
            let _ = subject.cleanup();
            link.tell(&json!(null));
        });
        (operation.damage)(self);
        if self.home().exists() {
            set_attribute(&self.home(), lease::NAME, NAME);
        }
    }

    /// Starts the operation in a process whose calls wait for leave; it tells how that ended.
    pub fn act(&self, operation: &Operation) -> Child {
        Child::start(|link| {
            let subject = Rust::default();
            if !operation.starts {
                self.init(&subject).unwrap();
                self.wait_for_the_worker();
            }
            link.watch(0);
            link.tell(&self.attempt(operation, &subject));
        })
    }

    /// What came of the operation.
    pub fn attempt(&self, operation: &Operation, subject: &dyn Subject) -> Value {
        let start = if operation.starts { self.init(subject) } else { Ok(()) };
        told(start.and_then(|()| (operation.act)(subject, self)))
    }

    /// The layers whose mount points something is mounted on.
    pub fn mounted(&self) -> Vec<String> {
        let points = mounts_below(&self.home());
        let is_of = |point: &String, id: &str| PathBuf::from(point).iter().any(|part| part == id);
        let ids = IDS.iter().filter(|id| points.iter().any(|point| is_of(point, id)));
        ids.map(|&id| id.to_owned()).collect()
    }

    /// A new process starts, waits for the worker, looks at each layer, and then removes each, makes it again and removes that. At
    /// the end the store is empty, and nothing is left of it.
    pub fn view_and_clear(&self, violations: &mut Vec<String>) -> View {
        let mounted = self.mounted();
        let seen = self.process(|link| {
            let subject = Rust::default();
            let mut found = Vec::new();
            let view = self.init_quick(&subject).map(|()| self.view(&subject, &mounted, &mut found));
            let view = view.unwrap_or_else(|e| {
                found.push(format!("init: {e:?}"));
                View::new()
            });
            self.clear(&subject, &mut found);
            link.tell(&json!({"view": view, "found": found}));
        });
        let found: Vec<String> = serde_json::from_value(seen["found"].clone()).unwrap();
        violations.extend(found);
        let left = mounts_below(&self.root);
        if !left.is_empty() {
            violations.push(format!("mounts are left: {left:?}"));
        }
        violations.extend((self.leaks)(self));
        serde_json::from_value(seen["view"].clone()).unwrap()
    }

    fn view(&self, subject: &dyn Subject, mounted: &[String], found: &mut Vec<String>) -> View {
        self.wait_for_the_worker();
        found.extend(self.unknown());
        let mut view = View::new();
        for &id in IDS {
            let mut state = if subject.exists(id) { content(subject, id) } else { "absent".to_owned() };
            if mounted.iter().any(|name| name == id) {
                state = format!("mounted: {state}");
            }
            view.insert(id.to_owned(), state);
        }
        let is_itself = attribute(&self.home(), lease::NAME).as_deref() == Some(NAME);
        view.insert("the store".to_owned(), if is_itself { "itself" } else { "another" }.to_owned());
        view
    }

    /// What is in a home of overlay2 that belongs to no layer.
    fn unknown(&self) -> Vec<String> {
        if self.driver == "devicemapper" {
            return Vec::new();
        }
        let names = super::common::names(&self.home());
        let layers = names.iter().filter(|name| IDS.contains(&name.as_str())).count();
        let known = |name: &str| IDS.contains(&name) || ["l", "backingFsBlockDev"].contains(&name);
        let mut found: Vec<String> =
            names.iter().filter(|name| !known(name)).map(|name| format!("in home: {name}")).collect();
        let links = super::common::names(&self.home().join("l"));
        if links.len() > layers {
            found.push(format!("{layers} layers have {} names in l/", links.len()));
        }
        let own = IDS.iter().filter_map(|id| std::fs::read_to_string(self.home().join(id).join("link")).ok());
        found.extend(own.filter(|link| !links.contains(link)).map(|link| format!("a layer's name '{link}' is not in l/")));
        found
    }

    fn clear(&self, subject: &dyn Subject, found: &mut Vec<String>) {
        let mut note = |what: &str, id: &str, outcome: Outcome<()>| {
            if let Err(e) = outcome {
                found.push(format!("{what} '{id}': {e:?}"));
            }
        };
        for &id in IDS {
            note("remove", id, subject.remove(id));
            note("make again", id, subject.create_rw(id, None));
            note("remove again", id, subject.remove(id));
        }
        self.wait_for_the_worker();
        found.extend(self.unknown());
        if let Err(e) = subject.cleanup() {
            found.push(format!("clean-up: {e:?}"));
        }
    }
}

/// An outcome as a message.
pub fn told(outcome: Outcome<()>) -> Value {
    match outcome {
        Ok(()) => json!({"errno": 0}),
        Err(failure) => json!({"errno": failure.errno, "text": failure.text}),
    }
}

/// What a layer shows when it is mounted, or that it is refused.
fn content(subject: &dyn Subject, id: &str) -> String {
    match subject.mount(id, &[]) {
        Ok(path) => {
            let content = tree(&path);
            subject.umount(id).unwrap();
            format!("shows {content}")
        }
        Err(failure) if failure.errno == libc::EUCLEAN => "refused".to_owned(),
        Err(failure) => format!("{failure:?}"),
    }
}
