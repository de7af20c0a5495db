//! The program on real stores of overlay2: every command, what it prints and its exit status; while this process has the store as a
//! daemon would, and while nobody has.

#[path = "../../tests/common/mod.rs"]
mod common;
mod program;

use common::overlay::{QUICK, fill, one};
use common::subject::{Rust, Subject};
use common::{Store, Tar, eventually};
use program::{Run, program, ran};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn run(store: &Store, arguments: &[&str]) -> Run {
    ran(&mut program(&store.root(), QUICK, arguments))
}

/// Image layers `base`, `mid` and `top` upon each other, and a container `c` upon `mid` with a file of a mebibyte.
fn filled() -> (Rust, Store) {
    let (daemon, store) = (Rust::default(), Store::new());
    daemon.init("overlay", &store.root(), QUICK).unwrap();
    fill(&daemon, "base", None, one("of-base"));
    fill(&daemon, "mid", Some("base"), one("of-mid"));
    fill(&daemon, "top", Some("mid"), one("of-top"));
    daemon.create_rw("c", Some("mid")).unwrap();
    fs::write(store.root().join("overlay/c/diff/large"), vec![1; 1 << 20]).unwrap();
    (daemon, store)
}

/// The same, and nobody has it.
fn left() -> Store {
    let (daemon, store) = filled();
    daemon.cleanup().unwrap();
    store
}

fn part(store: &Store, path: &str) -> PathBuf {
    store.root().join("overlay").join(path)
}

fn ids(document: &Value) -> Vec<&str> {
    document["layers"].as_array().unwrap().iter().map(|layer| layer["id"].as_str().unwrap()).collect()
}

#[test]
fn a_sound_store_is_listed_shown_measured_and_checked() {
    let store = left();
    let tree = "\
LAYER      ACCESS      STATE
base       read-only   whole
`- mid     read-only   whole
   |- c    read-write  whole
   `- top  read-only   whole
";
    assert_eq!(run(&store, &["list"]).text(0), tree);

    let listed = run(&store, &["list", "--json", "--by-size"]).document(0);
    assert_eq!((listed["driver"].as_str(), &listed["held_by"]), (Some("overlay"), &Value::Null));
    assert_eq!(ids(&listed)[0], "c");
    let c = &listed["layers"][0];
    assert_eq!(
        (c["parent"].as_str(), c["access"].as_str(), c["state"].as_str()),
        (Some("mid"), Some("read-write"), Some("whole"))
    );
    assert!(c["bytes"].as_u64().unwrap() >= 1 << 20 && c["mounted"] == false, "{c}");

    let shown = run(&store, &["show", "c", "--json", "--size"]).document(0);
    assert_eq!(
        (shown["ancestors"].clone(), shown["children"].clone()),
        (serde_json::json!(["mid", "base"]), serde_json::json!([]))
    );
    assert_eq!(shown["parts"]["UpperDir"].as_str().unwrap(), part(&store, "c/diff").to_str().unwrap());
    assert_eq!((shown["bytes"].clone(), shown["findings"].clone()), (c["bytes"].clone(), serde_json::json!([])));
    assert!(run(&store, &["show", "mid"]).text(0).contains("children    c, top\n"));

    let usage = run(&store, &["usage", "--json"]).document(0);
    assert_eq!(ids(&usage)[0], "c");
    let sum: u64 = usage["layers"].as_array().unwrap().iter().map(|layer| layer["bytes"].as_u64().unwrap()).sum();
    assert_eq!(usage["total"]["bytes"].as_u64(), Some(sum));
    assert!(usage["beside"]["inodes"].as_u64().unwrap() >= 5, "l and a name for each layer: {usage}");
    assert!(run(&store, &["usage", "c"]).text(0).ends_with("  c\n"));

    assert_eq!(run(&store, &["check"]).text(0), "4 layers, 0 findings, 0 mended: sound\n");
    let checked = run(&store, &["check", "--json", "--with-driver"]).document(0);
    assert_eq!((checked["layers"].as_u64(), checked["findings"].clone()), (Some(4), serde_json::json!([])));

    let status = run(&store, &["status", "--json"]).document(0);
    assert_eq!(
        (status["backing_filesystem"].as_str(), status["status"]["Supports d_type"].as_str()),
        (Some("extfs"), Some("true"))
    );
    assert!(run(&store, &["status"]).text(0).contains("Backing Filesystem: extfs\n"));
}

