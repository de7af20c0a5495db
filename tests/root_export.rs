//! Layers exported and unpacked again: what comes out is what was there. On overlay2; `vm_export.rs` has devicemapper.

mod archive_support;
mod common;
mod tree_support;

use archive_support::{Scratch, options, unpack_with};
use common::{Store, Tar, run};
use graphdriver::archive::Whiteouts;
use graphdriver::driver::{Access, Against, Change, Compression, CreateOptions, Exported, Form, MountOptions};
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
        let form = Form { compression, digests: true };
        let exported = self.0.with(|driver| driver.diff(&id(name), &base.map(id).into(), form, &mut bytes))?;
        assert_eq!(exported.bytes, bytes.len() as u64);
        Ok((bytes, exported))
    }

    fn diff(&self, name: &str, base: Option<&str>) -> Vec<u8> {
        self.try_diff(name, base, Compression::None).unwrap_or_else(|e| panic!("{name}: {e}")).0
    }

    fn changes(&self, name: &str, base: Option<&str>) -> Vec<(String, Change)> {
        let mut all = Vec::new();
        let mut each = |path: &[u8], change| {
            all.push((String::from_utf8_lossy(path).into_owned(), change));
            Ok(())
        };
        self.0.with(|driver| driver.changes(&id(name), &base.map(id).into(), &mut each)).unwrap();
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

/// A stack of three layers with about everything in it.
fn archives(host: &Host, seed: u64) -> Vec<Vec<u8>> {
    let random = &mut Random::new(seed);
    let mut made = Vec::new();
    let mut parent: Option<String> = None;
    for number in 0..3 {
        let (container, layer) = (format!("made{number}"), format!("from{number}"));
        host.container(&container, parent.as_deref(), |root| work(random, root, 150));
        made.push(host.diff(&container, None));
        host.image(&layer, parent.as_deref(), &made[number]);
        parent = Some(layer);
    }
    made
}

#[test]
fn root_the_same_archive_on_every_filesystem_and_of_remapped_owners() {
    let ext4 = Store::new();
    let xfs = Store::with("mkfs.xfs", &["-q"], "loop");
    let small_blocks = Store::with("mkfs.ext4", &["-q", "-F", "-b", "1024"], "loop");
    let tmpfs = Scratch::new("export-tmpfs");
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&tmpfs.0));
    let made = archives(&Host::new(&ext4.root().join("first"), &[]), 99);
    for (what, root, more) in [
        ("ext4", ext4.root().join("again"), &[][..]),
        ("ext4, small blocks", small_blocks.root(), &[]),
        ("xfs", xfs.root(), &[]),
        ("tmpfs", tmpfs.0.clone(), &[]),
        ("remapped", ext4.root().join("remapped"), &["overlay2.userns_remap=100000:200000:4000000"]),
    ] {
        let host = Host::new(&root, more);
        for (number, archive) in made.iter().enumerate() {
            let parent = number.checked_sub(1).map(|below| format!("l{below}"));
            host.image(&format!("l{number}"), parent.as_deref(), archive);
            assert!(host.diff(&format!("l{number}"), None) == *archive, "{what}, layer {number}");
        }
    }
    nix::mount::umount2(&tmpfs.0, nix::mount::MntFlags::MNT_DETACH).unwrap();
}

/// An archive as others make them, whose directories nobody describes and whose entries have another order.
#[test]
fn root_an_archive_of_others_has_one_canonical_form() {
    let store = Store::new();
    let foreign = Tar::new().file("b/deep/file", "1").hard_link("a", "b/deep/file").symlink("z", "b").file("b/.wh.gone", "");
    let archive = foreign.done();
    let mut forms = Vec::new();
    for name in ["one", "two"] {
        let host = Host::new(&store.root().join(name), &[]);
        host.image("below", None, &Tar::new().file("b/gone", "").done());
        host.image("layer", Some("below"), &archive);
        std::thread::sleep(std::time::Duration::from_millis(20));
        forms.push(host.diff("layer", None));
        host.image("again", Some("below"), &forms[0]);
        assert!(host.diff("again", None) == forms[0]);
    }
    assert!(forms[0] == forms[1], "it does not tell when it was unpacked");
}

