//! The program on a devicemapper store: what it reads past the driver, and what it does with it. Run by `vm/test`.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/devmapper/ground.rs"]
mod ground;
mod program;

use common::Tar;
use graphdriver::driver::Driver;
use ground::{Ground, Short};
use program::{Run, program, ran};
use serde_json::json;
use std::fs;
use std::path::Path;

fn run(ground: &Ground, arguments: &[&str]) -> Run {
    let options: Vec<&str> = ground.options.iter().map(String::as_str).collect();
    let mut run = ran(&mut program(&ground.dir, &options, arguments));
    // The driver's own word on such a pool comes each time it is initialised.
    run.err = run.err.lines().filter(|line| !line.contains("the pool is on loop devices")).collect();
    run
}

#[test]
fn a_pool_is_read_beside_its_daemon_and_used_without_one() {
    let ground = Ground::new();
    let daemon = ground.open();
    daemon.create_read_only("i").unwrap();
    daemon.fill("i", &Tar::new().file("f", "x").done()).unwrap();
    daemon.rw("c", Some("i")).unwrap();
    let merged = daemon.up("c").unwrap();
    assert_eq!(run(&ground, &["list"]).text(0).lines().nth(2), Some("`- c   read-write  whole, mounted"));
    let shown = run(&ground, &["show", "c", "--json"]).document(0);
    assert_eq!(shown["parts"]["MergedDir"], merged.to_str().unwrap());
    assert_eq!((&shown["mounts"][0]["namespace_of"], &shown["ancestors"]), (&json!(null), &json!(["i"])));
    assert!(run(&ground, &["check"]).text(0).contains("2 layers, 0 findings"));
    for refused in ["usage", "status"] {
        let refusal = run(&ground, &[refused]);
        let holder = format!("is in use by process {} (", std::process::id());
        assert!(refusal.error().contains(&holder), "the pool is the daemon's: {refusal:?}");
    }
    daemon.down("c").unwrap();
    daemon.cleanup().unwrap();
    drop(daemon);

    let usage = run(&ground, &["usage", "--json"]).document(0);
    assert_eq!((usage["layers"][0]["id"].as_str(), usage["layers"][1]["bytes"].as_u64()), (Some("i"), Some(0)));
    assert!(run(&ground, &["check", "--with-driver"]).text(0).contains("2 layers, 0 findings"));
    let status = run(&ground, &["status", "--json"]).document(0);
    assert_eq!(status["driver"], "devicemapper");
    let path = run(&ground, &["mount", "c"]);
    fs::write(Path::new(path.text(0).trim_end()).join("written"), "").unwrap();
    assert!(run(&ground, &["rm", "c"]).error().contains("it is mounted on "));
    assert_eq!(run(&ground, &["umount", "c"]).text(0), "");
    assert_eq!(run(&ground, &["diff", "c"]).text(0).lines().last(), Some("A /written"));
    assert_eq!(run(&ground, &["rm", "c"]).text(0), "");
    assert!(!run(&ground, &["list"]).text(0).contains("read-write"));
    ground.check();
}
