//! A home that something has damaged, and then what a daemon does with it at its start: nothing panics, no content of a layer goes
//! that was there after the damage, and a layer that was not damaged, nor anything below it, still shows what it holds.
//!
//! Needs root: each input gets a filesystem in memory, in a mount namespace of the fuzzer's own.
#![no_main]

#[path = "../../tests/common/chroot.rs"]
mod chroot;

use graphdriver::driver::{Access, CreateOptions, MountOptions};
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use libfuzzer_sys::fuzz_target;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "/tmp/graphdriver-fuzz-home";
const OPTIONS: &[&str] = &["overlay2.sync=none"];

/// The layers, each with what it is stacked upon: an image of three, and a container of each but the first.
const LAYERS: &[(&str, Option<&str>)] =
    &[("base", None), ("mid", Some("base")), ("top", Some("mid")), ("c", Some("mid")), ("d", Some("top"))];

/// The parts of a layer, and whether losing one costs nobody anything.
const PARTS: &[(&str, bool)] =
    &[("", false), ("diff", false), ("link", false), ("lower", false), ("work", true), ("merged", true)];

fn home() -> PathBuf {
    Path::new(ROOT).join("overlay2")
}

fn id(name: &str) -> LayerId {
    LayerId::parse(name.as_bytes()).unwrap()
}

/// An archive with one file, which has the layer's name and content.
fn archive(name: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(name.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, format!("of-{name}"), name.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

/// A store as a daemon leaves it.
fn lay() {
    let graph = Graph::new();
    graph.init("overlay2", Path::new(ROOT), OPTIONS).unwrap();
    for (name, parent) in LAYERS {
        let access = if name.len() == 1 { Access::ReadWrite } else { Access::ReadOnly };
        let parent = parent.map(id);
        graph.with(|driver| driver.create(&id(name), parent.as_ref(), access, &mut CreateOptions::default())).unwrap();
        graph.with(|driver| driver.apply_diff(&id(name), &mut archive(name).as_slice(), None)).unwrap();
    }
    graph.cleanup().unwrap();
}

/// What damage can hit: `l/`, each name in it, and each layer with its parts. With the layer that it costs, if it does.
struct Place {
    path: PathBuf,
    costs: Option<&'static str>,
}

fn places() -> Vec<Place> {
    let links = home().join("l");
    let mut places = vec![Place { path: links.clone(), costs: None }];
    for (layer, _) in LAYERS {
        let dir = home().join(layer);
        places.push(Place { path: links.join(fs::read_to_string(dir.join("link")).unwrap()), costs: None });
        places.extend(PARTS.iter().map(|(part, is_cheap)| Place {
            path: if part.is_empty() { dir.clone() } else { dir.join(part) },
            costs: (!is_cheap).then_some(layer),
        }));
    }
    places
}

fn remove(path: &Path) {
    let _ = if path.is_symlink() || !path.is_dir() { fs::remove_file(path) } else { fs::remove_dir_all(path) };
}

/// Does one damage; errors mean that an earlier one has left nothing to do it to. Adds the layers that it costs.
fn damage(places: &[Place], bytes: [u8; 3], costs: &mut BTreeSet<&'static str>) {
    let place = |byte: u8| &places[usize::from(byte) % places.len()];
    let (target, other) = (place(bytes[1]), place(bytes[2]));
    let (here, there) = (&target.path, &other.path);
    let mut hit = vec![target];
    match bytes[0] % 10 {
        0 => remove(here),
        1 => {
            remove(here);
            let _ = fs::write(here, "");
            // A name that is no link is no layer's, and is left where it is.
            costs.extend(LAYERS.iter().map(|(layer, _)| layer).filter(|_| target.costs.is_none()));
        }
        2 => {
            let text: &[&[u8]] = &[b"", b"junk", b"l/0123456789abcdef0123456789", b"\0\n:", &[0xff; 300]];
            let _ = fs::write(here, text[usize::from(bytes[2]) % text.len()]);
            costs.extend(LAYERS.iter().map(|(layer, _)| layer).filter(|_| target.costs.is_none()));
        }
        3 | 4 => {
            let _ = renameat2(AT_FDCWD, here, AT_FDCWD, there, RenameFlags::RENAME_EXCHANGE);
            hit.push(other);
            costs.extend(LAYERS.iter().map(|(layer, _)| layer));
        }
        5 => {
            remove(here);
            let _ = symlink("../nowhere/diff", here);
            costs.extend(LAYERS.iter().map(|(layer, _)| layer).filter(|_| target.costs.is_none()));
        }
        6 => {
            let text = fs::read(there).unwrap_or_default();
            let _ = fs::write(here, text);
            costs.extend(LAYERS.iter().map(|(layer, _)| layer).filter(|_| target.costs.is_none()));
        }
        7 => {
            let _ = fs::create_dir(home().join(format!("foreign-{}", bytes[1])));
            let _ = fs::write(home().join(format!("file-{}", bytes[2])), "somebody's");
            hit.clear();
        }
        8 => {
            let _ = symlink("../mid/diff", home().join("l").join(format!("{:026x}", bytes[1])));
            hit.clear();
        }
        _ => {
            let _ = fs::rename(here, home().join(format!("away-{}", bytes[2])));
        }
    }
    costs.extend(hit.iter().filter_map(|place| place.costs));
}

/// The content of layers that is somewhere in home: how often each is.
fn content(dir: &Path, found: &mut BTreeMap<Vec<u8>, usize>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            content(&entry.path(), found);
        } else if kind.is_file() && entry.file_name().as_encoded_bytes().starts_with(b"of-") {
            *found.entry(fs::read(entry.path()).unwrap()).or_default() += 1;
        }
    }
}