/// A process that ends with this.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn while_a_daemon_has_the_store_it_is_read_and_nothing_else() {
    let (daemon, store) = filled();
    let merged = daemon.mount("c", &[]).unwrap();
    let sleeper = Child(Command::new("sleep").arg("600").current_dir(&merged).spawn().unwrap());
    let own = std::process::id();

    let text = run(&store, &["list"]);
    assert!(text.text(0).contains("read-write  whole, mounted\n"), "{}", text.out);
    assert!(text.out.ends_with(&format!("\nprocess {own} has the store\n")), "{}", text.out);
    let listed = run(&store, &["list", "--json"]).document(0);
    assert_eq!(listed["held_by"].as_u64(), Some(own.into()));
    let mounted: Vec<bool> = listed["layers"].as_array().unwrap().iter().map(|layer| layer["mounted"] == true).collect();
    assert_eq!((ids(&listed), mounted), (vec!["base", "c", "mid", "top"], vec![false, true, false, false]));

    let shown = run(&store, &["show", "c", "--json"]).document(0);
    assert!(shown["mounts"].as_array().unwrap().iter().any(|mount| mount["path"] == merged.to_str().unwrap()), "{shown}");
    let user =
        |user: &Value| user["pid"] == sleeper.0.id() && user["name"] == "sleep" && user["by"][0] == "working directory";
    assert!(shown["users"].as_array().unwrap().iter().any(user), "{shown}");
    let line = format!("used        process {} (sleep) by its working directory\n", sleeper.0.id());
    assert!(run(&store, &["show", "c"]).text(0).contains(&line));

    run(&store, &["check"]).text(0);
    run(&store, &["usage"]).text(0);
    for refused in
        [&["rm", "top"][..], &["mount", "top"], &["umount", "c"], &["status"], &["check", "--repair"], &["diff", "c"]]
    {
        let refusal = run(&store, refused);
        assert!(refusal.error().contains(&format!("is in use by process {own} (")), "{refused:?}: {refusal:?}");
    }
    assert!(daemon.exists("top"));
    drop(sleeper);
    daemon.umount("c").unwrap();
}

#[test]
fn damage_is_found_told_and_mended_where_it_can_be() {
    let store = left();
    store.leaves_damage();
    fs::remove_file(part(&store, "mid/link")).unwrap();
    let text = run(&store, &["check"]);
    assert!(
        text.text(1).starts_with("to do   layer 'mid': ")
            && text.out.contains("4 layers, 1 finding, 0 mended: 1 to be seen to\n"),
        "{}",
        text.out
    );
    let checked = run(&store, &["check", "--json"]).document(1);
    let finding = &checked["findings"][0];
    assert_eq!(
        (finding["layer"].as_str(), finding["severity"].as_str(), &finding["mended"]),
        (Some("mid"), Some("needs_hand"), &Value::Bool(false))
    );
    assert!(!finding["remedy"].as_str().unwrap().is_empty());

    let repaired = run(&store, &["check", "--repair", "--json"]);
    assert!(repaired.err.contains("graphdriver: layer 'mid' is given back its link"), "the library's log: {repaired:?}");
    let repaired: Value = serde_json::from_str(&repaired.out).unwrap();
    assert!(repaired["mended"].as_u64() >= Some(1) && repaired["open"] == 0, "{repaired}");
    assert_eq!(run(&store, &["check"]).text(0), "4 layers, 0 findings, 0 mended: sound\n");

    fs::remove_dir_all(part(&store, "c/diff")).unwrap();
    assert!(run(&store, &["check", "--repair"]).text(1).starts_with("LOSS    layer 'c': "));
    assert!(run(&store, &["list"]).text(1).contains("read-write  unusable: "));
    assert_eq!(run(&store, &["show", "c", "--json"]).document(1)["findings"][0]["severity"], "loss");
    assert_eq!(run(&store, &["show", "base", "--json"]).document(0)["findings"], serde_json::json!([]));
    assert!(run(&store, &["usage"]).text(1).contains("  c: usage of layer 'c': "));
}

