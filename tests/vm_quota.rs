//! Limits of layers by project quota on real ext4 and XFS filesystems, under a kernel that has it (`vm/test`). What the library does is checked
//! from outside, by `repquota` and by processes that write until they are refused.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // fork(2)

mod common;
#[path = "quota/ground.rs"]
mod ground;

use common::old_kernel::without;
use common::subject::{C, Rust, Subject};
use common::{Store, Tar, run};
use graphdriver::driver::Access;
use ground::{BLOCK, EXT4, Kind, QUICK, World, XFS, give, half, limited, names, on_both, project, repquota, writes};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::Instant;

on_both! {
    a_limit_holds_to_the_block_and_not_before
    a_mounted_layer_is_limited_even_for_root
    sizes_between_two_blocks_are_rounded_down
    inodes_are_limited_like_bytes
    defaults_options_and_zero
    what_is_refused_leaves_nothing_behind
    a_c_program_sees_limits_and_sentences
    limits_survive_a_restart_and_ids_go_on
    a_freed_id_is_used_again_only_when_nothing_has_it
    ids_of_others_are_never_used
    layers_of_the_c_module_are_counted_and_kept
    a_thousand_layers_have_a_thousand_ids
    sixteen_threads_on_two_homes_never_share_an_id
    a_full_filesystem_leaves_nothing_half_made
    a_crash_between_id_and_limit_is_swept
    a_killed_daemon_leaves_no_limit_without_a_layer
    a_full_layer_can_be_mounted_and_cleaned
    a_home_that_hands_on_its_own_project_works
    an_unpack_beyond_the_limit_fails_and_leaves_the_store_sound
    usage_is_what_the_kernel_counts
    a_kernel_before_5_14_is_asked_by_the_device_node
    without_the_mount_option_the_reason_is_told
}

fn a_limit_holds_to_the_block_and_not_before(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "1M")]).unwrap();
    let before = w.quota("a");
    assert_eq!(before.byte_limit, 1 << 20);
    let room = (before.byte_limit - before.bytes) / BLOCK;
    assert!(writes(&w.diff("a").join("fits"), room), "{before:?}");
    assert_eq!(w.quota("a").bytes, 1 << 20);
    assert!(!writes(&w.diff("a").join("more"), 1));
    assert_eq!(w.quota("a").bytes, 1 << 20);
    fs::remove_file(w.diff("a").join("fits")).unwrap();
    assert!(!writes(&w.diff("a").join("much"), room + 1));
    // What is made deeper inside counts as well, and so does the kernel's scratch directory.
    for part in ["diff", "work"] {
        assert_eq!(project(&w.home().join("a").join(part)), w.project("a"), "{part}");
    }
    let df = Command::new("df").args(["--output=size", "-B1"]).arg(w.diff("a")).output().unwrap();
    assert_eq!(String::from_utf8(df.stdout).unwrap().split_whitespace().last(), Some("1048576"));
}

fn a_mounted_layer_is_limited_even_for_root(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "1M")]).unwrap();
    let merged = w.subject.mount("a", &[]).unwrap();
    fs::write(merged.join("small"), vec![1; 256 << 10]).unwrap();
    let written = fs::write(merged.join("large"), vec![1; 2 << 20]).and_then(|()| fs::File::open(&merged)?.sync_all());
    assert_eq!(written.unwrap_err().raw_os_error(), Some(kind.refusal));
    assert!(w.quota("a").bytes <= 1 << 20);
    w.subject.umount("a").unwrap();
}

fn sizes_between_two_blocks_are_rounded_down(kind: &Kind) {
    let w = World::new(kind, &[]);
    for (id, size, limit) in
        [("a", "1000000", 999_424), ("b", "524289", 524_288), ("c", "528383", 524_288), ("d", "1.5M", 3 << 19)]
    {
        w.create(id, &[("size", size)]).unwrap();
        assert_eq!(w.quota(id).byte_limit, limit, "{size}");
    }
    let room = (999_424 - w.quota("a").bytes) / BLOCK;
    assert!(writes(&w.diff("a").join("fits"), room) && !writes(&w.diff("a").join("more"), 1));
}

