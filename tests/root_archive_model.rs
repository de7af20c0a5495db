//! Random stacks of layers: the mounted overlay, and the tree that the deleting form leaves, equal what a simple model in
//! Rust says the layers mean. Needs root and overlay.

mod archive_support;
#[path = "common/chroot.rs"]
mod chroot;
#[path = "common/random.rs"]
mod random;

use archive_support::*;
use graphdriver::archive::Whiteouts;
use nix::mount::MsFlags;
use random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What a tree holds under a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    kind: u8,
    content: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    /// `None` where nobody stated it: a directory that no entry describes.
    mtime: Option<u64>,
    xattr: Option<Vec<u8>>,
    /// Files with the same number are one file.
    file: u64,
}

type Tree = BTreeMap<String, Node>;

/// One layer: what it has, what it hides, what it hides all of; `order` is how the archive lists them.
struct Layer {
    items: Vec<Item>,
    own: Tree,
    whiteouts: BTreeSet<String>,
    opaques: BTreeSet<String>,
}

fn ancestors(path: &str) -> Vec<String> {
    let cuts = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
    cuts.collect()
}

fn random_path(random: &mut Random) -> String {
    let depth = 1 + random.index(3);
    let names: Vec<&str> = (0..depth).map(|_| ["a", "b", "..c", "d e"][random.index(4)]).collect();
    names.join("/")
}

fn implied() -> Node {
    Node { kind: b'5', content: Vec::new(), mode: 0o755, owner: (0, 0), mtime: None, xattr: None, file: 0 }
}

/// Draws a layer on top of `lower`. A directory of the layer that hides a lower symlink or is one's child always has an
/// entry: in the deleting form an implied parent follows the lower layer's symlink, as the chrooted tar of the C module did.
fn random_layer(random: &mut Random, files: &mut u64, lower: &Tree) -> Layer {
    let mut layer = Layer { items: Vec::new(), own: Tree::new(), whiteouts: BTreeSet::new(), opaques: BTreeSet::new() };
    for _ in 0..2 + random.index(8) {
        let path = random_path(random);
        let blocked = ancestors(&path).iter().any(|above| layer.own.get(above).is_some_and(|node| node.kind != b'5'));
        let below = format!("{path}/");
        let inside = layer.own.keys().any(|known| known.starts_with(&below));
        if blocked || layer.own.get(&path).is_some_and(|node| node.mtime.is_some()) {
            continue;
        }
        let kind = if inside { b'5' } else { [b'0', b'0', b'5', b'5', b'2', b'6', b'1'][random.index(7)] };
        let target = layer.own.iter().filter(|(_, node)| node.kind == b'0').map(|(path, _)| path.clone()).next();
        let kind = if kind == b'1' && target.is_none() { b'0' } else { kind };
        for above in ancestors(&path) {
            if layer.own.contains_key(&above) {
                continue;
            }
            // Lower layers' directories are described again, as image builders do, or else implied over nothing.
            if lower.contains_key(&above) || random.chance(60) {
                add(random, files, &mut layer, &above, b'5', None);
            } else {
                layer.own.insert(above, implied());
            }
        }
        add(random, files, &mut layer, &path, kind, target);
    }
    for _ in 0..random.index(4) {
        let path = random_path(random);
        let blocked = |path: &str| layer.own.get(path).is_some_and(|node| node.kind != b'5');
        if ancestors(&path)
            .iter()
            .any(|above| blocked(above) || (lower.contains_key(above) && !layer.own.contains_key(above)))
        {
            continue;
        }
        let hides_all = random.chance(40);
        if hides_all && (blocked(&path) || (lower.contains_key(&path) && !layer.own.contains_key(&path))) {
            continue;
        }
        for above in ancestors(&path) {
            layer.own.entry(above).or_insert_with(implied);
        }
        let marker = if hides_all {
            layer.own.entry(path.clone()).or_insert_with(implied);
            layer.opaques.insert(path.clone());
            format!("{path}/.wh..wh..opq")
        } else {
            layer.whiteouts.insert(path.clone());
            match path.rsplit_once('/') {
                Some((parent, name)) => format!("{parent}/.wh.{name}"),
                None => format!(".wh.{path}"),
            }
        };
        let at = random.index(layer.items.len() + 1);
        layer.items.insert(at, file(&marker, ""));
    }
    if random.chance(10) {
        layer.opaques.insert(String::new());
        let at = random.index(layer.items.len() + 1);
        layer.items.insert(at, file(".wh..wh..opq", ""));
    }
    layer
}

