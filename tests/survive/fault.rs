//! Each call of an operation fails once. Then the operation succeeds, rightly, or returns an error that names the cause and has
//! changed nothing; trying again works.

use super::Extent;
use super::calls::Call;
use super::capabilities;
use super::common::subject::Rust;
use super::crash::{between, ends};
use super::disk::{Disk, disk};
use super::ground::{Ground, View};
use super::operations::Operation;
use super::report::Report;
use super::supervisor::{Child, Event, mark};
use graphdriver::log::{self, Level};
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// Their failure is never without consequence.
const FLUSHES: &[&str] = &["fsync", "fdatasync", "syncfs"];

/// What an operation comes to.
struct Ends {
    before: View,
    after: View,
    disk: Disk,
}

pub fn each_call(ground: &Ground, operations: &[&Operation], extent: Extent, report: &mut Report) {
    let wanted = operations.iter().filter(|operation| super::is_wanted(operation.name));
    for (number, operation) in wanted.enumerate() {
        let begun = std::time::Instant::now();
        let ends = whole(ground, operation, report);
        for at in extent.points(number, ground.step) {
            let errors = point(ground, operation, &ends, at, 0, report);
            let Some(errors) = errors else {
                eprintln!("{}: up to {at} calls, {:.0?}", operation.name, begun.elapsed());
                break;
            };
            if extent == Extent::All {
                for which in 1..errors {
                    point(ground, operation, &ends, at, which, report);
                }
            }
        }
    }
}

fn whole(ground: &Ground, operation: &Operation, report: &mut Report) -> Ends {
    let (before, after) = ends(ground, operation, report);
    ground.prepare(operation);
    let disk = disk(ground);
    let mut found = Vec::new();
    ground.view_and_clear(&mut found);
    report.found(operation.name, found);
    Ends { before, after, disk }
}

/// Lets the `at`-th call fail with one of its errors, the first of which differs from call to call. How many there are; `None` if
/// there is no such call.
fn point(
    ground: &Ground,
    operation: &Operation,
    ends: &Ends,
    at: usize,
    which: usize,
    report: &mut Report,
) -> Option<usize> {
    ground.prepare(operation);
    let mut child = start(ground, operation);
    let mut found = Vec::new();
    let Some((Failed { call, path, errno, is_flushed_again }, outcome)) = fail(&mut child, at, which) else {
        child.end();
        ground.view_and_clear(&mut found);
        report.found(&format!("{}, undisturbed", operation.name), found);
        return None;
    };
    let on = path.as_deref().unwrap_or_default();
    let what = format!("{}, call {at}, {}({on}), errno {errno}", operation.name, call.kind().name);
    // What a start leaves to the worker is tried again, and no call has said that it is done.
    let is_said = outcome["errno"] == 0 && !operation.takes_back && !operation.tells && !operation.starts;
    // devicemapper writes over the old file then, which takes no room.
    let is_written_in_place = errno == libc::ENOSPC && path.is_some_and(|path| path.contains("/metadata/.tmp-"));
    let is_tidied = operation.tidies && ground.driver == "devicemapper" && says(&outcome["log"], errno);
    if is_said && !is_written_in_place && !is_flushed_again && !is_tidied && FLUSHES.contains(&call.kind().name) {
        found.push("it succeeded, and nobody knows whether it is on the disk".to_owned());
    }
    judge(ground, operation, ends, &outcome, &[errno], &mut child, &mut found);
    report.point(&what, found);
    Some(call.kind().errors.len())
}

/// Says what is wrong after an operation had this outcome: an error must be one of these, and may have changed nothing. The process
/// tries again then, which must work.
fn judge(
    ground: &Ground,
    operation: &Operation,
    ends: &Ends,
    outcome: &Value,
    errors: &[i32],
    child: &mut Child,
    found: &mut Vec<String>,
) {
    let is_error = outcome["errno"] != 0;
    // A snapshot of devicemapper cannot be emptied again.
    let stays_marked = |state: &str| state == "refused" || ground.driver == "devicemapper";
    let may_stay = operation.takes_back || operation.also.iter().any(|(_, state)| stays_marked(state));
    if is_error && !errors.iter().any(|&errno| names(outcome, errno)) {
        found.push(format!("the error does not name the cause: {outcome}"));
    }
    if is_error && !may_stay {
        let now = disk(ground);
        // A removal takes off what is mounted before anything else, which nobody can put back.
        let goes = |id: &String| ends.after.get(id).is_some_and(|after| after == "absent");
        let is_unmounted =
            |id: &String| goes(id) && ends.disk[id].strip_suffix(" mounted") == now.get(id).map(String::as_str);
        let same = |id: &String| now.get(id) == ends.disk.get(id) || is_unmounted(id);
        if !now.keys().chain(ends.disk.keys()).all(same) {
            found.push(format!("it failed ({outcome}) and changed {}", difference(&ends.disk, &now)));
        }
    }
    if is_error && operation.starts {
        let mounts = super::common::mounts_below(&ground.root);
        found.extend(mounts.into_iter().map(|point| format!("it failed ({outcome}) and left a mount on {point}")));
    }
    let again = child.told().expect("trying again came to no end");
    if !may_stay && again["errno"] != 0 {
        found.push(format!("after {outcome}, trying again: {again}"));
    }
    child.end();
    let view = ground.view_and_clear(found);
    if again["errno"] == 0 && !operation.takes_back && !operation.tells {
        let differ = view.iter().filter(|(id, state)| ends.after[*id] != **state);
        found.extend(differ.map(|(id, state)| {
            format!("after {outcome}, and again {again}: '{id}' is: {state}; was to be: {}", ends.after[id])
        }));
    } else {
        found.extend(between(operation, &view, &ends.before, &ends.after));
    }
}