#[test]
fn root_changes_are_told_path_by_path() {
    let store = Store::new();
    let host = Host::new(&store.root(), &[]);
    let lower = Tar::new().dir("d/").file("d/kept", "").file("d/gone", "").dir("full/").file("full/a", "").dir("full/b/");
    host.image("one", None, &lower.file("full/b/c", "").file("f", "12").done());
    host.image("two", Some("one"), &Tar::new().file("between", "x").file(".wh.never", "").done());
    host.container("c", Some("two"), |root| {
        fs::remove_file(root.join("d/gone")).unwrap();
        fs::write(root.join("d/new"), "345").unwrap();
        fs::remove_dir_all(root.join("full")).unwrap();
        fs::create_dir(root.join("full")).unwrap();
        fs::write(root.join("full/a"), "6789").unwrap();
        fs::write(root.join("f"), "changed").unwrap();
    });
    use Change::{Added, Deleted, Modified};
    let told = |list: &[(&str, Change)]| list.iter().map(|(path, c)| ((*path).to_owned(), *c)).collect::<Vec<_>>();
    let own = [
        ("", Modified),
        ("d", Modified),
        ("d/gone", Deleted),
        ("d/new", Added),
        ("f", Modified),
        ("full", Modified),
        ("full/a", Modified),
        ("full/b", Deleted),
    ];
    assert_eq!(host.changes("c", None), told(&own));
    assert_eq!(host.changes("c", Some("two")), told(&own));
    let since_one = [&own[..1], &[("between", Added)], &own[1..]].concat();
    assert_eq!(host.changes("c", Some("one")), told(&since_one));
    assert_eq!(host.changes("two", None), told(&[("", Modified), ("between", Added)]));
    assert_eq!(host.changes("one", None).len(), 9, "all of a base layer is new");
    let size = |base: Option<&str>| host.0.with(|driver| driver.diff_size(&id("c"), &base.map(id).into())).unwrap();
    assert_eq!((size(None), size(Some("one"))), (3 + 4 + 7, 3 + 4 + 7 + 1));
    assert_eq!(host.try_diff("one", Some("two"), Compression::None).unwrap_err().kind(), Kind::Invalid);
}