fn add(random: &mut Random, files: &mut u64, layer: &mut Layer, path: &str, kind: u8, target: Option<String>) {
    *files += 1;
    let mtime = 1_000_000_000 + *files;
    let (mode, owner) =
        ([0o644, 0o4755, 0o2775, 0o1777, 0o000][random.index(5)], (random.index(3) as u64, random.index(3) as u64));
    let xattr = (random.chance(30) && matches!(kind, b'0' | b'5')).then(|| format!("v{files}").into_bytes());
    let mut node = Node { kind, content: Vec::new(), mode, owner, mtime: Some(mtime), xattr: xattr.clone(), file: *files };
    let name = match random.index(4) {
        0 => format!("./{path}"),
        1 if kind == b'5' => format!("{path}/"),
        _ => path.to_owned(),
    };
    let mut entry = item(kind, &name).mode(mode).owner(owner.0, owner.1).mtime(mtime);
    match kind {
        b'0' => entry.data = vec![b'x'; random.index(3000)],
        b'2' => {
            entry.link = b"nowhere".to_vec();
            node.mode = 0o777;
        }
        b'1' => {
            let target = target.unwrap();
            entry.link = target.clone().into_bytes();
            node = layer.own[&target].clone();
        }
        _ => {}
    }
    if kind == b'0' {
        node.content = entry.data.clone();
    }
    if kind == b'2' {
        node.content = entry.link.clone();
    }
    if let Some(value) = xattr.filter(|_| kind != b'1') {
        entry = entry.pax("SCHILY.xattr.user.t", &value);
    }
    layer.own.insert(path.to_owned(), node);
    layer.items.push(entry);
}

/// The model: what a layer makes of the tree below it.
fn apply(lower: &Tree, layer: &Layer) -> Tree {
    let hidden = |path: &str| {
        let above = ancestors(path);
        layer.opaques.contains("")
            || layer.whiteouts.contains(path)
            || above.iter().any(|above| layer.whiteouts.contains(above) || layer.opaques.contains(above))
            || layer.own.contains_key(path)
            || above.iter().any(|above| layer.own.get(above).is_some_and(|node| node.kind != b'5'))
    };
    let mut tree: Tree =
        lower.iter().filter(|(path, _)| !hidden(path)).map(|(path, node)| (path.clone(), node.clone())).collect();
    // What was below a lower non-directory cannot be, and what loses its parent is gone: both follow from the filter.
    tree.extend(layer.own.clone());
    tree
}

fn look(root: &Path) -> (Tree, BTreeMap<String, u64>) {
    let (mut tree, mut inodes) = (Tree::new(), BTreeMap::new());
    let mut pending = vec![(root.to_owned(), String::new())];
    while let Some((dir, prefix)) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            let st = entry.path().symlink_metadata().unwrap();
            let kind = match st.file_type() {
                t if t.is_dir() => b'5',
                t if t.is_symlink() => b'2',
                t if t.is_fifo() => b'6',
                t if t.is_file() => b'0',
                _ => b'?',
            };
            let content = match kind {
                b'0' => std::fs::read(entry.path()).unwrap(),
                b'2' => std::fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes(),
                _ => Vec::new(),
            };
            if kind == b'5' {
                pending.push((entry.path(), format!("{path}/")));
            }
            let xattr = if matches!(kind, b'0' | b'5') { attribute(&entry.path()) } else { None };
            let (mode, owner) = (st.mode() & 0o7777, (u64::from(st.uid()), u64::from(st.gid())));
            let mtime = Some(u64::try_from(st.mtime()).unwrap());
            inodes.insert(path.clone(), st.ino());
            tree.insert(path, Node { kind, content, mode, owner, mtime, xattr, file: 0 });
        }
    }
    (tree, inodes)
}

