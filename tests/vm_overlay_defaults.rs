//! Kernels whose overlayfs has other defaults than most: built with `CONFIG_OVERLAY_FS_INDEX=y` and the like, or set up so. In a guest,
//! since the module's parameters are the whole machine's. Run by `vm/test`.

mod common;

use common::overlay::{QUICK, fill, has_xattr, mounts_of, one, shows};
use common::subject::{Rust, Subject};
use common::{Store, Tar, names, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const KINDS: [(&str, &[&str]); 2] = [("mkfs.ext4", &["-q", "-F"]), ("mkfs.xfs", &["-q", "-f"])];

/// A default of overlayfs that is changed until this is dropped.
struct Parameter(PathBuf, String);

impl Parameter {
    fn set(name: &str, value: &str) -> Parameter {
        let path = Path::new("/sys/module/overlay/parameters").join(name);
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, value).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), value);
        Parameter(path, before)
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, &self.1);
    }
}

/// Runs a case for each filesystem on a kernel with these defaults.
fn with_defaults(defaults: &[(&str, &str)], case: impl Fn(&Rust, &Path)) {
    let _set: Vec<Parameter> = defaults.iter().map(|(name, value)| Parameter::set(name, value)).collect();
    for (mkfs, args) in KINDS {
        let store = Store::with(mkfs, args, "loop");
        let subject = Rust::default();
        subject.init("overlay", &store.root(), QUICK).unwrap();
        case(&subject, &store.root().join("overlay"));
        subject.cleanup().unwrap();
    }
}

/// Whether the kernel takes a second mount of the layer with nothing but its own defaults: what a test here has to find refused,
/// or its defaults are not in force.
fn kernel_mounts(home: &Path, id: &str) -> bool {
    let layer = home.join(id);
    let at = home.parent().unwrap().join("at");
    fs::create_dir_all(&at).unwrap();
    let part = |name: &str| layer.join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", part("empty"), part("diff"), part("work"));
    let mounted = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&at).output().unwrap();
    if mounted.status.success() {
        run(Command::new("umount").arg(&at));
    }
    mounted.status.success()
}

/// A process in a mount namespace of its own, which keeps what is mounted now.
struct Holder(Child);