/// What the layer's directory alone does not say: where a directory came from, and whose data a file has.
#[test]
fn root_renamed_directories_and_metadata_only_copies_come_back() {
    let store = Store::new();
    let host = Host::new(&store.root(), &[]);
    let lower = Tar::new().dir("old/").file("old/file", "content").file("big", &"data".repeat(5000)).dir("rest/");
    host.image("lowest", None, &lower.file("rest/x", "").done());
    for (name, words) in [("both", "redirect_dir=on,metacopy=on"), ("renamed", "redirect_dir=on")] {
        host.make(name, Some("lowest"), Access::ReadWrite);
        let root = host.mount_with(name, &[words]);
        fs::rename(root.join("old"), root.join("new")).unwrap();
        fs::set_permissions(root.join("big"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(root.join("added"), "1").unwrap();
        let want = look(&root);
        let running = host.diff(name, None);
        host.umount(name);
        let archive = host.diff(name, None);
        assert!(archive == running, "{name}");
        let layer = format!("{name}-layer");
        host.image(&layer, Some("lowest"), &archive);
        assert_same(name, &host.see(&layer), &want);
        let paths: Vec<String> = host.changes(name, None).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["", "added", "big", "new", "new/file", "old"]);
    }
}

/// With `index=on` a changed file keeps names that only lower layers have.
#[test]
fn root_hard_links_that_copying_up_kept_or_broke() {
    let store = Store::new();
    let host = Host::new(&store.root(), &[]);
    let lower = Tar::new().dir("d/").file("d/a", "1").hard_link("d/b", "d/a").hard_link("d/c", "d/a").file("d/z", "2");
    host.image("lowest", None, &lower.done());
    for (name, word) in [("kept", "index=on"), ("broke", "index=off")] {
        host.make(name, Some("lowest"), Access::ReadWrite);
        let root = host.mount_with(name, &[word]);
        fs::write(root.join("d/b"), "changed").unwrap();
        fs::hard_link(root.join("d/z"), root.join("d/y")).unwrap();
        let want = look(&root);
        let archive = host.diff(name, None);
        host.umount(name);
        if name == "kept" {
            let error = host.try_diff(name, None, Compression::None).unwrap_err();
            assert!(error.kind() == Kind::Unsupported && error.to_string().contains("mount the layer"), "{error}");
        } else {
            assert!(host.diff(name, None) == archive);
        }
        let layer = format!("{name}-layer");
        host.image(&layer, Some("lowest"), &archive);
        let (got, same) =
            (host.see(&layer), |tree: &Tree, a: &str, b: &str| tree[Path::new(a)].same_as == tree[Path::new(b)].same_as);
        assert_eq!(same(&want, "d/a", "d/b"), name == "kept");
        assert_same(name, &got, &want);
    }
}

/// A secret of the host's, a fifo, and a container that moves symlinks to both into the way, all the time.
#[test]
fn root_nothing_outside_the_layer_is_read() {
    let store = Store::new();
    let host = Host::new(&store.root().join("store"), &[]);
    let outside = store.root().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "a secret of the host's").unwrap();
    host.make("c", None, Access::ReadWrite);
    let root = host.mount("c");
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/file"), "of the layer").unwrap();
    fs::write(root.join("file"), "of the layer").unwrap();
    run(Command::new("mkfifo").arg(root.join("fifo")));
    symlink(&outside, root.join("away")).unwrap();
    symlink(outside.join("file"), root.join("link")).unwrap();
    let (done, ends) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
            while !done.load(Ordering::Relaxed) {
                for (a, b) in [("dir", "away"), ("file", "link"), ("file", "fifo")] {
                    renameat2(AT_FDCWD, &root.join(a), AT_FDCWD, &root.join(b), RenameFlags::RENAME_EXCHANGE).unwrap();
                }
            }
        });
        let ended = std::panic::catch_unwind(|| {
            for round in 0..300 {
                match host.try_diff("c", None, Compression::None) {
                    Ok((bytes, _)) => assert!(!bytes.windows(6).any(|w| w == b"secret"), "round {round}"),
                    Err(e) => assert_eq!(e.kind(), Kind::Busy, "{e}"),
                }
            }
        });
        done.store(true, Ordering::Relaxed);
        ends.store(ended.is_ok(), Ordering::Relaxed);
    });
    assert!(ends.load(Ordering::Relaxed));
    host.umount("c");
}

/// What is mounted inside a container, such as the host's /proc, is not the layer's.
#[test]
fn root_what_is_mounted_in_the_layer_is_not_exported() {
    let store = Store::new();
    let host = Host::new(&store.root(), &[]);
    host.image("lowest", None, &Tar::new().dir("mnt/").file("mnt/below", "layer's").done());
    host.make("c", Some("lowest"), Access::ReadWrite);
    let root = host.mount_with("c", &["redirect_dir=on"]);
    fs::create_dir(root.join("d")).unwrap();
    fs::rename(root.join("mnt"), root.join("moved")).unwrap();
    let without = host.diff("c", None);
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(root.join("moved")));
    fs::write(root.join("moved/host"), "host's").unwrap();
    assert!(host.diff("c", None) == without, "the mount does not show");
    run(Command::new("umount").arg(root.join("moved")));
    host.umount("c");
}

/// A file that grows all the time is an error that names it, or was read between two writes.
#[test]
fn root_a_file_that_changes_while_it_is_read_is_an_error() {
    let store = Store::new();
    let host = Host::new(&store.root(), &[]);
    host.make("c", None, Access::ReadWrite);
    let root = host.mount("c");
    let log = root.join("growing.log");
    fs::write(&log, vec![b'x'; 4 << 20]).unwrap();
    // The container writes when the archive has begun: into a writer that is told where the export is.
    struct Meddler<'a>(&'a Path, usize);
    impl Write for Meddler<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1 == 0 {
                fs::OpenOptions::new().append(true).open(self.0)?.write_all(b"more")?;
            }
            self.1 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let error = host
        .0
        .with(|driver| driver.diff(&id("c"), &Against::default(), Form::default(), &mut Meddler(&log, 0)))
        .unwrap_err();
    assert!(error.kind() == Kind::Busy && error.to_string().contains("/growing.log"), "{error}");
    host.diff("c", None);
    host.umount("c");
}

