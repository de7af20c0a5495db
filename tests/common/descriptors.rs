//! Processes that can open no more, or hardly anything.

use super::{names, run};
use std::path::Path;
use std::process::Command;

/// Does something while a process can open only so many more descriptors.
pub fn with_room_for<T>(pid: u32, descriptors: usize, work: impl FnOnce() -> T) -> T {
    let open: Vec<u32> = names(Path::new(&format!("/proc/{pid}/fd"))).iter().map(|fd| fd.parse().unwrap()).collect();
    let limit =
        |number: u32| run(Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={number}:4096")]));
    limit((0..).filter(|fd| !open.contains(fd)).nth(descriptors).unwrap());
    let outcome = work();
    limit(1024);
    outcome
}