#[test]
fn layers_are_mounted_and_unmounted() {
    let store = left();
    let path = run(&store, &["mount", "top"]);
    let path = Path::new(path.text(0).trim_end());
    assert_eq!(common::names(path), ["of-base", "of-mid", "of-top"]);
    assert!(fs::write(path.join("new"), "").is_err(), "an image's layer is mounted read-only");
    let refusal = run(&store, &["rm", "top"]);
    assert!(refusal.error().contains(&format!("it is mounted on {}, and used by nobody", path.display())), "{refusal:?}");
    assert_eq!(run(&store, &["umount", "top"]).text(0), "");
    assert_eq!(common::names(path), [""; 0]);
    assert_eq!(common::mounts_below(&store.root()), [""; 0], "nothing else stays");
    let mounted = run(&store, &["mount", "c", "--mount-option", "ro", "--json"]).document(0);
    assert_eq!(mounted["path"], part(&store, "c/merged").to_str().unwrap());
    run(&store, &["umount", "c"]).text(0);
}

fn run_with(store: &Store, arguments: &[&str], stdin: &[u8]) -> Run {
    let path = store.root().join("stdin");
    fs::write(&path, stdin).unwrap();
    ran(program(&store.root(), QUICK, arguments).stdin(fs::File::open(&path).unwrap()))
}

#[test]
fn layers_go_in_and_out() {
    let store = left();
    let archive = Tar::new().file("etc", "text").file("bell\x07", "").done();
    let unpacked = run_with(&store, &["unpack", "new", "--new", "--parent", "top", "--json"], &archive).document(0);
    assert_eq!((unpacked["bytes"].as_u64(), unpacked["entries"].as_u64()), (Some(4), Some(2)));
    assert_eq!(unpacked["digest"], unpacked["diff_id"]);
    assert_eq!(run(&store, &["diff", "new"]).text(0), "M /\nA /bell\\u{7}\nA /etc\n");
    let changes = run(&store, &["diff", "new", "--json"]).document(0);
    assert_eq!(changes["changes"][2], serde_json::json!({"change": "added", "path": "/etc"}));

    let wrong = format!("sha256:{:064}", 0);
    let refusal = run_with(&store, &["unpack", "other", "--new", "--digest", &wrong], &archive);
    assert!(refusal.error().contains("and sha256:000"), "{refusal:?}");
    assert!(!ids(&run(&store, &["list", "--json"]).document(0)).contains(&"other"), "what is not whole is not left");
    assert!(run_with(&store, &["unpack", "other", "--digest", "md5:1"], b"").error().contains("'md5:1' is no digest"));

    let file = store.root().join("layer.tar.gz");
    let written =
        run(&store, &["diff", "new", "--output", file.to_str().unwrap(), "--compress", "gzip", "--json"]).document(0);
    assert_eq!(written["bytes"].as_u64().unwrap(), fs::metadata(&file).unwrap().len());
    assert!(run(&store, &["diff", "c", "--output", file.to_str().unwrap()]).error().contains("File exists"));
    let diff_id = written["diff_id"].as_str().unwrap();
    let again = run(&store, &["unpack", "copy", file.to_str().unwrap(), "--new", "--parent", "top", "--diff-id", diff_id]);
    assert!(again.text(0).contains(&format!("diff id  {diff_id}\n")), "{again:?}");
    let streamed = program(&store.root(), QUICK, &["diff", "copy", "--output", "-"]).output().unwrap();
    assert!(streamed.status.success() && streamed.stdout.len() > 1024 && streamed.stderr.is_empty());
}