/// A writer that fails ends the export with its own error; and whatever became of an export, the store is as it was.
#[test]
fn root_an_export_changes_nothing_and_fails_as_its_writer_does() {
    fn stamps(dir: &Path, all: &mut Vec<(PathBuf, [i64; 8])>) {
        let st = dir.symlink_metadata().unwrap();
        let (atime, mtime, ctime) =
            ((st.atime(), st.atime_nsec()), (st.mtime(), st.mtime_nsec()), (st.ctime(), st.ctime_nsec()));
        let ids = (i64::try_from(st.ino()).unwrap(), i64::from(st.mode()));
        all.push((dir.to_owned(), [atime.0, atime.1, mtime.0, mtime.1, ctime.0, ctime.1, ids.0, ids.1]));
        if st.is_dir() {
            fs::read_dir(dir).unwrap().for_each(|entry| stamps(&entry.unwrap().path(), all));
        }
    }
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let store = Store::with("mkfs.ext4", &["-q", "-F"], "loop,strictatime");
    let host = Host::new(&store.root(), &[]);
    host.container("lowest", None, |root| work(&mut Random::new(5), root, 100));
    host.image("layer", None, &host.diff("lowest", None));
    host.container("c", Some("layer"), |root| work(&mut Random::new(6), root, 100));
    let diffs = store.root().join("overlay2");
    let seen = || {
        let mut all = Vec::new();
        ["lowest/diff", "layer/diff", "c/diff"].iter().for_each(|part| stamps(&diffs.join(part), &mut all));
        all
    };
    seen();
    let start = std::time::SystemTime::now();
    while start.elapsed().unwrap().as_millis() < 30 {} // the clock of a filesystem is coarse
    let before = seen();
    // Looking at directories sets their access times: what an export must not do is compared without those of directories.
    let stripped = |all: &[(PathBuf, [i64; 8])]| -> Vec<(PathBuf, [i64; 8])> {
        let dir = |mode: i64| mode & 0o170_000 == 0o040_000;
        let strip = |(path, mut s): (PathBuf, [i64; 8])| {
            if dir(s[7]) {
                (s[0], s[1]) = (0, 0);
            }
            (path, s)
        };
        all.iter().cloned().map(strip).collect()
    };
    let whole = host.diff("c", None).len();
    for room in [0, 1, 512, whole / 2, whole - 1] {
        let compressions = [Compression::None, Compression::Gzip(1), Compression::Zstd(0)];
        for form in compressions.into_iter().flat_map(|c| [false, true].map(|digests| Form { compression: c, digests })) {
            match host.0.with(|driver| driver.diff(&id("c"), &Against::default(), form, &mut Full(room))) {
                Ok(_) => assert!(form.compression != Compression::None && room > 512),
                Err(e) => assert_eq!(e.errno(), libc::ENOSPC, "{room} {form:?}: {e}"),
            }
        }
    }
    host.changes("c", None);
    host.diff("layer", None);
    assert_eq!(stripped(&seen()), stripped(&before));
}

