//! How many system calls each operation makes, by the depth of the chain: counted in a trace of a process of its own.

use crate::figures::Figures;
use crate::ground::{Driver, Fresh, Scratch, settled};
use crate::operations::{Costs, DEPTHS, NAMES, at_depth, go_through, grow_chain};
use std::path::Path;
use std::process::Command;

/// The first argument that makes this program go through the operations to be traced: `TRACED DIRECTORY none|full DEPTH`.
pub(crate) const TRACED: &str = "traced";

/// Memory and waiting are the process's, not the operation's.
const OTHERS: [&str; 7] = ["brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "futex"];
/// A process asks some things only the first time.
const ROUNDS: usize = 2;

pub(crate) fn run(figures: &mut Figures, scratch: &Scratch, floor: &Path) {
    for sync in ["none", "full"] {
        for depth in DEPTHS {
            let depth = depth.to_string();
            let me = std::env::current_exe().unwrap();
            let traced = |program: &Path, args: &dyn Fn(&str) -> Vec<String>| {
                let fresh = Fresh::new("ext4", scratch);
                let log = scratch.0.join("trace");
                let mut command = Command::new("strace");
                command.args(["-f", "-qq", "-o"]).arg(&log).arg(program).args(args(fresh.0.to_str().unwrap()));
                assert!(command.output().unwrap().status.success(), "{command:?}");
                counts(&std::fs::read_to_string(log).unwrap())
            };
            let ours = traced(&me, &|root| [TRACED, root, sync, &depth].map(str::to_owned).into());
            let least =
                traced(floor, &|root| [&format!("{root}/floor"), &depth, "2", sync, "marks"].map(str::to_owned).into());
            for name in NAMES {
                let last = |costs: &Costs, name| costs.get(name).map_or(f64::NAN, |counts| counts[ROUNDS - 1]);
                let floor = last(&least, if name == "create_ro" { "create_rw" } else { name });
                let labels = [("operation", name.to_owned()), ("sync", sync.to_owned()), ("depth", depth.clone())];
                figures.add("System calls", labels, [("calls", last(&ours, name)), ("floor", floor)]);
            }
        }
    }
}

/// What the traced process does: calls that fail and show in the trace stand around each operation.
pub(crate) fn traced(root: &str, sync: &str, depth: &str) {
    let root = Path::new(root);
    let driver = Driver::start(root, "none");
    let depth = depth.parse().unwrap();
    grow_chain(&driver, 0, depth);
    driver.cleanup();
    let driver = Driver::start(root, sync);
    settled();
    let mark = |name: &str| assert!(std::env::set_current_dir(format!("/mark {name}")).is_err());
    for _ in 0..ROUNDS {
        go_through(&driver, root, sync, &at_depth(depth), &mut |name, operation| {
            mark(name);
            operation();
            mark("end");
        });
    }
    driver.cleanup();
}

/// The calls between the marks of a trace, by the thread that made the mark: what a start leaves to a thread is not its own.
fn counts(trace: &str) -> Costs {
    let mut costs = Costs::new();
    let mut current: Option<(&str, String)> = None;
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(mark) = call.strip_prefix("chdir(\"/mark ") {
            let name = mark.split('"').next().unwrap();
            current = (name != "end").then(|| (thread, name.to_owned()));
            if let Some((_, name)) = &current {
                costs.entry(name.clone()).or_default().push(0.0);
            }
            continue;
        }
        let Some((name, _)) = call.split_once('(') else { continue };
        let is_call = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !OTHERS.contains(&name);
        if let Some((_, operation)) = current.as_ref().filter(|(marked, _)| is_call && *marked == thread) {
            *costs.get_mut(operation).unwrap().last_mut().unwrap() += 1.0;
        }
    }
    costs
}
