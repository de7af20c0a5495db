//! One harness for what must be survived. It takes an operation ([`operations`], as data) and a store of a driver ([`ground`]), and
//!
//! * [`crash`] kills a process before each of its calls that change something, in turn;
//! * [`fault`] lets each call fail, with each error that it can have, in turn;
//! * [`pairs`] holds one operation at each such call until another one is through or waits.
//!
//! All three stand on [`supervisor`]: a seccomp filter tells of each call before it is made, on all threads. Each prints how many
//! points it tried and what it found, and fails if it tried fewer than there are.
//!
//! `SURVIVE=all` in the environment runs everything. Without it some of the points are left out, as [`Extent`] says. Any other word
//! runs everything of the operations, or pairs, that have it in their name.
#![allow(dead_code)] // each test binary uses a part of it

pub mod calls;
pub mod capabilities;
pub mod crash;
pub mod disk;
pub mod fault;
pub mod ground;
pub mod operations;
pub mod pairs;
pub mod report;
pub mod supervisor;

use super::common;

/// How much of it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// In the check: a call fails once, each with another of its errors; of the points of slow stores, of the calls that fail, and of
    /// the points where two operations meet, some are left out.
    Check,
    /// Every call fails with each of its errors, and operations meet at every point.
    All,
}

impl Extent {
    pub fn wanted() -> Extent {
        if word().is_some() { Extent::All } else { Extent::Check }
    }

    /// The points of the operation, or pair, of this number that are tried where every `step`-th is enough for the check; they begin
    /// with another one for each.
    fn points(self, number: usize, step: usize) -> std::iter::StepBy<std::ops::RangeFrom<usize>> {
        match self {
            Extent::All => (0..).step_by(1),
            Extent::Check => (number % step..).step_by(step),
        }
    }
}

fn word() -> Option<String> {
    std::env::var("SURVIVE").ok()
}

/// Whether one part only is wanted.
fn is_part() -> bool {
    word().is_some_and(|word| word != "all")
}

/// Whether what has this name is wanted.
fn is_wanted(name: &str) -> bool {
    !is_part() || word().is_some_and(|word| name.contains(&word))
}
