//! What others make of our archives: GNU tar, bsdtar and Python unpack them alike; umoci and skopeo take an image made of them.

mod common;
mod tree_support;

use common::{Store, run};
use graphdriver::driver::{Access, Against, Compression, CreateOptions, Exported, Form, MountOptions};
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use tree_support::{Random, Tree, assert_same, look, work};

fn id(text: &str) -> LayerId {
    LayerId::parse(text.as_bytes()).unwrap()
}

/// Makes a container, lets something be done in it, and exports that.
fn container(
    graph: &Graph,
    name: &str,
    parent: Option<&str>,
    compression: Compression,
    act: impl FnOnce(&Path),
) -> (Vec<u8>, Exported) {
    let mut bytes = Vec::new();
    let exported = graph.with(|driver| {
        let parent = parent.map(id);
        driver.create(&id(name), parent.as_ref(), Access::ReadWrite, &mut CreateOptions::default())?;
        act(&driver.mount(&id(name), &MountOptions::default())?);
        driver.umount(&id(name))?;
        driver.diff(&id(name), &Against::default(), Form { compression, digests: true }, &mut bytes)
    });
    (bytes, exported.unwrap())
}

/// What a program unpacked that knows nothing of layers: without the marks of directories that hide what is below them.
fn unpacked(dir: &Path) -> Tree {
    let mut tree = look(dir);
    tree.retain(|path, _| path.file_name().is_none_or(|name| name != ".wh..wh..opq"));
    tree
}

fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "{command:?}: {error}");
    output
}

#[test]
fn root_gnu_tar_bsdtar_and_python_unpack_them_alike() {
    let store = Store::new();
    let graph = Graph::new();
    graph.init("overlay2", &store.root().join("store"), &["overlay2.sync=none"]).unwrap();
    for seed in 1..=3 {
        let mut want = Tree::new();
        let (archive, _) = container(&graph, &format!("c{seed}"), None, Compression::None, |root| {
            work(&mut Random::new(seed), root, 200);
            want = look(root);
        });
        let file = store.root().join(format!("{seed}.tar"));
        fs::write(&file, archive).unwrap();
        let target = |name: &str| {
            let dir = store.root().join(format!("{name}-{seed}"));
            fs::create_dir(&dir).unwrap();
            dir
        };
        // Two of our records mean nothing to GNU tar, which says so: attributes with '=' in their names.
        let gnu = target("gnu");
        let options = [
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
            "--same-owner",
            "--numeric-owner",
            "-p",
            "--warning=no-unknown-keyword",
            "--warning=no-timestamp",
            "-xf",
        ];
        output(Command::new("tar").args(options).arg(&file).arg("-C").arg(&gnu));
        let by_gnu = |mut tree: Tree| {
            tree.values_mut().for_each(|node| node.xattrs.retain(|key, _| !key.contains(&b'=')));
            tree
        };
        assert_same("GNU tar", &by_gnu(unpacked(&gnu)), &by_gnu(want.clone()));

        let bsd = target("bsd");
        let mut bsdtar = Command::new("bsdtar");
        // Names are UTF-8 in a pax header: bsdtar complains of those that the locale has no letters for.
        bsdtar.env("LC_ALL", "C.UTF-8").args(["--numeric-owner", "--xattrs", "--acls", "-xpf"]);
        output(bsdtar.arg(&file).arg("-C").arg(&bsd));
        // It leaves the directory that it is told to unpack into the time of the unpacking, and counts fractions of seconds
        // before 1970 in the wrong direction.
        let by_bsd = |mut tree: Tree| {
            let wrong = |path: &Path, mtime: (i64, i64)| path == Path::new("") || mtime.0 < 0;
            tree.iter_mut().filter(|(path, node)| wrong(path, node.mtime)).for_each(|(_, node)| node.mtime = (0, 0));
            tree
        };
        assert_same("bsdtar", &by_bsd(unpacked(&bsd)), &by_bsd(want.clone()));

        let python = target("python");
        // Without a filter of its own, which newer versions warn about the want of.
        let program = "import sys, tarfile\nwith tarfile.open(sys.argv[1]) as a:\n    \
            a.extraction_filter = lambda member, path: member\n    a.extractall(sys.argv[2], numeric_owner=True)";
        output(Command::new("python3").args(["-c", program]).arg(&file).arg(&python));
        // It knows no attributes, sets no times of symlinks, and keeps times as fractions that are not exact.
        let by_python = |mut tree: Tree| {
            for node in tree.values_mut() {
                node.xattrs.clear();
                let timeless = node.mode & libc::S_IFMT == libc::S_IFLNK || node.mtime.0 < 0;
                node.mtime = (if timeless { 0 } else { node.mtime.0 }, 0);
            }
            tree
        };
        assert_same("Python", &by_python(unpacked(&python)), &by_python(want));
    }
}