fn attribute(path: &Path) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut value = [0_u8; 64];
    #[allow(unsafe_code)]
    // SAFETY: both strings are NUL-terminated, pointer and length describe `value`.
    let got = unsafe { libc::lgetxattr(path.as_ptr(), c"user.t".as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(got).ok().map(|got| value[..got].to_vec())
}

fn compare(what: &str, root: &Path, model: &Tree) {
    let (found, inodes) = look(root);
    let paths = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&found), paths(model), "{what}: names");
    for (path, want) in model {
        let got = &found[path];
        let want = Node { file: 0, mtime: want.mtime.or(got.mtime), ..want.clone() };
        assert_eq!(*got, want, "{what}: {path}");
    }
    for (a, node) in model.iter().filter(|(_, node)| node.kind == b'0') {
        for (b, other) in model.iter().filter(|(_, node)| node.kind == b'0') {
            assert_eq!(inodes[a] == inodes[b], node.file == other.file, "{what}: identity of {a} and {b}");
        }
    }
}

/// The merged tree of layers, lowest first, of which those below the last one with an opaque root are left out.
fn mount(scratch: &Scratch, layers: &[(PathBuf, bool)]) -> PathBuf {
    let cut = layers.iter().rposition(|(_, root_opaque)| *root_opaque).unwrap_or(0);
    let mut lower: Vec<String> = layers[cut..].iter().rev().map(|(dir, _)| dir.display().to_string()).collect();
    lower.push(scratch.dir("empty").display().to_string());
    let merged = scratch.dir("merged");
    let data = format!("lowerdir={}", lower.join(":"));
    nix::mount::mount(Some("overlay"), &merged, Some("overlay"), MsFlags::MS_RDONLY, Some(data.as_str())).unwrap();
    merged
}

fn one_stack(seed: u64) {
    let random = &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let scratch = Scratch::new(&format!("model-{seed}"));
    let (mut model, mut files, mut layers) = (Tree::new(), 0, Vec::new());
    let plain = scratch.dir("plain");
    for number in 0..1 + random.index(4) {
        let layer = random_layer(random, &mut files, &model);
        model = apply(&model, &layer);
        let names = || {
            layer
                .items
                .iter()
                .map(|i| format!("{} {}", i.kind as char, String::from_utf8_lossy(&i.path)))
                .collect::<Vec<_>>()
        };
        let archive = tar(&layer.items);
        let diff = scratch.dir(&format!("l{number}"));
        let outcome = unpack(&archive, &diff).unwrap_or_else(|e| panic!("seed {seed} layer {number}: {e}\n{:?}", names()));
        layers.push((diff, outcome.root_opaque));
        let merged = mount(&scratch, &layers);
        let what = |form: &str| format!("seed {seed}, layer {number} of {form}: {:?}", names());
        compare(&what("overlay"), &merged, &model);
        nix::mount::umount(&merged).unwrap();
        unpack_with(&archive, &plain, &options(Whiteouts::Delete))
            .unwrap_or_else(|e| panic!("seed {seed}: {e}\n{:?}", names()));
        compare(&what("the deleting form"), &plain, &model);
    }
}

