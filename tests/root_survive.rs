//! overlay2 killed, failing and interleaved at every step. See `tests/survive/mod.rs`; `docs/reliability.md` has the numbers.

mod common;
mod survive;

use common::Store;
use survive::ground::Ground;
use survive::operations::{OPERATIONS, OVERLAY, Operation, VOLATILE};
use survive::report::Report;
use survive::{Extent, crash, fault, pairs};

fn ground(store: &Store, step: usize) -> Ground {
    Ground { driver: "overlay2", root: store.root(), options: Vec::new(), step, leaks: |_| Vec::new() }
}

fn all() -> Vec<&'static Operation> {
    OPERATIONS.iter().chain(OVERLAY).collect()
}

#[test]
fn root_killed_at_every_step() {
    let store = Store::in_memory();
    let mut report = Report::new("crash, overlay2");
    crash::each_step(&ground(&store, 1), &all(), Extent::wanted(), &mut report);
    report.end(300);
}

#[test]
fn root_every_call_fails() {
    let store = Store::in_memory();
    let mut report = Report::new("fault, overlay2");
    fault::each_call(&ground(&store, 8), &all(), Extent::wanted(), &mut report);
    report.end(100);
}

#[test]
fn root_every_call_fails_and_nothing_is_discarded() {
    let store = Store::in_memory();
    let mut report = Report::new("fault, overlay2 that discards");
    let ground = Ground { options: vec!["overlay2.volatile=discard".to_owned()], ..ground(&store, 1) };
    let volatile: Vec<&Operation> = VOLATILE.iter().collect();
    fault::each_call(&ground, &volatile, Extent::wanted(), &mut report);
    report.end(20);
}

#[test]
fn root_operations_meet() {
    let store = Store::in_memory();
    let mut report = Report::new("pairs, overlay2");
    pairs::each(&ground(&store, 1), Extent::wanted(), &mut report);
    report.end(30);
}

#[test]
fn root_without_each_capability() {
    let store = Store::in_memory();
    let mut report = Report::new("capabilities, overlay2");
    fault::each_capability(&ground(&store, 1), &all(), &mut report);
    report.end(250);
}
