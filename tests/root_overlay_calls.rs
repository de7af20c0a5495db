//! How many system calls each operation on a layer makes, and how many of them force something to disk. Needs root and strace.

mod common;

use common::subject::{Rust, Subject};
use common::{Store, run, this_program};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    calls: usize,
    /// Those that force something to disk.
    flushes: usize,
}

const fn cost(calls: usize, flushes: usize) -> Cost {
    Cost { calls, flushes }
}

/// What each operation may cost with `overlay2.sync=full` and with `none`, as the table in `docs/performance.md` has it. Other
/// kernels and C libraries may do with fewer calls; flushes are a promise.
const BOUNDS: [(&str, Cost, Cost); 16] = [
    ("create_ro", cost(29, 2), cost(26, 0)),
    ("create_ro upon a parent", cost(41, 3), cost(37, 0)),
    ("create_rw upon a parent", cost(42, 3), cost(38, 0)),
    ("exists", cost(6, 0), cost(6, 0)),
    ("exists of no layer", cost(4, 0), cost(4, 0)),
    ("metadata", cost(11, 0), cost(11, 0)),
    ("usage of an empty layer", cost(16, 0), cost(16, 0)),
    ("status", cost(10, 0), cost(10, 0)),
    ("mount", cost(37, 0), cost(37, 0)),
    ("mount again", cost(13, 0), cost(13, 0)),
    ("umount", cost(1, 0), cost(1, 0)),
    ("rm of an empty layer", cost(46, 1), cost(45, 0)),
    ("rm of no layer", cost(4, 0), cost(4, 0)),
    // These read the mount table, by the page: four and two pages more than here are allowed.
    ("init", cost(83, 0), cost(83, 0)),
    ("init of an empty store", cost(102, 0), cost(102, 0)),
    ("cleanup", cost(15, 0), cost(15, 0)),
];

const FLUSHES: [&str; 4] = ["fsync", "fdatasync", "syncfs", "sync"];