#[test]
fn what_others_need_is_not_removed() {
    let store = left();
    let refusal = run(&store, &["rm", "mid"]);
    assert!(refusal.error().contains("stacked upon it are 'c', 'top' (remove these first"), "{refusal:?}");
    assert_eq!(run(&store, &["rm", "top"]).text(0), "");
    assert_eq!(run(&store, &["rm", "c", "--json"]).document(0), serde_json::json!({"id": "c"}));
    assert_eq!(run(&store, &["rm", "base", "--force"]).text(0), "");
    eventually("mid is left alone", || ids(&run(&store, &["list", "--json"]).document(1)) == ["mid"]);
    store.leaves_damage();
}

#[test]
fn errors_are_the_librarys() {
    let store = left();
    for (arguments, text) in [
        (&["show", "a/b"][..], "layer id 'a/b' has a character other than"),
        (&["rm", "nobody"], "layer 'nobody' does not exist"),
        (&["umount", "nobody"], "layer 'nobody' does not exist"),
        (&["show", "nobody"], "layer 'nobody' does not exist"),
        (&["usage", "nobody"], "usage of layer 'nobody': layer 'nobody' does not exist"),
        (&["mount", "nobody"], "mount layer 'nobody'"),
        (&["list", "--driver", "aufs"], "there is no driver 'aufs' (there are overlay2, overlay, devicemapper)"),
        (&["status", "-o", "overlay2.nonsense=1"], "overlay2.nonsense"),
    ] {
        let failed = run(&store, arguments);
        assert!(failed.error().contains(text), "{arguments:?}: {failed:?}");
    }
    // Homes that are not there are not made.
    for arguments in [&["--driver", "overlay2", "list"][..], &["--driver", "devicemapper", "status"]] {
        let failed = run(&store, arguments);
        assert!(failed.error().contains("No such file or directory"), "{failed:?}");
        assert_eq!(common::names(&store.root()), ["lost+found", "overlay"]);
    }
    let nowhere = ran(&mut program(&part(&store, "base"), &[], &["list"]));
    assert!(nowhere.error().contains("it has none of overlay2, overlay, devicemapper (name the daemon's"), "{nowhere:?}");
    fs::create_dir(store.root().join("devicemapper")).unwrap();
    let several = run(&store, &["list"]);
    assert!(
        several.error().contains(": overlay, devicemapper (name one with --driver)")
            || several.error().contains(": devicemapper, overlay (name one with --driver)"),
        "{several:?}"
    );
    for wrong in [&["frobnicate"][..], &["show"], &["list", "--nonsense"], &["unpack", "x", "--parent", "base"]] {
        assert_eq!(run(&store, wrong).status, 2, "{wrong:?}");
    }
    assert!(ran(&mut program(Path::new("/"), &[], &["--version"])).text(0).contains(env!("CARGO_PKG_VERSION")));
    assert!(run(&store, &["check", "--help"]).text(0).contains("Mend what can be mended"));
}

#[test]
fn only_a_terminal_gets_colours() {
    let store = left();
    let typed = |setting: &str| {
        let words = format!("{setting} '{}' --root '{}' check", env!("CARGO_BIN_EXE_graphdriver"), store.root().display());
        let mut command = Command::new("script");
        command.args(["-qec", &words, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null());
        ran(&mut command).out
    };
    assert!(typed("env -u NO_COLOR").contains("\x1b[32msound\x1b[0m"));
    for plain in ["NO_COLOR=1", "TERM=dumb"] {
        assert!(typed(plain).contains("mended: sound\r\n"), "{plain}");
    }
}
