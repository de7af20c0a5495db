//! What this crate stands on: each licence is one of `deny.toml`, everything comes from crates.io, and each crate that
//! `Cargo.toml` names is justified in `docs/dependencies.md`.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The package of the program `graphdriver`.
const TOOL: &str = "graphdriver-tool";

/// All packages of the build for this machine, as `cargo metadata` tells them: those of the library and of the program in `tool/`.
fn packages() -> Vec<Value> {
    let metadata = metadata();
    let used: BTreeSet<&str> =
        metadata["resolve"]["nodes"].as_array().expect("nodes").iter().map(|node| text(&node["id"])).collect();
    let all = metadata["packages"].as_array().expect("packages");
    let packages: Vec<Value> = all.iter().filter(|package| used.contains(text(&package["id"]))).cloned().collect();
    assert!(packages.len() > 10, "cargo metadata lists only {} packages", packages.len());
    packages
}

fn metadata() -> Value {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", &host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file)
}

/// The strings of `allow = [...]` in deny.toml.
fn allowed() -> Vec<String> {
    let deny = read("deny.toml");
    let list = deny.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']')).expect("an allow list").0;
    list.split(',').map(|item| item.trim().trim_matches('"').to_owned()).filter(|item| !item.is_empty()).collect()
}

/// Whether an SPDX expression can be met with the allowed licences alone. `/` is cargo's old word for OR.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let met = any(&mut rest, allowed);
    met && rest.is_empty()
}

fn any(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut met = all(rest, allowed);
    while let ["OR", tail @ ..] = *rest {
        *rest = tail;
        met |= all(rest, allowed);
    }
    met
}

fn all(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut met = one(rest, allowed);
    while let ["AND", tail @ ..] = *rest {
        *rest = tail;
        met &= one(rest, allowed);
    }
    met
}

fn one(rest: &mut &[&str], allowed: &[String]) -> bool {
    match *rest {
        ["(", tail @ ..] => {
            *rest = tail;
            let met = any(rest, allowed);
            let closed = rest.first() == Some(&")");
            *rest = rest.get(1..).unwrap_or_default();
            met && closed
        }
        [licence, "WITH", exception, tail @ ..] => {
            *rest = tail;
            allowed.contains(&format!("{licence} WITH {exception}"))
        }
        [licence, tail @ ..] => {
            *rest = tail;
            allowed.iter().any(|name| name == licence)
        }
        [] => false,
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT", "Zlib", "X WITH Y"].map(str::to_owned);
    for good in ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "(GPL-3.0 OR MIT) AND Zlib", "X WITH Y", "MIT AND (Zlib)"] {
        assert!(is_met(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "X", "MIT WITH Y", "(MIT OR Zlib) AND GPL-3.0", "(MIT", "MIT MIT"] {
        assert!(!is_met(bad, &allowed), "{bad}");
    }
}

#[test]
fn every_licence_is_allowed() {
    let allowed = allowed();
    assert!(allowed.iter().any(|name| name == "MIT"), "deny.toml is not read: {allowed:?}");
    for package in packages() {
        let (name, licence) = (text(&package["name"]), text(&package["license"]));
        assert!(is_met(licence, &allowed), "{name}: licence '{licence}' is not among those of deny.toml");
    }
}

#[test]
fn every_dependency_comes_from_crates_io() {
    let own = [env!("CARGO_PKG_NAME"), TOOL];
    for package in packages().iter().filter(|package| !own.contains(&text(&package["name"]))) {
        let source = text(&package["source"]);
        assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{}", text(&package["name"]));
    }
}

/// What a manifest names, and those of the members of its workspace. Asks for nothing that would have to be fetched.
fn direct(manifest: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path", manifest])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let named = packages.iter().flat_map(|package| package["dependencies"].as_array().expect("dependencies"));
    named.map(|dependency| text(&dependency["name"]).to_owned()).filter(|name| name != env!("CARGO_PKG_NAME")).collect()
}

#[test]
fn every_direct_dependency_is_justified_and_none_that_is_gone() {
    let (own, benches) = (direct("Cargo.toml"), direct("benches/Cargo.toml"));
    assert!(own.contains("libc") && benches.contains("plotters"), "{own:?} {benches:?}");
    let direct: BTreeSet<String> = own.union(&benches).cloned().collect();
    let document = read("docs/dependencies.md");
    let justified: BTreeSet<String> =
        document.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect();
    assert_eq!(justified, direct, "left: docs/dependencies.md, right: Cargo.toml and benches/Cargo.toml");
}

#[test]
fn the_benches_take_from_crates_io_alone_and_give_the_library_nothing() {
    let (own, benches) = (read("Cargo.lock"), read("benches/Cargo.lock"));
    let sources: BTreeSet<&str> = benches.lines().filter(|line| line.starts_with("source = ")).collect();
    assert_eq!(sources, BTreeSet::from(["source = \"registry+https://github.com/rust-lang/crates.io-index\""]));
    assert!(!own.contains("\"plotters\""));
}

#[test]
fn the_library_needs_nothing_of_the_program() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let node = |id: &str| nodes.iter().find(|node| text(&node["id"]) == id).expect("a node of each package");
    let mut todo = vec![text(&metadata["resolve"]["root"])];
    let mut reached = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if reached.insert(id) {
            todo.extend(node(id)["dependencies"].as_array().expect("dependencies").iter().map(text));
        }
    }
    assert!(reached.len() > 10, "{reached:?}");
    assert!(!reached.iter().any(|id| id.contains("clap")), "{reached:?}");
}

#[test]
fn library_and_program_have_one_version() {
    let packages = packages();
    let tool = packages.iter().find(|package| text(&package["name"]) == TOOL).expect(TOOL);
    assert_eq!(text(&tool["version"]), env!("CARGO_PKG_VERSION"));
}