/// Puts a blob into an image layout; says what a manifest says of it.
fn blob(layout: &Path, kind: &str, digest: &str, bytes: &[u8]) -> serde_json::Value {
    fs::write(layout.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
    json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": bytes.len() })
}

fn sha256(bytes: &[u8]) -> String {
    let mut hasher = graphdriver::digest::Hasher::default();
    hasher.update(bytes);
    hasher.finish().to_string()
}

/// A container's layer and the one below become an image that others unpack, after they have checked each digest in it.
#[test]
fn root_an_image_of_exported_layers_runs() {
    let store = Store::new();
    let graph = Graph::new();
    graph.init("overlay2", &store.root().join("store"), &["overlay2.sync=none"]).unwrap();
    let source = store.root().join("program.c");
    fs::write(
        &source,
        "#include <stdio.h>\nint main(void) { char line[99]; FILE *f = fopen(\"/etc/greeting\", \"r\");\
                        return f && fgets(line, 99, f) ? printf(\"%s\", line), 0 : 1; }",
    )
    .unwrap();
    let program = store.root().join("program");
    run(Command::new("gcc").args(["-static", "-o"]).arg(&program).arg(&source));
    let (below, told_below) = container(&graph, "below", None, Compression::Gzip(0), |root| {
        for dir in ["bin", "etc", "tmp"] {
            fs::create_dir(root.join(dir)).unwrap();
        }
        fs::copy(&program, root.join("bin/greet")).unwrap();
        fs::write(root.join("etc/greeting"), "not this\n").unwrap();
        fs::write(root.join("etc/gone"), "").unwrap();
    });
    let layer = id("layer");
    graph
        .with(|driver| {
            driver.create(&layer, None, Access::ReadOnly, &mut CreateOptions::default())?;
            driver.apply_diff(&layer, &mut &below[..], None)
        })
        .unwrap();
    let (above, told_above) = container(&graph, "above", Some("layer"), Compression::Zstd(0), |root| {
        fs::write(root.join("etc/greeting"), "greetings from an exported layer\n").unwrap();
        fs::remove_file(root.join("etc/gone")).unwrap();
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    });
    // skopeo 1.9 and umoci 0.4 of Debian 12 know gzip only: the upper layer travels uncompressed for them.
    let mut plain = Vec::new();
    graph.with(|driver| driver.diff(&id("above"), &Against::default(), Form::default(), &mut plain)).unwrap();
    let [(below_digest, below_id), (above_digest, above_id)] = [told_below, told_above].map(|told| {
        let (digest, diff_id) = told.digests.unwrap();
        (digest.to_string(), diff_id.to_string())
    });
    assert!(above_id == sha256(&plain) && above_digest == sha256(&above));

    let layout = store.root().join("image");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let diff_ids = [below_id, above_id];
    let config = json!({ "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/greet"] },
                         "rootfs": { "type": "layers", "diff_ids": diff_ids } })
    .to_string();
    let layers =
        [blob(&layout, "layer.v1.tar+gzip", &below_digest, &below), blob(&layout, "layer.v1.tar", &diff_ids[1], &plain)];
    let config = blob(&layout, "config.v1+json", &sha256(config.as_bytes()), config.as_bytes());
    let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
                           "layers": layers })
    .to_string();
    let mut entry = blob(&layout, "manifest.v1+json", &sha256(manifest.as_bytes()), manifest.as_bytes());
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [entry] }).to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();

    let (image, copy) = (layout.display(), store.root().join("copy"));
    run(Command::new("skopeo")
        .args(["--insecure-policy", "copy", &format!("oci:{image}:latest")])
        .arg(format!("oci:{}:latest", copy.display())));
    for layout in [&layout, &copy] {
        let bundle = layout.with_extension("bundle");
        run(Command::new("umoci").args(["unpack", "--image", &format!("{}:latest", layout.display())]).arg(&bundle));
        let rootfs = bundle.join("rootfs");
        let said = output(Command::new("chroot").arg(&rootfs).arg("/bin/greet"));
        assert_eq!(String::from_utf8(said.stdout).unwrap(), "greetings from an exported layer\n");
        assert!(!rootfs.join("etc/gone").exists());
        let mode = fs::metadata(rootfs.join("tmp")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1777);
    }
}
