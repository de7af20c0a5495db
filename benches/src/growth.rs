//! What grows with the number of layers: the start, what it leaves to a thread, and memory.

use crate::Settings;
use crate::figures::{Figures, median};
use crate::ground::{Driver, Fresh, Scratch, settled};
use graphdriver::driver::Access;
use std::time::Instant;

pub(crate) const TABLE: &str = "Start and memory";

pub(crate) fn run(figures: &mut Figures, scratch: &Scratch, settings: &Settings) {
    for filesystem in if settings.quick { ["tmpfs"].as_slice() } else { &["tmpfs", "ext4", "xfs"] } {
        let fresh = Fresh::new(filesystem, scratch);
        let driver = Driver::start(&fresh.0, "none");
        settled();
        let mut made = 0;
        for layers in [0, 10, 1_000, 10_000, 100_000] {
            let before = resident();
            for layer in made..layers {
                driver.create(&format!("{layer:064x}"), None, Access::ReadOnly);
            }
            let grown = (resident() - before) / (layers - made).max(1) as f64;
            made = layers;
            let (mut starts, mut rest) = (Vec::new(), Vec::new());
            for _ in 0..5 {
                driver.cleanup();
                let start = Instant::now();
                driver.init(&fresh.0, "none");
                starts.push(start.elapsed().as_secs_f64() * 1e3);
                settled();
                rest.push(start.elapsed().as_secs_f64() * 1e3);
            }
            figures.add(
                TABLE,
                [("on", (*filesystem).to_owned()), ("layers", layers.to_string())],
                [("init ms", median(&starts)), ("until the worker is done ms", median(&rest)), ("bytes per layer", grown)],
            );
        }
        driver.cleanup();
    }
}

/// Resident memory of this process, bytes.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}