fn inodes_are_limited_like_bytes(kind: &Kind) {
    let w = World::new(kind, &["overlay2.inodes=20"]);
    w.create("a", &[]).unwrap();
    w.create("b", &[("inodes", "12"), ("size", "1M")]).unwrap();
    assert_eq!((w.quota("b").inode_limit, w.quota("b").byte_limit), (12, 1 << 20));
    for (id, limit) in [("a", 20), ("b", 12)] {
        let merged = w.subject.mount(id, &[]).unwrap();
        let room = limit - w.quota(id).inodes;
        let made = (0..limit).take_while(|i| fs::write(merged.join(i.to_string()), "").is_ok()).count() as u64;
        assert_eq!((made, w.quota(id).inodes), (room, limit));
        w.subject.umount(id).unwrap();
    }
}

fn defaults_options_and_zero(kind: &Kind) {
    let w = World::new(kind, &["overlay2.basesize=10M"]);
    let none: &[(&str, &str)] = &[];
    let cases = [
        ("a", none, 10 << 20, "size=10485760"),
        ("b", &[("size", "20M")], 20 << 20, "size=20M"),
        ("c", &[("size", "0")], 10 << 20, "size=0"),
        ("d", &[("SIZE", "30m")], 30 << 20, "SIZE=30m"),
    ];
    for (id, given, limit, shown) in cases {
        let options = w.create(id, given).unwrap();
        let text: Vec<String> = options.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!((w.quota(id).byte_limit, text.join(",").as_str()), (limit, shown));
    }
    w.subject.create_ro("image", None).unwrap();
    assert_eq!(w.project("image"), 0, "read-only layers are not limited");
    let w = w.restarted(&[]);
    assert_eq!(w.create("e", &[]).unwrap(), []);
    w.create("f", &[("size", "0")]).unwrap();
    assert_eq!((w.project("e"), w.project("f")), (0, 0));
    let status = w.subject.status().unwrap();
    assert_eq!(
        status.2,
        format!("Backing Filesystem: {}\nSupports d_type: true\nSupports project quota: true\n", kind.name)
    );
}

fn what_is_refused_leaves_nothing_behind(kind: &Kind) {
    let w = World::new(kind, &[]);
    let before = (repquota(&w.store.root()), names(&w.home()), names(&w.home().join("l")));
    for (given, sentence) in [
        (("size", "4095"), "Illegal storage quota size 4095, 4096 at least"),
        (("size", "ten"), "Invalid quota size: 'ten'"),
        (("quota", "1M"), "Unknown storage option quota"),
        (("inodes", "many"), "Invalid quota inodes: 'many'"),
    ] {
        assert_eq!(w.create("a", &[given]).unwrap_err().text, sentence);
    }
    let ro = w.subject.create("a", None, Access::ReadOnly, &[("size", "1M")]).unwrap_err();
    assert!(ro.text.contains("only supported for ReadWrite Layers"), "{ro:?}");
    assert_eq!((repquota(&w.store.root()), names(&w.home()), names(&w.home().join("l"))), before);
    drop(w.subject);
    let refused = World { subject: Rust::default(), store: w.store }.init(&["overlay2.size=4095"]).unwrap_err();
    assert!(refused.text.contains("Illegal storage quota size 4095, 4096 at least"), "{refused:?}");
}

fn a_c_program_sees_limits_and_sentences(kind: &Kind) {
    let store = Store::with(kind.mkfs, kind.args, kind.options);
    let c = C::new();
    c.init("overlay", &store.root(), &["overlay2.size=10M", QUICK]).unwrap();
    let shown = c.create("a", None, Access::ReadWrite, &[]).unwrap();
    assert_eq!(shown, [("size".to_owned(), "10485760".to_owned())]);
    let id = project(&store.root().join("overlay/a"));
    let row = repquota(&store.root())[&id];
    assert_eq!((row.byte_limit, c.usage("a").unwrap()), (10 << 20, (row.bytes, row.inodes)));
    let refused = c.create("b", None, Access::ReadWrite, &[("size", "1")]).unwrap_err();
    assert_eq!((refused.text.as_str(), refused.errno), ("Illegal storage quota size 1, 4096 at least", libc::EINVAL));
    c.remove("a").unwrap();
    c.cleanup().unwrap();
}

