//! Runs of the program.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a run of the program came to.
#[derive(Debug)]
pub struct Run {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    /// The document of a run with this exit status.
    pub fn document(&self, status: i32) -> Value {
        assert_eq!((self.status, self.err.as_str()), (status, ""), "{}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }

    /// The text of a run with this exit status. Without a terminal nothing is coloured.
    pub fn text(&self, status: i32) -> &str {
        assert_eq!((self.status, self.err.as_str()), (status, ""), "{}", self.out);
        assert!(!self.out.contains('\x1b'), "{}", self.out);
        &self.out
    }

    /// The error of a run that failed, and wrote nothing else.
    pub fn error(&self) -> &str {
        assert_eq!((self.status, self.out.as_str()), (2, ""), "{self:?}");
        self.err.strip_prefix("graphdriver: ").unwrap()
    }
}

/// The program on a store, with these options of its driver. It is told of no terminal, and of a plain locale.
pub fn program(root: &Path, options: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graphdriver"));
    command.arg("--root").arg(root).args(options.iter().flat_map(|option| ["-o", option])).args(arguments);
    command.env("LC_ALL", "C").env("TERM", "xterm").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

pub fn ran(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}