#[test]
fn root_compressed_archives_are_the_same_archive() {
    let store = Store::new();
    let host = Host::new(&store.root(), &[]);
    host.container("c", None, |root| work(&mut Random::new(7), root, 100));
    let (plain, told) = host.try_diff("c", None, Compression::None).unwrap();
    let (digest, diff_id) = told.digests.unwrap();
    assert_eq!(digest, diff_id);
    for (compression, magic) in
        [(Compression::Gzip(0), &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0][..]), (Compression::Zstd(19), &[0x28, 0xb5])]
    {
        let (bytes, packed) = host.try_diff("c", None, compression).unwrap();
        assert!(bytes.starts_with(magic), "neither a name nor a time");
        let (digest, packed_id) = packed.digests.unwrap();
        assert_eq!((packed_id, packed.entries), (diff_id, told.entries));
        assert_ne!(digest, diff_id);
        let mut without = Vec::new();
        let form = Form { compression, digests: false };
        let same = host.0.with(|driver| driver.diff(&id("c"), &Against::default(), form, &mut without)).unwrap();
        assert!(same == Exported { digests: None, ..packed } && without == bytes, "{compression:?} without digests");
        let name = format!("{compression:?}").to_lowercase().replace(['(', ')'], "-");
        host.image(&format!("layer-{name}x"), None, &bytes);
        assert!(host.diff(&format!("layer-{name}x"), None) == plain);
        let sum = Command::new("sha256sum").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
        let mut sum = sum.unwrap();
        sum.stdin.take().unwrap().write_all(&bytes).unwrap();
        let mut text = String::new();
        sum.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        sum.wait().unwrap();
        assert_eq!(digest.to_string(), format!("sha256:{}", &text[..64]));
    }
    assert_eq!(host.try_diff("c", None, Compression::Gzip(10)).unwrap_err().kind(), Kind::Invalid);
}

/// More directories below one another than are kept open, in both ways of finding changes.
#[test]
fn root_trees_deeper_than_any_path() {
    let store = Store::new();
    let host = Host::new(&store.root(), &[]);
    let deep = |root: &Path, mark: &str| {
        let mut dir = root.to_owned();
        for level in 0..100 {
            dir.push(format!("level-{level}"));
            let _ = fs::create_dir(&dir);
            set_mtime(&dir, level, 5);
        }
        fs::write(dir.join(mark), mark).unwrap();
    };
    host.container("one", None, |root| deep(root, "one"));
    host.image("first", None, &host.diff("one", None));
    host.image("second", Some("first"), &Tar::new().file("level-0/side", "").done());
    host.container("two", Some("second"), |root| deep(root, "two"));
    for base in [None, Some("first")] {
        let layer = format!("back{}", base.unwrap_or_default());
        host.image(&layer, Some(base.unwrap_or("second")), &host.diff("two", base));
        assert_same(&layer, &host.see(&layer), &host.see("two"));
    }
}

/// What real packages hold: setuid programs, hard links, thousands of small files, and an upgrade's worth of changes upon them.
#[test]
fn root_the_trees_of_installed_packages_come_back() {
    let store = Store::new();
    let host = Host::new(&store.root(), &[]);
    let plain = Scratch::new("export-packages");
    let install = |packages: &str, root: &Path| {
        // Packages still name what a merged /usr holds by its old paths.
        let merged = "sed -En 's#^/(bin|sbin|lib|lib32|lib64)(/|$)#/usr/\\1\\2#; s#^/(.)#\\1#p'";
        let files =
            format!("dpkg-query -L {packages} | {merged} | sort -u | (cd / && xargs -d '\\n' ls -d 2>/dev/null || true)");
        let copy = format!(
            "tar -C / --no-recursion --ignore-failed-read --xattrs --acls -T - -c | tar --xattrs --acls -C '{}' -xp",
            root.display()
        );
        run(Command::new("bash").args(["-o", "pipefail", "-c", &format!("{files} | {copy}")]));
    };
    let mut parent = None;
    for (container, layer, packages) in
        [("c1", "i1", "coreutils bash passwd perl-base base-files util-linux"), ("c2", "i2", "libc-bin tzdata bash dpkg")]
    {
        host.container(container, parent, |root| {
            if parent.is_some() {
                fs::remove_dir_all(root.join("usr/share/doc")).unwrap();
            }
            install(packages, root);
        });
        let (archive, want) = (host.diff(container, None), host.see(container));
        assert!(want.len() > 500, "{}", want.len());
        host.image(layer, parent, &archive);
        assert_same(layer, &host.see(layer), &want);
        unpack_with(&archive, &plain.0, &options(Whiteouts::Delete)).unwrap();
        assert_same(layer, &look(&plain.0), &want);
        parent = Some(layer);
    }
}
