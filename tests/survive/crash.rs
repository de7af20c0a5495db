//! A process is killed before each call of an operation that changes something, in turn. Then a new process must find each layer as
//! it was before the operation or as it is after it.

use super::Extent;
use super::ground::{Ground, View};
use super::operations::Operation;
use super::report::Report;
use super::supervisor::{Child, Event};

pub fn each_step(ground: &Ground, operations: &[&Operation], extent: Extent, report: &mut Report) {
    let wanted = operations.iter().filter(|operation| super::is_wanted(operation.name));
    for (number, operation) in wanted.enumerate() {
        let begun = std::time::Instant::now();
        let (before, after) = ends(ground, operation, report);
        for at in extent.points(number, ground.step) {
            ground.prepare(operation);
            let killed = kill(&mut ground.act(operation), at);
            let mut found = Vec::new();
            let view = ground.view_and_clear(&mut found);
            let Some(call) = killed else {
                eprintln!("{}: up to {at} changes, {:.0?}", operation.name, begun.elapsed());
                break;
            };
            found.extend(between(operation, &view, &before, &after));
            report.point(&format!("{}, killed at change {at}, {call}", operation.name), found);
        }
    }
}

/// What the layers are if the operation is not begun, and if nothing disturbs it.
pub fn ends(ground: &Ground, operation: &Operation, report: &mut Report) -> (View, View) {
    let mut found = Vec::new();
    ground.prepare(operation);
    let before = ground.view_and_clear(&mut found);
    ground.prepare(operation);
    let mut child = ground.act(operation);
    let outcome = child.told().expect("the operation came to no end");
    assert_eq!(outcome["errno"], 0, "{} fails undisturbed: {outcome}", operation.name);
    child.end();
    drop(child);
    let after = ground.view_and_clear(&mut found);
    report.found(&format!("{}, undisturbed", operation.name), found);
    (before, after)
}

/// What is neither as before nor as after.
pub fn between(operation: &Operation, view: &View, before: &View, after: &View) -> Vec<String> {
    let may_be = |id: &str, state: &str| {
        before.get(id).is_some_and(|known| known == state)
            || after.get(id).is_some_and(|known| known == state)
            || operation.also.contains(&(id, state))
            || is_half_removed(state, &before[id], &after[id])
    };
    let odd = view.iter().filter(|(id, state)| !may_be(id, state));
    odd.map(|(id, state)| format!("'{id}' is: {state}; was: {}; was to be: {}", before[id], after[id])).collect()
}

/// A removal takes off what is mounted before anything else.
fn is_half_removed(state: &str, before: &str, after: &str) -> bool {
    after == "absent" && before.strip_prefix("mounted: ") == Some(state)
}

/// Kills the process at the `at`-th call that changes something; that call, unless it ends before.
fn kill(child: &mut Child, at: usize) -> Option<String> {
    let mut seen = 0;
    loop {
        match child.next(90_000) {
            Event::Call(call) if call.changes() && call_is_its_own(child, call.thread) => {
                if seen == at {
                    let shown = call.to_string();
                    child.kill();
                    child.end();
                    return Some(shown);
                }
                seen += 1;
                child.go_on(&call);
            }
            Event::Call(call) | Event::Mark(call) => child.go_on(&call),
            Event::Told(outcome) => {
                assert_eq!(outcome["errno"], 0, "{outcome}");
                child.end();
                return None;
            }
            Event::Gone { .. } => panic!("it ended without a word"),
            Event::Idle => panic!("it hangs"),
        }
    }
}

/// Programs that it starts go on when it dies.
pub fn call_is_its_own(child: &Child, thread: libc::pid_t) -> bool {
    std::path::Path::new(&format!("/proc/{}/task/{thread}", child.pid())).exists()
}
