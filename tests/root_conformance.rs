//! The scenarios that every driver must pass, over overlay2 on a loop-mounted ext4, through the Rust API and through the C ABI.

mod common;

use common::Store;
use common::scenarios::{SCENARIOS, World};
use common::subject::{C, Rust, Subject};

fn run_all(subject: &dyn Subject) {
    for (name, scenario) in SCENARIOS {
        let store = Store::new();
        subject.init("overlay2", &store.root().join("storage"), &[]).unwrap();
        println!("scenario {name}");
        scenario(&World { subject });
        assert_eq!(common::mounts_below(&store.root().join("storage/overlay2")), [""; 0], "{name} left mounts");
        subject.cleanup().unwrap();
    }
}

#[test]
fn root_every_scenario_through_rust() {
    run_all(&Rust::default());
}

#[test]
fn root_every_scenario_through_c() {
    run_all(&C::new());
}
