//! The scenarios that every driver must pass, over overlay2 on a loop-mounted ext4, through the Rust API and through the C ABI.

mod common;

use common::Store;
use common::scenarios::{World, run_each};
use common::subject::{C, Rust, Subject};

fn run_all(subject: &dyn Subject) {
    run_each(|name, scenario| {
        let store = Store::new();
        let root = store.root().join("storage");
        subject.init("overlay2", &root, &[]).unwrap();
        scenario(&World { subject, driver: "overlay2", root: &root, options: &[] });
        assert_eq!(common::mounts_below(&root.join("overlay2")), [""; 0], "{name} left mounts");
        subject.cleanup().unwrap();
    });
}

#[test]
fn root_every_scenario_through_rust() {
    run_all(&Rust::default());
}

#[test]
fn root_every_scenario_through_c() {
    run_all(&C::new());
}

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}