fn limits_survive_a_restart_and_ids_go_on(kind: &Kind) {
    let mut w = World::new(kind, &["overlay2.size=8M"]);
    let mut seen = BTreeSet::new();
    for life in 0..3 {
        for i in 0..4 {
            let id = format!("layer{life}{i}");
            w.create(&id, &[]).unwrap();
            assert!(seen.insert(w.project(&id)), "{seen:?}");
        }
        w = w.restarted(&["overlay2.size=16M"]);
    }
    assert_eq!(limited(&w.store.root()), seen);
    assert_eq!((w.quota("layer00").byte_limit, w.quota("layer10").byte_limit), (8 << 20, 16 << 20));
    assert!(!writes(&w.diff("layer00").join("much"), (8 << 20) / BLOCK));
}

fn a_freed_id_is_used_again_only_when_nothing_has_it(kind: &Kind) {
    let w = World::new(kind, &["overlay2.size=8M"]);
    w.create("a", &[]).unwrap();
    let first = w.project("a");
    let open = fs::File::create(w.diff("a").join("open")).unwrap();
    open.set_len(1).unwrap();
    w.subject.remove("a").unwrap();
    assert!(limited(&w.store.root()).is_empty());
    w.create("b", &[]).unwrap();
    assert_ne!(w.project("b"), first, "a deleted file that is still open has the id");
    drop(open);
    // XFS lets go of deleted files a moment later.
    for _ in 0..100 {
        if !repquota(&w.store.root()).contains_key(&first) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    w.create("c", &[]).unwrap();
    assert_eq!(w.project("c"), first);
    for id in ["b", "c"] {
        w.subject.remove(id).unwrap();
    }
    assert!(limited(&w.store.root()).is_empty());
}

fn ids_of_others_are_never_used(kind: &Kind) {
    let w = World::new(kind, &[]);
    let root = w.store.root();
    for id in [1, 2, 5, 9] {
        give(&root.join(format!("elsewhere/{id}")), id);
    }
    // A limit that waits for a directory to come.
    run(Command::new("setquota").args(["-P", "7", "0", "1000", "0", "0"]).arg(&root));
    // An /etc that only this thread sees.
    let nothing = None::<&str>;
    nix::mount::mount(nothing, "/etc", Some("tmpfs"), nix::mount::MsFlags::empty(), nothing).unwrap();
    fs::write("/etc/projid", "backup:3\n").unwrap();
    fs::write("/etc/projects", "4:/srv/data\n").unwrap();
    let w = w.restarted(&["overlay2.size=1M"]);
    let layers = (0..8).map(|i| format!("layer{i}")).collect::<Vec<_>>();
    for id in &layers {
        w.create(id, &[]).unwrap();
    }
    nix::mount::umount("/etc").unwrap();
    let ids: BTreeSet<u32> = layers.iter().map(|id| w.project(id)).collect();
    assert!(ids.len() == 8 && ids.is_disjoint(&BTreeSet::from([0, 1, 2, 3, 4, 5, 7, 9])), "{ids:?}");
}

fn layers_of_the_c_module_are_counted_and_kept(kind: &Kind) {
    let w = World::new(kind, &[]);
    // It may draw an id twice, and makes limits of KiB.
    for (id, number) in [("c1", 1), ("c2", 2), ("c2too", 2)] {
        w.create(id, &[]).unwrap();
        for part in ["", "diff", "work", "merged"] {
            give(&w.home().join(id).join(part), number);
        }
        let limit = "1000";
        run(Command::new("setquota").args(["-P", &number.to_string(), limit, limit, "0", "0"]).arg(w.store.root()));
    }
    let w = w.restarted(&["overlay2.size=1M"]);
    w.create("new", &[]).unwrap();
    assert!(w.project("new") > 2);
    let merged = w.subject.mount("c1", &[]).unwrap();
    fs::write(merged.join("f"), vec![1; 500 << 10]).unwrap();
    let (bytes, inodes) = w.subject.usage("c1").unwrap();
    assert!(bytes >= 500 << 10 && inodes > 4, "{bytes} {inodes}");
    // Also where a removal that could not be completed is tried again.
    let home = std::fs::File::open(w.home()).unwrap();
    let c2 = std::fs::File::open(w.home().join("c2")).unwrap();
    let control = graphdriver::quota::Control::look(home.as_fd(), &w.home()).unwrap();
    for _ in 0..3 {
        control.clear(home.as_fd(), c2.as_fd()).unwrap();
    }
    w.subject.remove("c2").unwrap();
    assert!(limited(&w.store.root()).contains(&2), "c2too has lost its limit");
    w.subject.remove("c2too").unwrap();
    w.subject.remove("c1").unwrap();
    assert_eq!(limited(&w.store.root()), BTreeSet::from([w.project("new")]));
}

/// Also how docs/performance.md measures, with more layers: `GRAPHDRIVER_LAYERS=10000`, and `--nocapture`.
fn a_thousand_layers_have_a_thousand_ids(kind: &Kind) {
    let layers: usize = std::env::var("GRAPHDRIVER_LAYERS").map_or(1000, |number| number.parse().unwrap());
    let more_inodes: &[&str] = if kind.name == "xfs" { &[] } else { &["-N", "120000"] };
    let store = Store::with(kind.mkfs, &[kind.args, more_inodes].concat(), kind.options);
    let w = World { subject: Rust::default(), store };
    w.init(&[]).unwrap();
    let timed = |what: &str, action: &mut dyn FnMut()| {
        let start = Instant::now();
        action();
        println!("{} {what}: {:?}", kind.name, start.elapsed());
    };
    timed("layers made without limit", &mut || (0..layers).for_each(|i| drop(w.create(&format!("free{i}"), &[]).unwrap())));
    timed("layers without limit removed", &mut || (0..layers).for_each(|i| w.subject.remove(&format!("free{i}")).unwrap()));
    timed("start without layers", &mut || w.init(&["overlay2.size=1M"]).unwrap());
    timed("layers made", &mut || (0..layers).for_each(|i| drop(w.create(&format!("layer{i}"), &[]).unwrap())));
    assert_eq!(limited(&w.store.root()).len(), layers);
    // Not only the daemon forgets: the kernel, too.
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    drop(w.subject);
    let again = World { subject: Rust::default(), store: w.store };
    timed("start, nothing cached", &mut || again.init(&["overlay2.size=1M"]).unwrap());
    drop(again.subject);
    let w = World { subject: Rust::default(), store: again.store };
    timed("start", &mut || w.init(&["overlay2.size=1M"]).unwrap());
    timed("quota's part of it", &mut || {
        use std::os::fd::AsFd;
        let home = fs::File::open(w.home()).unwrap();
        let quota = graphdriver::quota::Control::probe(home.as_fd(), &w.home()).unwrap();
        quota.check_enforced(home.as_fd()).unwrap();
    });
    timed("first layer", &mut || drop(w.create("first", &[]).unwrap()));
    timed("second layer", &mut || drop(w.create("second", &[]).unwrap()));
    timed("usage of a layer", &mut || assert!(w.subject.usage("second").unwrap().1 > 4));
    timed("first removal", &mut || w.subject.remove("second").unwrap());
    assert_eq!(limited(&w.store.root()).len(), layers + 1);
    timed("second removal", &mut || w.subject.remove("layer0").unwrap());
    timed("layers removed", &mut || (1..layers).for_each(|i| w.subject.remove(&format!("layer{i}")).unwrap()));
    assert_eq!(limited(&w.store.root()), BTreeSet::from([w.project("first")]));
}

fn sixteen_threads_on_two_homes_never_share_an_id(kind: &Kind) {
    let w = World::new(kind, &["overlay2.size=1M"]);
    let other = Rust::default();
    other.init("overlay", &w.store.root().join("other"), &["overlay2.size=1M", QUICK]).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let subject = if thread % 2 == 0 { &w.subject } else { &other };
            scope.spawn(move || {
                for i in 0..10 {
                    subject.create_rw(&format!("layer{thread}.{i}"), None).unwrap();
                }
            });
        }
    });
    let mut ids = BTreeSet::new();
    for thread in 0..16 {
        let home = if thread % 2 == 0 { w.home() } else { w.store.root().join("other/overlay") };
        for i in 0..10 {
            assert!(ids.insert(project(&home.join(format!("layer{thread}.{i}")))), "{ids:?}");
        }
    }
    assert_eq!(limited(&w.store.root()), ids);
}

