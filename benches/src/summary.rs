//! The table of operations in `docs/performance.md`: a line for each, with what it is compared with.

use crate::figures::{Figures, Row};
use crate::operations::{CHECK, NAMES, TABLE};

/// The columns: filesystem, durability, depth.
const COLUMNS: [(&str, &str, &str); 6] = [
    ("ext4", "none", "1"),
    ("ext4", "none", "128"),
    ("ext4", "none", "490"),
    ("ext4", "full", "1"),
    ("xfs", "full", "1"),
    ("tmpfs", "none", "1"),
];

/// Prints the table: microseconds, and in brackets how many times the floor that is.
pub(crate) fn print(figures: &Figures) {
    if figures.rows.iter().all(|row| row.table != TABLE) {
        return;
    }
    let head = COLUMNS.map(|(filesystem, sync, depth)| {
        let durable = if sync == "full" { ", durable" } else { "" };
        format!("{filesystem}{durable}, depth {depth}")
    });
    println!("\n### Summary\n\n| µs (× floor) | {} |", head.join(" | "));
    println!("|---|{}", "---:|".repeat(COLUMNS.len()));
    for name in NAMES.into_iter().chain(["rm of 20,000 files", CHECK]) {
        let cells = COLUMNS.map(|(filesystem, sync, depth)| {
            let labels = [("operation", name), ("on", filesystem), ("sync", sync), ("layers", "1000"), ("depth", depth)];
            let is_it = |row: &&Row| row.table == TABLE && labels.iter().all(|(label, text)| row.label(label) == *text);
            figures.rows.iter().find(is_it).map_or_else(String::new, cell)
        });
        println!("| {name} | {} |", cells.join(" | "));
    }
}

fn cell(row: &Row) -> String {
    let micros = row.number("µs").unwrap_or(f64::NAN);
    let micros = if micros < 10.0 { format!("{micros:.1}") } else { format!("{micros:.0}") };
    match row.number("ratio").filter(|ratio| ratio.is_finite()) {
        Some(ratio) => format!("{micros} ({ratio:.1})"),
        None => micros,
    }
}