/// The kernel looks for whiteouts where directories of several layers are merged; none may be listed elsewhere either.
#[test]
fn no_whiteout_is_listed() {
    chroot::own_namespace();
    let scratch = Scratch::new("listed");
    let stack = [
        vec![dir("d"), file("d/a", ""), file("d/b", ""), file("e/z", ""), file("k/.wh.q", ""), file(".wh.r", "")],
        vec![
            file("d/.wh.a", ""),
            file("d/.wh..wh..opq", ""),
            file("d/.wh.b", ""),
            file("d/c", ""),
            file("d/sub/.wh.x", ""),
            file("n/.wh.q", ""),
            file("n/r", ""),
            file("e/.wh.z", ""),
            item(b'3', "n/zero"),
        ],
        vec![file("d/more", ""), file("n/more", ""), file("f/more", "")],
    ];
    let layers: Vec<(PathBuf, bool)> = stack
        .iter()
        .enumerate()
        .map(|(n, items)| {
            let diff = scratch.dir(&format!("l{n}"));
            let outcome = unpack(&tar(items), &diff).unwrap();
            (diff, outcome.root_opaque)
        })
        .collect();
    let names = |layers: &[(PathBuf, bool)]| {
        let merged = mount(&scratch, layers);
        let found: Vec<String> = look(&merged).0.into_keys().collect();
        nix::mount::umount(&merged).unwrap();
        found
    };
    assert_eq!(names(&layers[..1]), ["d", "d/a", "d/b", "e", "e/z", "k"]);
    assert_eq!(names(&layers[..2]), ["d", "d/c", "d/sub", "e", "k", "n", "n/r"]);
    assert_eq!(names(&layers), ["d", "d/c", "d/more", "d/sub", "e", "f", "f/more", "k", "n", "n/more", "n/r"]);
}

/// What the model's layers do not do: the merged overlay and the tree that the deleting form leaves are the same.
#[test]
fn both_forms_agree() {
    chroot::own_namespace();
    let lower = || {
        let kept = |path: &str| dir(path).mode(0o700).owner(55, 55).pax("SCHILY.xattr.user.t", b"lower");
        vec![kept("d"), kept("d/sub"), file("d/sub/old", ""), kept("w"), kept("w/sub"), file("w/sub/old", ""), file("f", "")]
    };
    let (opaque, whiteout) = (file("d/.wh..wh..opq", ""), file(".wh.w", ""));
    for (case, upper) in [
        ("implied below opaque", vec![dir("d").mode(0o711), opaque.clone(), file("d/sub/n", "")]),
        ("opaque over implied", vec![dir("d").mode(0o711), file("d/sub/n", ""), opaque]),
        ("implied below a whiteout", vec![whiteout.clone(), file("w/sub/n", "")]),
        ("a whiteout over implied", vec![file("w/sub/n", ""), whiteout]),
        ("described again", vec![dir("d").mode(0o711).owner(1, 2), dir("d/sub")]),
        ("file, then directory", vec![file("w", ""), dir("w"), file("w/n", "")]),
        ("link, then directory", vec![symlink("w", "d"), dir("w"), file("w/n", "")]),
        ("directory over a file", vec![dir("f"), file("f/n", "")]),
        ("file over a directory", vec![file("d", "")]),
    ] {
        let scratch = Scratch::new("forms");
        let (below, above, plain) = (scratch.dir("l0"), scratch.dir("l1"), scratch.dir("plain"));
        for (items, diff) in [(lower(), &below), (upper, &above)] {
            unpack(&tar(&items), diff).unwrap();
            unpack_with(&tar(&items), &plain, &options(Whiteouts::Delete)).unwrap();
        }
        let merged = mount(&scratch, &[(below, false), (above, false)]);
        // Nobody states the time of a directory that no entry describes; such are "sub" in four of the cases and "w" in two.
        let implied = |tree: &Tree, path: &str| tree.get(path).is_some_and(|node| node.mode == 0o755);
        let (mut overlay, mut plain) = (look(&merged).0, look(&plain).0);
        for path in ["d/sub", "w", "w/sub"] {
            if implied(&overlay, path) && implied(&plain, path) && case.contains("implied") {
                for tree in [&mut overlay, &mut plain] {
                    tree.get_mut(path).unwrap().mtime = None;
                }
            }
        }
        nix::mount::umount(&merged).unwrap();
        assert_eq!(overlay, plain, "{case}");
    }
}

#[test]
fn random_stacks_mean_what_the_model_says() {
    // A mount namespace of this thread's own: whatever happens, no mount stays behind.
    chroot::own_namespace();
    // `ARCHIVE_MODEL_SEEDS=FROM-TO` draws others.
    let seeds = std::env::var("ARCHIVE_MODEL_SEEDS").unwrap_or_else(|_| "1-120".into());
    let (from, to) = seeds.split_once('-').unwrap();
    (from.parse().unwrap()..=to.parse().unwrap()).for_each(one_stack);
}