fn a_full_filesystem_leaves_nothing_half_made(kind: &Kind) {
    let w = World::new(kind, &["overlay2.size=8M"]);
    w.create("before", &[]).unwrap();
    let ballast = w.store.root().join("ballast");
    for (name, block) in [("large", "1M"), ("small", "4k"), ("tiny", "512")] {
        let script = format!("dd if=/dev/zero of=\"$1.{name}\" bs={block} status=none; sync -f \"$1.{name}\"; true");
        run(Command::new("sh").args(["-c", &script, "sh"]).arg(&ballast));
    }
    let (entries, links, had_limits) = (names(&w.home()), names(&w.home().join("l")), limited(&w.store.root()));
    let refused = (0..3000).find_map(|i| w.create(&format!("full{i}"), &[]).err().map(|e| (i, e)));
    let (made, refused) = refused.expect("the filesystem never got full");
    assert_eq!(refused.errno, libc::ENOSPC, "{refused:?}");
    assert_eq!((names(&w.home()).len(), names(&w.home().join("l")).len()), (entries.len() + made, links.len() + made));
    assert_eq!(limited(&w.store.root()).len(), had_limits.len() + made);
    fs::remove_file(w.store.root().join("ballast.large")).unwrap();
    w.create("after", &[]).unwrap();
    assert_eq!(w.quota("after").byte_limit, 8 << 20);
}