/// Memory and waiting are the process's, not the operation's.
const OTHERS: [&str; 7] = ["brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "futex"];

/// The first round is left out: a process asks some things only once.
const ROUNDS: usize = 3;

#[test]
fn root_operations_cost_what_the_documentation_says() {
    let (full, none) = (traced("overlay2.sync=full"), traced("overlay2.sync=none"));
    println!("| operation | full: calls (flushes) | none |");
    let mut wrong = Vec::new();
    for (operation, full_bound, none_bound) in BOUNDS {
        let (full, none) = (full[operation], none[operation]);
        println!("| {operation} | {} | {} |", cell(full), cell(none));
        for (sync, seen, bound) in [("full", full, full_bound), ("none", none, none_bound)] {
            if seen.calls > bound.calls || seen.flushes != bound.flushes {
                wrong.push(format!("{operation}, sync={sync}: {}, and not {}", cell(seen), cell(bound)));
            }
        }
        // The columns before these two are what it was in former times.
        let end = format!(" | {} | {} |", cell(full_bound), cell(none_bound));
        let is_documented = |line: &str| line.starts_with(&format!("| {operation} |")) && line.ends_with(&end);
        if !include_str!("../docs/performance.md").lines().any(is_documented) {
            wrong.push(format!("docs/performance.md lacks: | {operation} | …{end}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn cell(cost: Cost) -> String {
    format!("{} ({})", cost.calls, cost.flushes)
}

const JOB: &str = "OVERLAY_CALLS_JOB";

/// What each operation costs a process of its own.
fn traced(sync: &str) -> BTreeMap<String, Cost> {
    let store = Store::new();
    let log = store.root().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&log).arg(this_program());
    command.args(["--exact", "child", "--test-threads", "1"]);
    run(command.env(JOB, format!("{sync} {}", store.root().display())));
    costs(&std::fs::read_to_string(&log).unwrap())
}

/// Adds up a trace: the most that each operation costs in any round but the first.
fn costs(trace: &str) -> BTreeMap<String, Cost> {
    let mut rounds: BTreeMap<String, Vec<Cost>> = BTreeMap::new();
    let mut operation = None;
    for line in trace.lines() {
        let thread = line.split(' ').next().unwrap();
        if let Some((_, mark)) = line.split_once(" chdir(\"/mark ") {
            let name = mark.split('"').next().unwrap();
            operation = (name != "end").then(|| (thread, rounds.entry(name.to_owned()).or_default()));
            operation.iter_mut().for_each(|(_, rounds)| rounds.push(Cost::default()));
        } else if let (Some((caller, rounds)), Some(call)) = (&mut operation, call(line)) {
            if thread != *caller {
                continue; // what a start leaves to a thread in the background is no operation's
            }
            let cost = rounds.last_mut().unwrap();
            cost.calls += 1;
            cost.flushes += usize::from(FLUSHES.contains(&call));
        }
    }
    let most = |rounds: Vec<Cost>| {
        assert_eq!(rounds.len(), ROUNDS);
        rounds[1..].iter().fold(Cost::default(), |a, b| cost(a.calls.max(b.calls), a.flushes.max(b.flushes)))
    };
    rounds.into_iter().map(|(name, rounds)| (name, most(rounds))).collect()
}

/// The call that begins on a line of a trace, if it counts.
fn call(line: &str) -> Option<&str> {
    let (name, _) = line.split_once(' ')?.1.trim_start().split_once('(')?;
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    // The standard library looks whether a descriptor is open before it closes it, in debug builds only.
    let is_check = cfg!(debug_assertions) && name == "fcntl";
    (is_name && !is_check && !OTHERS.contains(&name)).then_some(name)
}

#[test]
fn a_trace_is_added_up() {
    let round = "7 chdir(\"/mark x\") = -1\n7 fcntl(3, F_GETFD) = 0\n7 openat(1, \"a\") = 3\n7 futex(0x1) = 0\n8 fsync(2) = 0\n7 fsync(3 <unfinished ...>\n\
                 7 <... fsync resumed>) = 0\n7 --- SIGCHLD {} ---\n7 chdir(\"/mark end\") = -1\n7 close(3) = 0\n";
    let longer = round.replace("openat", "mkdirat(3) = 0\n7 openat");
    let seen = costs(&[&longer.replace("mkdirat", "sync() = 0\n7 x"), round, &longer].concat());
    assert_eq!(seen, BTreeMap::from([("x".to_owned(), cost(if cfg!(debug_assertions) { 3 } else { 4 }, 1))]));
}

/// Not a test of its own: the process that is traced.
#[test]
fn child() {
    let Ok(job) = std::env::var(JOB) else { return };
    let (sync, root) = job.split_once(' ').unwrap();
    let subject = Rust::default();
    let threads_before = threads();
    let init = |what: &str| {
        marked(what, || subject.init("overlay2", Path::new(root), &[sync]).unwrap());
        while threads() > threads_before {
            std::thread::yield_now();
        }
    };
    for _ in 0..ROUNDS {
        init("init of an empty store");
        marked("create_ro", || subject.create_ro("bottom", None).unwrap());
        marked("create_ro upon a parent", || subject.create_ro("image", Some("bottom")).unwrap());
        marked("create_rw upon a parent", || subject.create_rw("box", Some("image")).unwrap());
        marked("exists", || assert!(subject.exists("box")));
        marked("exists of no layer", || assert!(!subject.exists("nobody")));
        marked("metadata", || drop(subject.metadata("box").unwrap()));
        marked("usage of an empty layer", || _ = subject.usage("box").unwrap());
        marked("status", || drop(subject.status().unwrap()));
        marked("mount", || drop(subject.mount("box", &[]).unwrap()));
        marked("mount again", || drop(subject.mount("box", &[]).unwrap()));
        marked("umount", || subject.umount("box").unwrap());
        marked("cleanup", || subject.cleanup().unwrap());
        init("init");
        subject.remove("box").unwrap();
        marked("rm of an empty layer", || subject.remove("image").unwrap());
        marked("rm of no layer", || subject.remove("image").unwrap());
        subject.remove("bottom").unwrap();
        subject.cleanup().unwrap();
    }
}

/// How many threads this process has.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Calls that fail and show in the trace stand around the operation.
fn marked(name: &str, operation: impl FnOnce()) {
    let mark = |name: &str| assert!(std::env::set_current_dir(format!("/mark {name}")).is_err());
    mark(name);
    operation();
    mark("end");
}
