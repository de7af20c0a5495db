//! The house rules of the source tree: which module may use which, where `unsafe` may stand, how long a file may get, and
//! what tests leave to each other.

use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 700;

/// What each part may use. `error` and `log` may be used by all and use nothing.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("log", &[]),
    ("cancel", &[]),
    ("sys", &[]),
    ("id", &[]),
    ("options", &[]),
    // The vocabulary of drivers: of what is below only types, as parts of its own.
    ("driver", &["id", "archive", "tree", "cancel", "digest"]),
    ("digest", &[]),
    ("backing", &[]),
    ("locks", &[]),
    ("undo", &[]),
    ("worker", &["locks", "sys"]),
    ("lease", &["id", "locks", "sys"]),
    ("tree", &["sys"]),
    ("room", &["sys"]),
    ("mounts", &["sys"]),
    ("quota", &["sys", "options", "driver"]),
    ("archive", &["sys", "tree", "cancel", "room", "digest", "locks"]),
    ("export", &["sys", "archive", "driver", "digest", "cancel"]),
    (
        "overlay",
        &[
            "archive", "export", "backing", "room", "lease", "locks", "undo", "worker", "quota", "tree", "mounts",
            "options", "id", "driver", "sys",
        ],
    ),
    (
        "devmapper",
        &[
            "archive", "export", "backing", "room", "lease", "locks", "undo", "worker", "tree", "mounts", "options", "id",
            "driver", "sys",
        ],
    ),
    ("graph", &["overlay", "devmapper", "driver", "lease", "id", "cancel"]),
    ("capi", &["graph", "driver", "archive", "digest", "id", "sys"]),
];

fn sources() -> Vec<PathBuf> {
    files("src")
}

/// The Rust files below a directory of the project.
fn files(below: &str) -> Vec<PathBuf> {
    fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(below), &mut found);
    assert!(found.len() > 20);
    found
}

/// The part of the tree that a file belongs to: the name below `src`, without its ending.
fn part(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    Path::new(below.components().next().unwrap().as_os_str()).with_extension("").to_str().unwrap().to_owned()
}

/// The lines of code, without comments and without the tests at the end of the file.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap().to_owned()).collect()
}

/// The parts that a line names as `crate::part`.
fn named_parts(line: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for after in line.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(group) => parts.extend(group.split(['}', ';']).next().unwrap().split(',').map(str::trim)),
            None => parts.push(after),
        }
    }
    parts
        .iter()
        .map(|p| p.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
        .filter(|p| !p.is_empty())
        .collect()
}

#[test]
fn arrows_point_down_only() {
    for path in sources() {
        let own = part(&path);
        if own == "lib" {
            continue;
        }
        let (_, allowed) = MAY_USE.iter().find(|(name, _)| *name == own).unwrap_or_else(|| panic!("'{own}' has no rule"));
        for line in code(&path) {
            for used in named_parts(&line) {
                let fine = used == own
                    || ["error", "log"].contains(&used) && !["error", "log"].contains(&own.as_str())
                    || allowed.contains(&used);
                assert!(fine, "{}: '{own}' must not use '{used}': {line}", path.display());
            }
        }
    }
}

#[test]
fn unsafe_and_the_system_crates_stay_in_their_rooms() {
    for path in sources() {
        let (own, name) = (part(&path), path.display().to_string());
        for line in code(&path) {
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            if !["sys", "capi"].contains(&own.as_str()) {
                assert!(!words.contains(&"unsafe"), "{name}: unsafe: {line}");
                assert!(!line.contains("allow(unsafe_code)"), "{name}: {line}");
            }
            if own != "sys" {
                let spaced: String = line.chars().map(|c| if "(&<,{=!".contains(c) { ' ' } else { c }).collect();
                for system in [" nix::", " libc::", " devicemapper::"] {
                    assert!(!spaced.contains(system), "{name}: names{system}: {line}");
                }
            }
        }
    }
}

#[test]
fn capi_exports_do_not_call_exports() {
    for path in sources().iter().filter(|p| part(p) == "capi") {
        for line in code(path) {
            let called = (line.contains("graphdriver_") || line.contains("free_")) && line.contains("unsafe { graphdriver_");
            assert!(!called, "{}: {line}", path.display());
        }
    }
}

#[test]
fn files_stay_small() {
    for path in sources() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", path.display());
    }
}

#[test]
fn tests_run_in_a_chroot_as_well() {
    for path in files("tests") {
        if path.ends_with("common/chroot.rs") || path.ends_with(file!()) {
            continue;
        }
        for line in code(&path) {
            for word in ["current_exe", "CLONE_NEWNS"] {
                assert!(!line.contains(word), "{}: common/chroot.rs is for this: {line}", path.display());
            }
        }
    }
}