/// Each operation without each of these capabilities; it has them again when it tries again.
pub fn each_capability(ground: &Ground, operations: &[&Operation], report: &mut Report) {
    for operation in operations.iter().filter(|operation| super::is_wanted(operation.name)) {
        let ends = whole(ground, operation, report);
        for (name, number) in capabilities::ALL {
            ground.prepare(operation);
            let mut child = Child::start(|link| {
                let subject = Rust::default();
                if !operation.starts {
                    ground.init(&subject).unwrap();
                    ground.wait_for_the_worker();
                }
                let mut outcome = Value::Null;
                capabilities::without(*number, || outcome = ground.attempt(operation, &subject));
                link.tell(&outcome);
                link.watch(0); // the supervisor looks before it goes on
                if outcome["errno"] != 0 {
                    outcome = ground.attempt(operation, &subject);
                }
                ground.wait_for_the_worker();
                link.tell(&outcome);
            });
            let outcome = child.told().expect("the operation came to no end");
            let mut found = Vec::new();
            // Without CAP_SYS_ADMIN the marks of layers are not seen, and none is proven to be a leftover.
            let errors = [libc::EPERM, libc::EACCES, libc::EEXIST];
            judge(ground, operation, &ends, &outcome, &errors, &mut child, &mut found);
            report.point(&format!("{} without {name}", operation.name), found);
        }
    }
}

/// Like [`Ground::act`], but one that fails is tried again.
fn start(ground: &Ground, operation: &Operation) -> Child {
    Child::start(|link| {
        let subject = Rust::default();
        if !operation.starts {
            ground.init(&subject).unwrap();
            ground.wait_for_the_worker();
        }
        let warnings = warnings();
        link.watch(0);
        let mut outcome = ground.attempt(operation, &subject);
        outcome["log"] = warnings.lock().unwrap().as_str().into();
        link.tell(&outcome);
        mark();
        if outcome["errno"] != 0 {
            outcome = ground.attempt(operation, &subject);
        }
        ground.wait_for_the_worker();
        link.tell(&outcome);
    })
}

/// A call that was made to fail.
struct Failed {
    call: Call,
    /// What its descriptor was of.
    path: Option<String>,
    errno: i32,
    /// After a flush that failed: the same, or the directory it is in, was flushed later on.
    is_flushed_again: bool,
}

impl Failed {
    fn goes_on(&mut self, later: &Call) {
        if let (true, Some(this), Some(path)) = (FLUSHES.contains(&later.kind().name), &self.path, later.path()) {
            self.is_flushed_again |= *this == path || std::path::Path::new(this).parent() == Some(path.as_ref());
        }
    }
}

/// Lets the `at`-th call fail. What that was, and what came of the operation; the process waits at a mark then.
fn fail(child: &mut Child, at: usize, which: usize) -> Option<(Failed, Value)> {
    let mut seen = 0;
    let mut failed = None;
    let mut outcome = None;
    loop {
        match child.next(90_000) {
            Event::Call(call) if super::crash::call_is_its_own(child, call.thread) => {
                if seen == at {
                    let errors = call.kind().errors;
                    let errno = errors[(at + which) % errors.len()];
                    failed = Some(Failed { call, path: call.path(), errno, is_flushed_again: false });
                    child.fail(&call, errno);
                } else {
                    if let (Some(failed), None) = (&mut failed, &outcome) {
                        failed.goes_on(&call);
                    }
                    child.go_on(&call);
                }
                seen += 1;
            }
            Event::Call(call) => child.go_on(&call),
            Event::Mark(call) => match outcome.take() {
                None => child.go_on(&call),
                Some(outcome) => {
                    // A worker of this process may still be at work, and get to that call.
                    child.go_on(&call);
                    return failed.map(|failed| (failed, outcome));
                }
            },
            Event::Told(value) => outcome = Some(value),
            Event::Gone { .. } => panic!("it ended without a word"),
            Event::Idle => panic!("it hangs"),
        }
    }
}

/// Whether an outcome names this error.
fn names(outcome: &Value, errno: i32) -> bool {
    outcome["errno"] == errno || says(&outcome["text"], errno)
}

/// Whether a text names this error.
fn says(text: &Value, errno: i32) -> bool {
    let said = |what: &str| text.as_str().is_some_and(|text| text.contains(what));
    said(nix::errno::Errno::from_raw(errno).desc()) || said(&format!("(os error {errno})"))
}

/// What this process says in the log from now on that is more than a normal event.
fn warnings() -> Arc<Mutex<String>> {
    let heard = Arc::new(Mutex::new(String::new()));
    let lines = heard.clone();
    log::set_sink(Some(Arc::new(move |level, line: &str| {
        if level <= Level::Warn {
            *lines.lock().unwrap() += &format!("{line}\n");
        }
    })));
    heard
}

/// What differs, in words.
pub fn difference(one: &Disk, other: &Disk) -> String {
    let keys: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differ = keys.into_iter().filter(|key| one.get(*key) != other.get(*key));
    let words: Vec<String> = differ.map(|key| format!("'{key}' from {:?} to {:?}", one.get(key), other.get(key))).collect();
    words.join("; ")
}