fn a_crash_between_id_and_limit_is_swept(kind: &Kind) {
    let w = World::new(kind, &["overlay2.size=1M"]);
    w.create("whole", &[]).unwrap();
    let root = w.store.root();
    w.subject.cleanup().unwrap(); // its worker would delete them at once
    // Three places where the power may fail: before the limit, after it, and while a layer is being deleted.
    give(&w.home().join(half("stage", 1)), 11);
    for (name, id) in [(half("stage", 2), 12), (half("trash", 3), 13)] {
        give(&w.home().join(&name).join("diff"), id);
        give(&w.home().join(&name), id);
        fs::write(w.home().join(&name).join("diff/file"), "content").unwrap();
        run(Command::new("setquota").args(["-P", &id.to_string(), "1000", "1000", "5", "5"]).arg(&root));
    }
    assert_eq!(limited(&root).len(), 3);
    let w = w.restarted(&["overlay2.size=1M"]);
    assert_eq!(limited(&root), BTreeSet::from([w.project("whole")]));
    assert!(names(&w.home()).iter().all(|name| !name.starts_with('.')));
    w.create("new", &[]).unwrap();
    assert_ne!(w.project("new"), w.project("whole"));
}

/// Killed at any moment of making and deleting layers, for real.
fn a_killed_daemon_leaves_no_limit_without_a_layer(kind: &Kind) {
    let mut w = World::new(kind, &["overlay2.size=1M"]);
    for round in 0..12_u64 {
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            for i in 0.. {
                let _ = w.create(&format!("layer{round}.{i}"), &[]);
                if i % 3 > 0 {
                    let _ = w.subject.remove(&format!("layer{round}.{i}"));
                }
            }
        }
        let made = || names(&w.home()).iter().filter(|name| name.starts_with(&format!("layer{round}."))).count();
        let start = Instant::now();
        while made() == 0 {
            assert!(start.elapsed().as_secs() < 60, "the child makes no layers");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_micros(10_000 + 1_700 * round));
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        w = w.restarted(&["overlay2.size=1M"]);
        let layers: Vec<String> = names(&w.home()).into_iter().filter(|name| name.starts_with("layer")).collect();
        let ids: BTreeSet<u32> = layers.iter().map(|id| w.project(id)).collect();
        assert_eq!((ids.len(), &limited(&w.store.root())), (layers.len(), &ids));
        assert!(layers.iter().all(|id| w.subject.exists(id)));
        common::eventually("each layer has one link", || names(&w.home().join("l")).len() == layers.len());
    }
}

