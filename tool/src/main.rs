//! `graphdriver`: looks at the stores of libgraphdriver, checks and mends them. What it prints is described in `graphdriver(8)`.

#![forbid(unsafe_code)]

mod arguments;
mod commands;
mod mounts;
mod output;
mod store;

use arguments::Arguments;
use clap::Parser;
use graphdriver::error::Result;
use output::Output;
use std::process::ExitCode;
use store::Store;

/// How the store is, as the exit status says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody has to do anything.
    Sound,
    /// Somebody has to.
    Damaged,
}

impl Verdict {
    /// The verdict on something of which this is true.
    #[must_use]
    pub fn damaged_if(is_damaged: bool) -> Verdict {
        if is_damaged { Verdict::Damaged } else { Verdict::Sound }
    }
}

/// Errors have the status that clap gives to a wrong command line.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(Verdict::Sound) => ExitCode::SUCCESS,
        Ok(Verdict::Damaged) => ExitCode::from(1),
        Err(e) => {
            output::complain(&e.message());
            ExitCode::from(FAILED)
        }
    }
}

fn run(arguments: &Arguments) -> Result<Verdict> {
    let output = Output::new(arguments.json);
    let mut store = Store::find(arguments)?;
    let outcome = commands::run(&arguments.command, &mut store, &output);
    store.release();
    outcome
}
