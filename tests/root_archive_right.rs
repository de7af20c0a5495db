//! Layers are unpacked exactly: needs root (owners, devices, trusted attributes).

mod archive_support;

use archive_support::*;
use graphdriver::archive::Whiteouts;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

fn stat(path: impl AsRef<Path>) -> std::fs::Metadata {
    std::fs::symlink_metadata(path.as_ref()).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

fn is_whiteout(path: impl AsRef<Path>) -> bool {
    let st = stat(path);
    st.file_type().is_char_device() && st.rdev() == 0
}

fn is_opaque(path: impl AsRef<Path>) -> bool {
    let out =
        Command::new("getfattr").args(["-h", "--only-values", "-n", "trusted.overlay.opaque"]).arg(path.as_ref()).output();
    out.unwrap().stdout == b"y"
}

#[test]
fn every_kind_of_entry_with_its_metadata() {
    let scratch = Scratch::new("kinds");
    let archive = tar(&[
        dir("./").mode(0o711).owner(7, 8),
        dir("d/").mode(0o1777).mtime(1_000_000_000),
        file("d/f", "content").mode(0o4755).owner(1000, 3_000_000_000).pax("mtime", b"1234567890.123456789"),
        hardlink("d/h", "d/f"),
        symlink("s", "/no//where/../x").owner(5, 6),
        item(b'3', "c").device(1, 3).mode(0o666),
        item(b'4', "b").device(4095, 1_048_575).mode(0o2660),
        item(b'6', "p").mode(0o600),
        file("implied/a//./b", "x").pax("mtime", b"-1.5"),
        file("far", "").mtime(1 << 33),
        dir("set").mode(0o2775).owner(0, 50),
        file("set/gid", ""),
    ]);
    let outcome = unpack(&archive, &scratch.0).unwrap();
    assert_eq!((outcome.entries, outcome.root_opaque), (12, false));
    let at = |name: &str| scratch.0.join(name);
    let root = stat(&scratch.0);
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid(), root.mtime()), (0o711, 7, 8, 1_500_000_000));
    assert_eq!((stat(at("d")).mode(), stat(at("d")).mtime()), (0o041_777, 1_000_000_000));
    let f = stat(at("d/f"));
    assert_eq!((f.mode(), f.uid(), f.gid(), f.nlink()), (0o104_755, 1000, 3_000_000_000, 2));
    assert_eq!((f.mtime(), f.mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(std::fs::read(at("d/f")).unwrap(), b"content");
    assert_eq!(stat(at("d/h")).ino(), f.ino());
    assert_eq!(std::fs::read_link(at("s")).unwrap(), Path::new("/no//where/../x"));
    assert_eq!((stat(at("s")).uid(), stat(at("s")).mtime()), (5, 1_500_000_000));
    assert_eq!((stat(at("c")).mode(), stat(at("c")).rdev()), (0o020_666, 0x103));
    assert_eq!(stat(at("b")).mode(), 0o062_660);
    assert_eq!(stat(at("p")).mode(), 0o010_600);
    assert_eq!(stat(at("implied/a")).mode(), 0o040_755);
    assert_eq!((stat(at("implied/a/b")).mtime(), stat(at("implied/a/b")).mtime_nsec()), (-2, 500_000_000));
    assert_eq!((stat(at("set")).mode(), stat(at("set/gid")).gid()), (0o042_775, 0));
}

#[test]
fn the_same_tree_as_gnu_tar_makes_from_every_compression() {
    let scratch = Scratch::new("formats");
    let source = scratch.dir("source");
    for n in 0..40_u32 {
        let dir = source.join(format!("d{}", n % 7));
        std::fs::create_dir_all(&dir).unwrap();
        let bytes: Vec<u8> = (0..n * 3001).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(dir.join(format!("f{n}")), bytes).unwrap();
    }
    let run = |program: &str, args: &[&str]| {
        assert!(Command::new(program).args(args).current_dir(&scratch.0).status().unwrap().success(), "{program} {args:?}");
    };
    run("tar", &["-cf", "plain", "-C", "source", "."]);
    for (name, command) in [
        ("gz", "gzip -c plain > gz"),
        (
            "members",
            "split -b 300k plain part. && for p in part.*; do gzip -c $p; done > members; printf garbage >> members",
        ),
        ("zst", "zstd -qc plain > zst"),
        (
            "frames",
            "printf '\\120\\052\\115\\030\\003\\000\\000\\000abc' > frames; for p in part.*; do zstd -qc $p; done >> frames",
        ),
        ("xz", "xz -c plain > xz"),
        ("streams", "for p in part.*; do xz -c $p; head -c 4 /dev/zero; done > streams"),
        ("bz2", "bzip2 -c plain > bz2"),
        ("bzs", "for p in part.*; do bzip2 -c $p; done > bzs"),
        ("plain", ":"),
    ] {
        run("sh", &["-ec", command]);
        let target = scratch.dir(&format!("target-{name}"));
        unpack(&std::fs::read(scratch.0.join(name)).unwrap(), &target).unwrap_or_else(|e| panic!("{name}: {e}"));
        run("diff", &["-r", "source", target.to_str().unwrap()]);
        let whole = std::fs::read(scratch.0.join(name)).unwrap();
        let cut = scratch.dir(&format!("cut-{name}"));
        let e = unpack(&whole[..whole.len() * 2 / 3], &cut).unwrap_err();
        assert!(["cut off", "too early", "damaged"].iter().any(|text| e.to_string().contains(text)), "{name}: {e}");
    }
}

#[test]
fn whiteouts_in_every_position_for_overlay() {
    let scratch = Scratch::new("overlay");
    let archive = tar(&[
        file(".wh.top", ""),
        file("./.wh.dotted", ""),
        file("not/here/.wh.nested", ""),
        file("both", "kept"),
        file(".wh.both", ""),
        file(".wh.later", ""),
        file("later", "kept"),
        file(".wh.dir", ""),
        dir("dir"),
        file(".wh.implied", ""),
        file("implied/child", "x"),
        dir("first"),
        file(".wh.first", ""),
        file("opq/.wh..wh..opq", ""),
        file("opq/a", ""),
        dir("mid"),
        file("mid/a", ""),
        file("mid/.wh..wh..opq", ""),
        file("mid/b", ""),
        dir(".wh..wh.plnk"),
        file(".wh..wh.plnk/1.2", ""),
        file(".wh..wh.aufs", ""),
        file("..x", ""),
    ]);
    assert!(!unpack(&archive, &scratch.0).unwrap().root_opaque);
    let at = |name: &str| scratch.0.join(name);
    for hidden in ["top", "dotted", "not/here/nested"] {
        assert!(is_whiteout(at(hidden)), "{hidden}");
    }
    assert_eq!(std::fs::read(at("both")).unwrap(), b"kept");
    assert_eq!(std::fs::read(at("later")).unwrap(), b"kept");
    for opaque in ["dir", "implied", "first", "opq", "mid"] {
        assert!(is_opaque(at(opaque)), "{opaque}");
    }
    for (dir, names) in [("opq", 1), ("mid", 2)] {
        assert_eq!(std::fs::read_dir(at(dir)).unwrap().count(), names);
    }
    let top: Vec<String> =
        std::fs::read_dir(&scratch.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!top.iter().any(|name| name.starts_with(".wh.")), "{top:?}");

    let scratch = Scratch::new("overlay-root");
    assert!(unpack(&tar(&[file(".wh..wh..opq", ""), file("a", "")]), &scratch.0).unwrap().root_opaque);
    for name in [".wh.", "d/.wh..", ".wh..."] {
        assert!(unpack(&tar(&[file(name, "")]), &scratch.0).unwrap_err().to_string().contains("whiteout"), "{name}");
    }
}

#[test]
fn whiteouts_delete_in_a_plain_tree_what_this_layer_did_not_place() {
    let scratch = Scratch::new("delete");
    let at = |name: &str| scratch.0.join(name);
    for lower in ["gone/a/b", "kept/old", "kept/sub/old", "merge/old", "merge/sub/old", "late/old"] {
        std::fs::create_dir_all(at(lower).parent().unwrap()).unwrap();
        std::fs::write(at(lower), "old").unwrap();
    }
    let archive = tar(&[
        file(".wh.gone", ""),
        file(".wh.missing", ""),
        dir("kept"),
        file("kept/new", ""),
        file("kept/.wh..wh..opq", ""),
        file("kept/newer", ""),
        file("merge/sub/new", ""),
        file(".wh.merge", ""),
        file(".wh.late", ""),
        dir("late"),
        file("late/new", ""),
    ]);
    let before = stat(&scratch.0).mtime_nsec();
    unpack_with(&archive, &scratch.0, &options(Whiteouts::Delete)).unwrap();
    assert_eq!(stat(&scratch.0).mtime_nsec(), before);
    let mut found: Vec<String> = Vec::new();
    let listing = Command::new("find").args([".", "-type", "f"]).current_dir(&scratch.0).output().unwrap().stdout;
    found.extend(String::from_utf8(listing).unwrap().lines().map(str::to_owned));
    found.sort();
    assert_eq!(found, ["./kept/new", "./kept/newer", "./late/new", "./merge/sub/new"]);
}

/// AUFS keeps files with several names apart, and the names are links to there.
#[test]
fn the_links_of_aufs() {
    let scratch = Scratch::new("aufs");
    for form in [Whiteouts::Overlay, Whiteouts::Delete] {
        let target = scratch.dir(&format!("{form:?}"));
        let archive = tar(&[
            dir("./").mtime(1_000_000_000),
            dir(".wh..wh.plnk").mode(0o700),
            dir(".wh..wh.plnk/sub"),
            file("./.wh..wh.plnk/93.1", "content").mode(0o711).owner(5, 6),
            hardlink("a", ".wh..wh.plnk/93.1"),
            hardlink("d/b", "./.wh..wh.plnk/93.1"),
            file(".wh..wh.aufs", ""),
            dir(".wh..wh.orph"),
            file(".wh..wh.orph/x", ""),
        ]);
        unpack_with(&archive, &target, &options(form)).unwrap();
        let (a, b) = (stat(target.join("a")), stat(target.join("d/b")));
        assert_eq!((a.ino(), a.nlink(), a.mode() & 0o7777, a.uid(), a.gid()), (b.ino(), 2, 0o711, 5, 6));
        assert_eq!(std::fs::read(target.join("a")).unwrap(), b"content");
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 2);
        assert_eq!(stat(&target).mtime(), 1_000_000_000);
    }
}