fn a_full_layer_can_be_mounted_and_cleaned(kind: &Kind) {
    let w = World::new(kind, &["overlay2.size=2M"]);
    w.create("a", &[]).unwrap();
    let merged = w.subject.mount("a", &[]).unwrap();
    fs::write(merged.join("small"), "s").unwrap();
    let _ = fs::write(merged.join("large"), vec![1; 4 << 20]).and_then(|()| fs::File::open(&merged)?.sync_all());
    w.subject.umount("a").unwrap();
    assert!(!writes(&w.diff("a").join("rest"), 512) && !writes(&w.diff("a").join("more"), 1), "not full");
    let merged = w.subject.mount("a", &[]).unwrap();
    for file in ["large", "rest"] {
        fs::remove_file(merged.join(file)).unwrap();
    }
    // XFS frees a moment later.
    let again = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::write(merged.join("again"), vec![1; 1 << 20]).is_ok()
    });
    assert!(again, "{:?}", w.quota("a"));
    assert_eq!(w.quota("a").byte_limit, 2 << 20);
}

fn a_home_that_hands_on_its_own_project_works(kind: &Kind) {
    let store = Store::with(kind.mkfs, kind.args, kind.options);
    give(&store.root().join("overlay"), 100);
    let w = World { subject: Rust::default(), store };
    w.init(&["overlay2.size=1M"]).unwrap();
    w.subject.create_ro("image", None).unwrap();
    w.subject.create_rw("a", Some("image")).unwrap();
    assert_eq!(w.project("image"), 100);
    assert!(w.project("a") > 100, "ids begin above that of home");
    assert_eq!(project(&w.diff("a")), w.project("a"));
    assert!(!writes(&w.diff("a").join("much"), 300));
    fs::remove_file(w.diff("a").join("much")).unwrap();
    let merged = w.subject.mount("a", &[]).unwrap();
    fs::create_dir(merged.join("dir")).unwrap();
    fs::rename(merged.join("dir"), merged.join("moved")).unwrap();
    let w = w.restarted(&[]);
    assert!(w.subject.exists("a"));
    w.subject.remove("a").unwrap();
    w.subject.remove("image").unwrap();
    assert!(limited(&w.store.root()).is_empty());
    assert_eq!(names(&w.home()), BTreeSet::from(["backingFsBlockDev".to_owned(), "l".to_owned()]));
}

fn an_unpack_beyond_the_limit_fails_and_leaves_the_store_sound(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "1M")]).unwrap();
    let content = "x".repeat(4 << 20);
    let failed = w.subject.apply("a", &Tar::new().file("small", "s").file("large", &content).done()).unwrap_err();
    assert_eq!(failed.errno, kind.refusal, "{failed:?}");
    let said = ["Disk quota exceeded", "No space left on device"].iter().any(|text| failed.text.contains(text));
    assert!(said && failed.text.contains("large"), "{failed:?}");
    assert!(w.subject.exists("a") && names(&w.diff("a")).is_empty());
    assert!(w.quota("a").bytes < 64 << 10);
    // It can be used as if nothing had been.
    w.subject.apply("a", &Tar::new().file("small", "s").done()).unwrap();
    let merged = w.subject.mount("a", &[]).unwrap();
    assert_eq!(fs::read_to_string(merged.join("small")).unwrap(), "s");
    w.subject.remove("a").unwrap();
    assert!(limited(&w.store.root()).is_empty());
}

