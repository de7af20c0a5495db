//! Does one operation after another on the store that its first argument names, for tests that kill or trace it from outside.
//! Between operations it makes a call that fails and shows in a trace, on every architecture by the same name:
//! `chdir("/mark-N")`.

use graphdriver::driver::{Access, CreateOptions};
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let graph = Graph::new();
    graph.init("overlay", Path::new(&arguments[1]), &[]).unwrap();
    for (number, operation) in arguments[2..].iter().enumerate() {
        let _ = std::env::set_current_dir(format!("/mark-{number}"));
        let words: Vec<&str> = operation.split(' ').collect();
        let id = |word: usize| LayerId::parse(words[word].as_bytes()).unwrap();
        let parent = || words.get(2).map(|_| id(2));
        let create = |access| graph.with(|d| d.create(&id(1), parent().as_ref(), access, &mut CreateOptions::default()));
        let outcome = match words[0] {
            "create_ro" => create(Access::ReadOnly),
            "create_rw" => create(Access::ReadWrite),
            "repair" => graph.with(|d| d.repair_lowers(&id(1), parent().as_ref())),
            "apply" => graph.with(|d| d.apply_diff(&id(1), &mut std::fs::File::open(words[2]).unwrap(), None)),
            "remove" => graph.with(|d| d.remove(&id(1))),
            other => panic!("no operation '{other}'"),
        };
        outcome.unwrap();
    }
    let _ = std::env::set_current_dir(format!("/mark-{}", arguments.len() - 2));
}