#[test]
fn odd_but_valid_images() {
    let scratch = Scratch::new("odd");
    let archive = tar(&[
        symlink("lib", "usr/lib"),
        file("lib/through", "1"),
        dir("usr/lib"),
        file("usr/lib/direct", "2"),
        hardlink("abs", "/lib/direct"),
        symlink("absolute", "/usr"),
        file("absolute/lib/deep", "3"),
        file("/lead//ing/./x", "4"),
        file("../up", "5"),
        file("turn", "file"),
        dir("turn"),
        file("turn/in", ""),
        file("turn", "back"),
    ]);
    unpack(&archive, &scratch.0).unwrap();
    let read = |name: &str| std::fs::read_to_string(scratch.0.join(name)).unwrap();
    let all = ["usr/lib/through", "usr/lib/direct", "usr/lib/deep", "lead/ing/x", "up", "turn"].map(read);
    assert_eq!(all, ["1", "2", "3", "4", "5", "back"]);
    assert_eq!(stat(scratch.0.join("abs")).nlink(), 2);
    let link = tar(&[hardlink("h", "lower/file")]);
    let e = unpack(&link, &scratch.0).unwrap_err();
    assert_eq!(e.to_string(), "unpack 'h': a hard link to 'lower/file', which this layer does not hold");
    // In a tree that holds the lower layers as well.
    std::fs::create_dir(scratch.0.join("lower")).unwrap();
    std::fs::write(scratch.0.join("lower/file"), "").unwrap();
    let e = unpack_with(&link, &scratch.0, &options(Whiteouts::Delete)).unwrap_err();
    assert_eq!(e.to_string(), "unpack 'h': a hard link to 'lower/file', which this layer does not hold");
    unpack_with(&tar(&[file("lower/file", ""), hardlink("h", "lower/file")]), &scratch.0, &options(Whiteouts::Delete))
        .unwrap();
}

