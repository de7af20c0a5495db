//! What a harness says at its end.

use std::time::Instant;

/// Counts the points that were tried, and what was found wrong.
pub struct Report {
    harness: &'static str,
    points: usize,
    violations: Vec<String>,
    begun: Instant,
}

impl Report {
    pub fn new(harness: &'static str) -> Report {
        Report { harness, points: 0, violations: Vec::new(), begun: Instant::now() }
    }

    /// Another point was tried.
    pub fn point(&mut self, what: &str, found: Vec<String>) {
        self.points += 1;
        self.found(what, found);
    }

    pub fn found(&mut self, what: &str, found: Vec<String>) {
        for violation in found {
            eprintln!("{}: VIOLATION: {what}: {violation}", self.harness);
            self.violations.push(format!("{what}: {violation}"));
        }
    }

    /// Prints the counts; fails if anything was found, or if less was tried than there is.
    pub fn end(self, floor: usize) {
        let Report { harness, points, violations, begun } = self;
        eprintln!("{harness}: {points} points, {} violations, {:.0?}", violations.len(), begun.elapsed());
        assert!(violations.is_empty(), "{}", violations.join("\n"));
        assert!(
            points >= floor || super::is_part(),
            "{harness}: only {points} points, and not {floor}: it does not do its work"
        );
    }
}
