//! Sparse files, extension records, attributes and shifted ids. Needs root.

mod archive_support;

use archive_support::*;
use graphdriver::archive::{IdShift, Whiteouts};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

fn shell(dir: &Path, script: &str) -> String {
    let out = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// GNU tar writes each of its four forms; holes must come out as holes.
#[test]
fn sparse_files_stay_sparse_in_every_form() {
    let scratch = Scratch::new("sparse");
    let source = scratch.dir("source");
    // Many extents, so that the old form needs continuation blocks; one that is all hole; one that ends in a hole.
    shell(
        &source,
        "for i in $(seq 0 40); do printf \"data$i\" | dd of=many bs=1 seek=$((i * 100000)) conv=notrunc status=none; done",
    );
    shell(&source, "truncate -s 5M hole; printf x > end; truncate -s 3M end; printf plain > plain");
    let forms = [
        "--format=gnu",
        "--format=pax --sparse-version=0.0",
        "--format=pax --sparse-version=0.1",
        "--format=pax --sparse-version=1.0",
    ];
    for (index, form) in forms.iter().enumerate() {
        shell(&scratch.0, &format!("tar --sparse {form} -cf {index}.tar -C source ."));
        let target = scratch.dir(&format!("target{index}"));
        unpack(&std::fs::read(scratch.0.join(format!("{index}.tar"))).unwrap(), &target)
            .unwrap_or_else(|e| panic!("{form}: {e}"));
        shell(&scratch.0, &format!("diff -r source {}", target.display()));
        for name in ["many", "hole", "end"] {
            let st = std::fs::metadata(target.join(name)).unwrap();
            let source = std::fs::metadata(source.join(name)).unwrap();
            assert!(st.blocks() <= source.blocks() + 8, "{form} {name}: {} blocks, {}", st.blocks(), source.blocks());
        }
        let names = shell(&target, "ls -A").lines().count();
        assert_eq!(names, 4, "{form}");
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let scratch = Scratch::new("liars");
    let sparse = |map: &str, size: &str, data: &str| {
        tar(&[file("f", data).pax("GNU.sparse.map", map.as_bytes()).pax("GNU.sparse.size", size.as_bytes())])
    };
    unpack(&sparse("0,1,5,2", "9", "abc"), &scratch.0).unwrap();
    assert_eq!(std::fs::read(scratch.0.join("f")).unwrap(), b"a\0\0\0\0bc\0\0");
    for (map, size) in [
        ("5,2,0,1", "9"),
        ("0,1,0,2", "9"),
        ("0,3,1,0", "9"),
        ("0,1,5,5", "9"),
        ("0,1", "9"),
        ("0", "9"),
        ("0,x", "9"),
        ("18446744073709551615,3", "9"),
        ("0,3", "2"),
        ("0,3", "18446744073709551616"),
    ] {
        assert!(unpack(&sparse(map, size, "abc"), &scratch.0).is_err(), "{map} of {size}");
    }
    let huge = sparse("9223372036854775804,3", "9223372036854775807", "abc");
    assert_eq!(unpack(&huge, &scratch.0).unwrap_err().errno(), 27, "EFBIG");
}

#[test]
fn names_of_every_form() {
    let scratch = Scratch::new("names");
    let long = "n".repeat(255);
    let path = format!("{}/{long}", "d".repeat(200));
    shell(
        &scratch.0,
        &format!(
            "mkdir -p src/{0} && printf x > src/{path} && ln -s {long} src/link && printf '\\377' > \"src/$(printf '\\377\\001 \\n')\"",
            "d".repeat(200)
        ),
    );
    for form in ["gnu", "pax"] {
        shell(&scratch.0, &format!("tar --format={form} -cf {form}.tar -C src ."));
        let target = scratch.dir(form);
        unpack(&std::fs::read(scratch.0.join(format!("{form}.tar"))).unwrap(), &target).unwrap();
        shell(&scratch.0, &format!("diff -r --no-dereference src {form}"));
    }
    // ustar's prefix field, v7 without any magic, and a directory that only its slash tells.
    let mut prefixed = raw_header(b'0', b"name", &[], 0o644, 0, 0, 0, 0, (0, 0));
    prefixed[345..351].copy_from_slice(b"prefix");
    checksum(&mut prefixed);
    let mut old = raw_header(0, b"old/", &[], 0o755, 0, 0, 0, 0, (0, 0));
    old[257..].fill(0);
    checksum(&mut old);
    let target = scratch.dir("more");
    unpack(&[prefixed, old, vec![0; 1024]].concat(), &target).unwrap();
    assert_eq!(shell(&target, "find . -mindepth 1 | sort"), "./old\n./prefix\n./prefix/name\n");
    let e = unpack(&tar(&[file(&"n".repeat(256), "")]), &target).unwrap_err();
    assert_eq!(e.errno(), 36, "ENAMETOOLONG: {e}");
}

#[test]
fn global_records_are_defaults_for_what_follows() {
    let scratch = Scratch::new("global");
    let content =
        [record("mtime", b"1000000000.5"), record("path", b"nonsense"), record("comment", b"x"), record("uid", b"77")]
            .concat();
    // Attributes for all entries would be many times what the archive holds.
    let content = [content, record("SCHILY.xattr.user.all", b"x")].concat();
    let mut archive = file("before", "").blocks();
    archive.extend(raw_header(b'g', b"g", &[], 0, 0, 0, content.len() as u64, 0, (0, 0)));
    archive.extend(padded(&content));
    archive.extend(tar(&[file("after", ""), file("own", "").pax("mtime", b"5").pax("uid", b"")]));
    unpack(&archive, &scratch.0).unwrap();
    let st = |name: &str| std::fs::metadata(scratch.0.join(name)).unwrap();
    assert_eq!((st("before").mtime(), st("before").uid()), (1_500_000_000, 0));
    assert_eq!((st("after").mtime(), st("after").mtime_nsec(), st("after").uid()), (1_000_000_000, 500_000_000, 77));
    assert_eq!((st("own").mtime(), st("own").uid()), (5, 0));
    assert_eq!(shell(&scratch.0, "getfattr -d after"), "");
}

const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn attributes_that_are_set_and_those_that_are_not() {
    let scratch = Scratch::new("xattrs");
    let archive = tar(&[
        file("f", "x")
            .owner(1, 2)
            .pax("SCHILY.xattr.user.plain", b"a\0=b")
            .pax("LIBARCHIVE.xattr.user.enc%3d", b"Yg==")
            .pax("SCHILY.xattr.security.capability", CAPABILITY)
            .pax("SCHILY.acl.access", b"user::rwx,user:lisa:rw-:1000,group::r--,mask::rwx,other::---")
            .pax("SCHILY.xattr.trusted.overlay.opaque", b"y")
            .pax("SCHILY.xattr.user.overlay.redirect", b"/etc")
            .pax("SCHILY.xattr.security.selinux", b"system_u"),
        dir("d").mode(0o750).pax("SCHILY.acl.default", b"user::rwx,group:50:r-x,group::r-x,mask::r-x,other::---"),
        file("d/inside", "").mode(0o666),
        dir("d/sub").mode(0o777),
        item(b'6', "fifo").mode(0o640).pax("SCHILY.acl.access", b"user::rw-,user:7:r--,group::r--,mask::r--,other::---"),
        symlink("l", "f").pax("SCHILY.xattr.user.x", b"y"),
    ]);
    unpack(&archive, &scratch.0).unwrap();
    let attributes = shell(&scratch.0, "getfattr -h -d -m - -e hex f | tail -n +2 | sort");
    let names: Vec<&str> =
        attributes.lines().filter_map(|line| line.split('=').next()).filter(|name| !name.is_empty()).collect();
    assert_eq!(names, ["security.capability", "system.posix_acl_access", "user.enc\\075", "user.plain"]);
    assert!(attributes.contains("user.plain=0x61003d62\n") && attributes.contains("user.enc\\075=0x62\n"), "{attributes}");
    assert!(attributes.contains("security.capability=0x0100000200040000000000000000000000000000\n"), "{attributes}");
    let acl = shell(&scratch.0, "getfacl -cn f");
    assert!(acl.contains("user:1000:rw-") && acl.contains("mask::rwx") && acl.contains("other::---"), "{acl}");
    // What is unpacked into a directory with a default ACL has what the archive says and nothing else.
    let default = shell(&scratch.0, "getfacl -cn d");
    assert!(default.contains("default:group:50:r-x"), "{default}");
    assert_eq!(
        shell(&scratch.0, "getfacl -cn d/inside d/sub"),
        "user::rw-\ngroup::rw-\nother::rw-\n\nuser::rwx\ngroup::rwx\nother::rwx\n\n"
    );
    assert!(shell(&scratch.0, "getfacl -cn fifo").contains("user:7:r--"));
}

#[test]
fn ids_are_shifted_for_a_user_namespace() {
    let scratch = Scratch::new("shift");
    let mut shifting = options(Whiteouts::Overlay);
    shifting.shift = Some(IdShift { uid: 100_000, gid: 200_000, size: 65_536 });
    let archive = tar(&[
        file("implied/f", "").owner(5, 6).mode(0o4755).pax("SCHILY.xattr.security.capability", CAPABILITY),
        symlink("l", "x").owner(65_535, 0),
        file(".wh.w", "").owner(1, 1),
        file("a", "").pax("SCHILY.acl.access", b"user::rw-,user:1:rw-,group:2:r--,group::r--,mask::rw-,other::---"),
    ]);
    unpack_with(&archive, &scratch.0, &shifting).unwrap();
    let owner = |name: &str| {
        let st = std::fs::symlink_metadata(scratch.0.join(name)).unwrap();
        (st.uid(), st.gid())
    };
    assert_eq!(owner("implied"), (100_000, 200_000));
    assert_eq!(owner("implied/f"), (100_005, 200_006));
    assert_eq!(owner("l"), (165_535, 200_000));
    assert_eq!(owner("w"), (100_001, 200_001));
    assert_eq!(std::fs::metadata(scratch.0.join("implied/f")).unwrap().mode(), 0o104_755);
    let acl = shell(&scratch.0, "getfacl -cn a");
    assert!(acl.contains("user:100001:rw-") && acl.contains("group:200002:r--"), "{acl}");
    // Revision 3, with the namespace's root: 100000 = 0x186a0.
    let capability = shell(&scratch.0, "getfattr -d -m security -e hex implied/f");
    assert!(capability.contains("0x0100000300040000000000000000000000000000a0860100"), "{capability}");
    for item in [file("f", "").owner(65_536, 0), file("g", "").owner(0, 70_000)] {
        let e = unpack_with(&tar(&[item]), &scratch.0, &shifting).unwrap_err();
        assert!(e.to_string().contains("outside the user namespace's range of 65536"), "{e}");
    }
}

/// A target that hands its group and ACL down must not change what the archive says.
#[test]
fn the_target_directory_hands_nothing_down() {
    let scratch = Scratch::new("inherit");
    shell(&scratch.0, "mkdir t && chgrp 50 t && chmod 2777 t && setfacl -d -m u:9:rwx t");
    let target = scratch.0.join("t");
    unpack(
        &tar(&[
            file("f", "").mode(0o600),
            dir("d").mode(0o700),
            file("i/x", ""),
            symlink("l", "f"),
            item(b'6', "p").mode(0o600),
        ]),
        &target,
    )
    .unwrap();
    let listing = shell(&target, "stat -c '%n %a %u:%g' f d i i/x l p; getfacl -cn f d i p | grep -c user:9 || true");
    assert_eq!(listing, "f 600 0:0\nd 700 0:0\ni 755 0:0\ni/x 644 0:0\nl 777 0:0\np 600 0:0\n0\n");
}