#[test]
fn ends_of_archives() {
    let scratch = Scratch::new("ends");
    let body = file("a", "x").blocks();
    for good in [
        vec![],
        vec![0; 1024],
        body.clone(),
        [body.clone(), vec![0; 512]].concat(),
        [tar(&[]), b"garbage".to_vec()].concat(),
    ] {
        unpack(&good, &scratch.0).unwrap();
    }
    for bad in [body[..600].to_vec(), body[..100].to_vec(), b"no tar at all".to_vec(), [vec![0; 512], body.clone()].concat()]
    {
        assert!(unpack(&bad, &scratch.0).is_err());
    }
}

/// Whoever yields the archive may be digesting it: on success the source is read until it has no more, whatever follows.
#[test]
fn the_source_is_read_to_its_end() {
    struct Source<'a> {
        left: &'a [u8],
        asked_again: usize,
        interrupted: bool,
    }
    impl std::io::Read for Source<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            // Every other call is interrupted by a signal.
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(std::io::Error::from_raw_os_error(4));
            }
            let count = into.len().min(self.left.len()).min(100_000);
            into[..count].copy_from_slice(&self.left[..count]);
            self.left = &self.left[count..];
            self.asked_again += usize::from(count == 0);
            Ok(count)
        }
    }
    let scratch = Scratch::new("to-the-end");
    let target = std::fs::File::open(&scratch.0).unwrap();
    let plain = tar(&[file("a", "x")]);
    let behind = vec![b'j'; 1_500_000];
    for program in ["cat", "gzip -c", "gzip -9c", "zstd -qc", "bzip2 -c"] {
        let mut archive = compressed(program, &plain);
        archive.extend(&behind);
        let mut source = Source { left: &archive, asked_again: 0, interrupted: false };
        archive_support::unpack_from(&mut source, target.as_fd(), &options(Whiteouts::Overlay)).unwrap();
        assert!(source.left.is_empty() && source.asked_again == 1, "{program}: {} bytes left", source.left.len());
    }
}