fn contents() -> BTreeMap<Vec<u8>, usize> {
    let mut found = BTreeMap::new();
    content(&home(), &mut found);
    found
}

fn parent(name: &str) -> Option<&'static str> {
    LAYERS.iter().find(|(layer, _)| *layer == name).and_then(|(_, parent)| *parent)
}

/// Whether nothing was damaged that this layer needs.
fn is_spared(name: &str, costs: &BTreeSet<&str>) -> bool {
    !costs.contains(name) && parent(name).is_none_or(|parent| is_spared(parent, costs))
}

/// What a daemon does with each layer that it knows of, and with a new container.
fn use_it(graph: &Graph, costs: &BTreeSet<&str>) {
    for (name, parent) in LAYERS {
        let layer = id(name);
        let is_spared = is_spared(name, costs);
        let exists = graph.with(|driver| driver.exists(&layer));
        assert!(!is_spared || exists.is_ok_and(|exists| exists), "{name} does not exist");
        let _ = graph.with(|driver| driver.layer_metadata(&layer));
        let _ = graph.with(|driver| driver.layer_usage(&layer));
        let _ = graph.with(|driver| driver.repair_lowers(&layer, parent.map(id).as_ref()));
        let mounted = graph.with(|driver| driver.mount(&layer, &MountOptions::default()));
        match mounted {
            Ok(root) => {
                let shows = fs::read(root.join(format!("of-{name}"))).unwrap_or_default();
                assert!(!is_spared || shows == name.as_bytes(), "{name} shows something else");
                graph.with(|driver| driver.umount(&layer)).unwrap();
            }
            Err(e) => assert!(!is_spared, "{name} cannot be mounted: {}", e.message()),
        }
        let new = id("new");
        let made = graph.with(|driver| driver.create(&new, Some(&layer), Access::ReadWrite, &mut CreateOptions::default()));
        assert!(made.is_ok() || !is_spared, "nothing can be stacked upon {name}");
        graph.with(|driver| driver.remove(&new)).unwrap();
    }
}

fn start(costs: &BTreeSet<&str>) {
    let graph = Graph::new();
    if graph.init("overlay2", Path::new(ROOT), OPTIONS).is_err() {
        return;
    }
    graph.inspect(None, |store| store.layers(&mut |_| Ok(()))).unwrap();
    graph.inspect(None, |store| store.check(true, &mut |_| Ok(()))).unwrap();
    use_it(&graph, costs);
    // What is handed to the worker is done before it ends.
    while fs::read_dir(home()).unwrap().flatten().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b".trash-")) {
        std::thread::sleep(Duration::from_micros(200));
    }
    graph.cleanup().unwrap();
}

fn set_up() {
    chroot::own_namespace();
    fs::create_dir_all(ROOT).unwrap();
}

fuzz_target!(init: set_up(), |bytes: &[u8]| {
    mount(Some("tmpfs"), ROOT, Some("tmpfs"), MsFlags::empty(), Some("size=16m")).unwrap();
    lay();
    let places = places();
    let mut costs = BTreeSet::new();
    for bytes in bytes.chunks_exact(3).take(6) {
        damage(&places, [bytes[0], bytes[1], bytes[2]], &mut costs);
    }
    let before = contents();
    start(&costs);
    assert_eq!(contents(), before, "content was lost");
    umount2(ROOT, MntFlags::MNT_DETACH).unwrap();
});