impl Holder {
    fn new() -> Holder {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Holder(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn vm_with_index_a_layer_is_mounted_while_an_old_mount_of_it_lives() {
    with_defaults(&[("index", "Y")], |subject, home| {
        subject.create_rw("c", None).unwrap();
        subject.mount("c", &[]).unwrap();
        let holder = Holder::new();
        subject.umount("c").unwrap();
        for round in 0..2 {
            let root = subject.mount("c", &[]).unwrap_or_else(|e| panic!("{e:?}"));
            fs::write(root.join(format!("f{round}")), "x").unwrap();
            assert_eq!(mounts_of(home, "c"), 1);
            subject.umount("c").unwrap();
        }
        // The same of one that the caller wanted with it.
        subject.create_rw("indexed", None).unwrap();
        subject.mount("indexed", &["index=on"]).unwrap();
        assert!(!kernel_mounts(home, "indexed"), "the kernel's defaults are not in force");
        let second = Holder::new();
        subject.umount("indexed").unwrap();
        assert!(subject.mount("indexed", &["index=on"]).is_err(), "who asks for it gets it");
        assert_eq!(shows(subject, "indexed"), [""; 0]);
        drop((holder, second));
        for id in ["c", "indexed"] {
            subject.remove(id).unwrap();
        }
    });
}

/// A layer of the C module tells nobody that it is an image's: it is mounted with an upper directory, and so are containers upon it.
#[test]
fn vm_with_index_a_container_is_mounted_upon_an_image_that_is() {
    with_defaults(&[("index", "Y")], |subject, home| {
        fill(subject, "image", None, one("from_image"));
        run(Command::new("setfattr").args(["-x", "trusted.graphdriver.access"]).arg(home.join("image")));
        let root = subject.mount("image", &[]).unwrap();
        fs::write(root.join("written"), "x").unwrap();
        for id in ["c1", "c2"] {
            subject.create_rw(id, Some("image")).unwrap();
            let root = subject.mount(id, &[]).unwrap_or_else(|e| panic!("{e:?}"));
            assert_eq!(names(&root), ["from_image", "written"]);
        }
        for id in ["c1", "c2", "image"] {
            subject.umount(id).unwrap();
        }
    });
}

/// Changes a file's mode and a directory's name in a container; returns what was written of that.
fn change(subject: &Rust, id: &str, options: &[&str]) -> bool {
    let root = subject.mount(id, options).unwrap();
    fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let renamed = fs::rename(root.join("dir"), root.join("new")).is_ok();
    subject.umount(id).unwrap();
    renamed
}

fn image() -> Tar {
    Tar::new().file("file", "content").dir("dir").file("dir/inside", "x")
}

/// What a container writes is whole in its own layer, and means the same on every kernel.
#[test]
fn vm_with_metacopy_and_redirects_a_container_holds_what_it_changed() {
    with_defaults(&[("redirect_dir", "Y"), ("metacopy", "Y"), ("index", "Y")], |subject, home| {
        fill(subject, "image", None, image());
        for id in ["c", "as-it-asks"] {
            subject.create_rw(id, Some("image")).unwrap();
        }
        let diff = |id: &str| home.join(id).join("diff");
        assert!(!change(subject, "c", &[]), "a directory of the image is copied by whoever moves it");
        assert!(!has_xattr(&diff("c").join("file"), "trusted.overlay.metacopy"));
        assert_eq!(fs::read(diff("c").join("file")).unwrap(), b"content");
        // Who asks for it gets it, which also shows that this kernel has it.
        assert!(change(subject, "as-it-asks", &["metacopy=on,redirect_dir=on"]));
        assert!(has_xattr(&diff("as-it-asks").join("file"), "trusted.overlay.metacopy"));
        assert!(has_xattr(&diff("as-it-asks").join("new"), "trusted.overlay.redirect"));
        // One of the two alone leaves the other to the kernel.
        subject.create_rw("one", Some("image")).unwrap();
        assert!(change(subject, "one", &["metacopy=on"]));
    });
}

/// A layer that the C module wrote under such a kernel is read as it was written, and an index or a redirect in it is honoured.
#[test]
fn vm_with_metacopy_and_redirects_layers_of_the_c_module_are_read() {
    with_defaults(&[("redirect_dir", "Y"), ("metacopy", "Y")], |subject, home| {
        fill(subject, "image", None, image());
        subject.create_rw("old", Some("image")).unwrap();
        run(Command::new("setfattr").args(["-x", "trusted.graphdriver.access"]).arg(home.join("old")));
        assert!(change(subject, "old", &[]), "the kernel's defaults of then");
        assert!(has_xattr(&home.join("old/diff/file"), "trusted.overlay.metacopy"));
        assert!(has_xattr(&home.join("old/diff/new"), "trusted.overlay.redirect"));
        let root = subject.mount("old", &[]).unwrap();
        assert_eq!(names(&root), ["file", "new"]);
        assert_eq!(fs::read(root.join("file")).unwrap(), b"content");
        assert_eq!(names(&root.join("new")), ["inside"]);
        subject.umount("old").unwrap();
        // A container upon it follows redirects; files that are elsewhere need the option, or the kernel refuses to read them.
        subject.create_rw("upon", Some("old")).unwrap();
        let root = subject.mount("upon", &[]).unwrap();
        assert_eq!(names(&root.join("new")), ["inside"]);
        assert!(fs::read(root.join("file")).is_err());
        subject.umount("upon").unwrap();
        let root = subject.mount("upon", &["metacopy=on"]).unwrap();
        assert_eq!(fs::read(root.join("file")).unwrap(), b"content");
        subject.umount("upon").unwrap();
    });
}