/// What a program makes of bytes.
fn compressed(program: &str, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut words = program.split(' ');
    let mut child = std::process::Command::new(words.next().unwrap())
        .args(words)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program}");
        output.stdout
    })
}

#[test]
fn windows_are_as_large_as_the_limit_says() {
    let scratch = Scratch::new("window");
    let big = tar(&[Item { data: vec![7; 270 << 20], ..file("big", "") }]);
    for (program, window) in [("zstd -q -1 --long=28 -c", 256 << 20), ("xz -0 -c --lzma2=preset=0,dict=192MiB", 192 << 20)] {
        let archive = compressed(program, &big);
        let mut how = options(Whiteouts::Overlay);
        for (limit, fits) in [(how.limits.window, false), (window - 1, false), (window, true), (2 << 30, true)] {
            // What an xz decoder needs beside the window is allowed for, so that there the limit is not exact.
            if !fits && limit + (9 << 20) > window {
                continue;
            }
            how.limits.set_window(limit).unwrap();
            match unpack_with(&archive, &scratch.0, &how) {
                Ok(_) => assert!(fits, "{program}, {limit}"),
                Err(e) => assert!(!fits && e.errno() == 7 && e.to_string().contains("archive.max_window"), "{program}: {e}"),
            }
        }
    }
    let mut limits = options(Whiteouts::Overlay).limits;
    for bad in [0, 1 << 10, (2 << 30) + 1, u64::MAX] {
        assert!(limits.set_window(bad).is_err());
    }
}
