//! All benches in one program; `benches/run` builds and starts it. See `docs/performance.md` for what it measures.
//!
//! `graphdriver-benches [--quick] [SECTION]...` with the sections operations, growth, concurrency, unpack, export, arrival; all but
//! export unless some are named. Writes `docs/plots/*.svg` and `docs/plots/figures.json` below the current directory.
#![allow(unsafe_code)] // wait4, for the peak memory of a child
#![allow(clippy::cast_precision_loss)] // numbers of things, as floating point

mod arrival;
mod calls;
mod concurrency;
mod figures;
mod ground;
mod growth;
mod operations;
mod plots;
mod summary;
mod unpack;

use figures::Figures;
use ground::{Scratch, own_namespace, shell};
use std::path::Path;
use std::time::Instant;

/// How much is measured.
pub(crate) struct Settings {
    /// Less of everything, to be through in less than 25 minutes.
    pub(crate) quick: bool,
    /// Of each operation on a layer.
    pub(crate) rounds: usize,
    pub(crate) operations_per_thread: usize,
    /// Of each unpack.
    pub(crate) unpacks: usize,
}

impl Settings {
    fn new(quick: bool) -> Settings {
        if quick {
            Settings { quick, rounds: 15, operations_per_thread: 50, unpacks: 3 }
        } else {
            Settings { quick, rounds: 50, operations_per_thread: 200, unpacks: 5 }
        }
    }

    pub(crate) fn filesystems(&self) -> &'static [&'static str] {
        &["ext4", "xfs", "tmpfs"]
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [calls::TRACED, root, sync, depth] => return calls::traced(root, sync, depth),
        [unpack::ONE, archive, target, how] => return unpack::unpack_one(archive, target, how),
        [unpack::EXPORT, tree, format, how] => return unpack::export_one(tree, format, how),
        [unpack::MAKE] => return unpack::make_layers(),
        _ => {}
    }
    let (options, sections): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with("--"));
    let settings = Settings::new(options.contains(&"--quick"));
    own_namespace();
    let mode = if settings.quick { "quick" } else { "full" };
    let machine = || {
        [
            ("kernel", shell("uname -r")),
            ("processor", shell("sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1")),
            ("processors", shell("nproc")),
            ("load before", shell("cut -d' ' -f1-3 /proc/loadavg")),
            ("commit", shell("git describe --always --dirty 2>/dev/null || echo unknown")),
            ("date", shell("date -u +%FT%RZ")),
            ("mode", mode.to_owned()),
        ]
    };
    machine().iter().for_each(|(name, value)| println!("{name}: {value}"));
    let plots = Path::new("docs/plots");
    std::fs::create_dir_all(plots).unwrap();
    let scratch = Scratch::new();
    let mut figures = Figures::default();
    type Section = fn(&mut Figures, &Scratch, &Settings);
    let all: [(&str, Section); 6] = [
        ("operations", operations::run),
        ("growth", growth::run),
        ("concurrency", concurrency::run),
        ("unpack", unpack::run),
        ("export", unpack::run_export),
        ("arrival", arrival::run),
    ];
    for (name, section) in all {
        if sections.contains(&name) || (sections.is_empty() && name != "export") {
            let (start, machine) = (Instant::now(), machine());
            figures.section = name;
            section(&mut figures, &scratch, &settings);
            figures.write(&plots.join("figures.json"), name, &machine);
            eprintln!("{name}: {:.0} s", start.elapsed().as_secs_f64());
        }
    }
    summary::print(&figures);
    plots::draw(&figures, plots);
}