fn usage_is_what_the_kernel_counts(kind: &Kind) {
    let w = World::new(kind, &[]);
    w.create("a", &[("size", "10M")]).unwrap();
    fs::write(w.diff("a").join("file"), vec![1; 1 << 20]).unwrap();
    fs::create_dir(w.diff("a").join("dir")).unwrap();
    let row = w.quota("a");
    assert_eq!(w.subject.usage("a").unwrap(), (row.bytes, row.inodes));
    assert!(row.bytes >= 1 << 20 && row.inodes >= 6, "{row:?}");
    // A layer without a quota is walked.
    w.create("b", &[]).unwrap();
    fs::write(w.diff("b").join("file"), vec![1; 1 << 20]).unwrap();
    let (bytes, inodes) = w.subject.usage("b").unwrap();
    assert!((1 << 20..(1 << 20) + 16 * BLOCK).contains(&bytes) && inodes <= 2, "{bytes} {inodes}");
    let node = fs::symlink_metadata(w.home().join("backingFsBlockDev")).unwrap();
    assert!(node.file_type().is_block_device() && node.permissions().mode() & 0o7777 == 0o600);
    assert_eq!(node.rdev(), fs::metadata(w.home().join("a")).unwrap().dev());
}

fn a_kernel_before_5_14_is_asked_by_the_device_node(kind: &Kind) {
    let store = Store::with(kind.mkfs, kind.args, kind.options);
    without(&[libc::SYS_quotactl_fd]);
    let w = World { subject: Rust::default(), store };
    w.init(&["overlay2.size=1M"]).unwrap();
    w.create("a", &[]).unwrap();
    assert_eq!(w.quota("a").byte_limit, 1 << 20);
    assert_eq!(w.subject.usage("a").unwrap().1, w.quota("a").inodes);
    w.subject.remove("a").unwrap();
    assert!(limited(&w.store.root()).is_empty());
}

fn without_the_mount_option_the_reason_is_told(kind: &Kind) {
    let (reason, advice) = match kind.name {
        "xfs" => ("XFS is mounted without project quota", "unmount it and mount it with -o prjquota"),
        _ => ("project quota is counted but not enforced", "quotaon -P"),
    };
    refuses(Store::with(kind.mkfs, kind.args, "loop"), reason, advice);
}

#[test]
fn without_the_feature_of_ext4_the_way_to_get_it_is_told() {
    let store = Store::with(EXT4.mkfs, &["-q", "-F"], "loop");
    refuses(store, "without the features 'quota' and 'project'", "tune2fs -O project,quota -Q prjquota");
    let store = Store::with(EXT4.mkfs, &["-q", "-F", "-O", "project"], "loop");
    refuses(store, "without the feature 'quota'", "tune2fs -O quota -Q prjquota");
}

#[test]
fn counting_without_enforcing_is_not_enough() {
    let store = Store::with(XFS.mkfs, XFS.args, "loop,pqnoenforce");
    refuses(store, "is counted but not enforced", "not with pqnoenforce");
}

/// A store without quota: limits are refused, with the reason, and all else works.
fn refuses(store: Store, reason: &str, advice: &str) {
    let w = World { subject: Rust::default(), store };
    let refused = w.init(&["overlay2.size=1M"]).unwrap_err();
    for part in ["Storage option overlay.size not supported. Filesystem does not support Project Quota", reason, advice] {
        assert!(refused.text.contains(part), "{part}: {refused:?}");
    }
    w.init(&[]).unwrap();
    let refused = w.create("a", &[("size", "1M")]).unwrap_err();
    let sentence = "--storage-opt is supported only for overlay over xfs or ext4 with 'pquota' mount option";
    assert_eq!((refused.text.as_str(), refused.errno), (sentence, libc::EOPNOTSUPP));
    let status = w.subject.status().unwrap().2;
    assert!(
        status.contains("\nSupports project quota: false (needed for size limits only: ") && status.contains(reason),
        "{status}"
    );
    assert_eq!(w.create("a", &[]).unwrap(), []);
    w.subject.mount("a", &[]).unwrap();
    w.subject.usage("a").unwrap();
    w.subject.remove("a").unwrap();
}
