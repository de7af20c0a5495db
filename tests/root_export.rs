//! Layers exported and unpacked again: what comes out is what was there. On overlay2; `vm_export.rs` has devicemapper.

mod archive_support;
mod common;
mod tree_support;

use archive_support::{Scratch, options, unpack_with};
use common::{Store, Tar, run};
use graphdriver::archive::Whiteouts;
use graphdriver::driver::{Access, Change, Compression, CreateOptions, Exported, MountOptions};
use graphdriver::error::{Kind, Result};
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use tree_support::{Random, Tree, assert_same, look, set_mtime, work};

/// An overlay driver on some directory.
struct Host(Graph);

fn id(text: &str) -> LayerId {
    LayerId::parse(text.as_bytes()).unwrap()
}

impl Host {
    fn new(root: &Path, more: &[&str]) -> Host {
        let options: Vec<&str> = [&["overlay2.sync=none"], more].concat();
        let graph = Graph::new();
        graph.init("overlay2", root, &options).unwrap();
        Host(graph)
    }

    fn image(&self, name: &str, parent: Option<&str>, archive: &[u8]) {
        self.make(name, parent, Access::ReadOnly);
        self.0
            .with(|driver| driver.apply_diff(&id(name), &mut &archive[..], None))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    fn make(&self, name: &str, parent: Option<&str>, access: Access) {
        let parent = parent.map(id);
        self.0.with(|driver| driver.create(&id(name), parent.as_ref(), access, &mut CreateOptions::default())).unwrap();
    }

    fn mount(&self, name: &str) -> PathBuf {
        self.mount_with(name, &[])
    }

    fn mount_with(&self, name: &str, words: &[&str]) -> PathBuf {
        let options = MountOptions { mount_label: None, options: words.iter().map(Into::into).collect() };
        self.0.with(|driver| driver.mount(&id(name), &options)).unwrap()
    }

    fn umount(&self, name: &str) {
        self.0.with(|driver| driver.umount(&id(name))).unwrap();
    }

    /// What a program in the layer would see.
    fn see(&self, name: &str) -> Tree {
        let tree = look(&self.mount(name));
        self.umount(name);
        tree
    }

    /// A new container in which something is done.
    fn container(&self, name: &str, parent: Option<&str>, act: impl FnOnce(&Path)) {
        self.make(name, parent, Access::ReadWrite);
        act(&self.mount(name));
        self.umount(name);
    }

    fn try_diff(&self, name: &str, base: Option<&str>, compression: Compression) -> Result<(Vec<u8>, Exported)> {
        let mut bytes = Vec::new();
        let base = base.map(id);
        let exported = self.0.with(|driver| driver.diff(&id(name), base.as_ref(), compression, &mut bytes))?;
        assert_eq!(exported.bytes, bytes.len() as u64);
        Ok((bytes, exported))
    }

    fn diff(&self, name: &str, base: Option<&str>) -> Vec<u8> {
        self.try_diff(name, base, Compression::None).unwrap_or_else(|e| panic!("{name}: {e}")).0
    }

    fn changes(&self, name: &str, base: Option<&str>) -> Vec<(String, Change)> {
        let mut all = Vec::new();
        let mut each = |path: &[u8], change| {
            all.push((String::from_utf8(path.to_vec()).unwrap(), change));
            Ok(())
        };
        self.0.with(|driver| driver.changes(&id(name), base.map(id).as_ref(), &mut each)).unwrap();
        all
    }
}

/// Exports a stack of containers that do anything at all, and unpacks it in all ways.
fn one_stack(root: &Path, seed: u64) {
    let host = Host::new(root, &[]);
    let random = &mut Random::new(seed);
    let plain = Scratch::new(&format!("export-{seed}"));
    let (mut image, mut before): (Option<String>, Option<String>) = (None, None);
    for number in 0..3 {
        let (container, layer) = (format!("{seed}c{number}"), format!("{seed}i{number}"));
        let what = format!("seed {seed}, layer {number}");
        host.make(&container, image.as_deref(), Access::ReadWrite);
        let merged = host.mount(&container);
        work(random, &merged, 60);
        let want = look(&merged);
        let running = host.diff(&container, None);
        host.umount(&container);
        let archive = host.diff(&container, None);
        assert!(archive == running, "{what}: the same mounted or not");

        host.image(&layer, image.as_deref(), &archive);
        assert_same(&format!("{what}, unpacked"), &host.see(&layer), &want);
        assert!(host.diff(&layer, None) == archive, "{what}: exported again");
        unpack_with(&archive, &plain.0, &options(Whiteouts::Delete)).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_same(&format!("{what}, unpacked into the parent's tree"), &look(&plain.0), &want);

        if let (Some(base), true) = (&before, number > 1) {
            let two = host.diff(&container, Some(base));
            host.image(&format!("{seed}two"), Some(base), &two);
            assert_same(&format!("{what}, with the layer below it"), &host.see(&format!("{seed}two")), &want);
        }
        (before, image) = (image, Some(layer));
    }
}

fn seeds() -> std::ops::RangeInclusive<u64> {
    // `EXPORT_SEEDS=FROM-TO` draws others.
    let seeds = std::env::var("EXPORT_SEEDS").unwrap_or_else(|_| "1-12".into());
    let (from, to) = seeds.split_once('-').unwrap();
    from.parse().unwrap()..=to.parse().unwrap()
}

#[test]
fn root_whatever_containers_do_comes_back() {
    let store = Store::new();
    seeds().for_each(|seed| one_stack(&store.root().join(seed.to_string()), seed));
}
