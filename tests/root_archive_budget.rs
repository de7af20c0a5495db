//! The work that an archive can ask for is linear in its bytes and entries: counted in system calls. Needs root and strace.

mod archive_support;
#[path = "common/chroot.rs"]
mod chroot;

use archive_support::*;
use graphdriver::archive::Whiteouts;
use graphdriver::error::{Kind, Result};
use std::path::Path;
use std::process::{Command, Stdio};

const CHILD: &str = "ARCHIVE_BUDGET_CHILD";

/// Symlinks to one directory, each of which makes `names` names of its own, and files through them in turn: more of them than
/// the unpacker remembers.
fn through_symlinks(names: usize, files: usize) -> Vec<Item> {
    let text = format!("d{}", "/../d".repeat(names / 2));
    let links = (0..100).map(|n| symlink(&format!("l{n}"), &text));
    let files = (0..files).map(|n| file(&format!("l{}/f{n}", n % 100), ""));
    std::iter::once(dir("d")).chain(links).chain(files).collect()
}

/// A directory with files in directories within each other, and markers that hide the lower layers' part of it, again and again.
fn marked(markers: usize, marker: impl Fn(usize) -> String) -> Vec<Item> {
    const LEVELS: usize = 20;
    let level = |n: usize| "d/".repeat(n + 1);
    let files = (0..LEVELS).flat_map(|n| (0..100).map(move |file| format!("{}f{file}", level(n))));
    files.map(|path| file(&path, "")).chain((0..markers).map(|n| file(&marker(n % LEVELS), ""))).collect()
}

fn items(job: &str, count: usize) -> Vec<Item> {
    match job {
        "symlinks" => through_symlinks(8, count),
        "one-directory" => marked(count, |_| "d/.wh..wh..opq".to_owned()),
        "outermost-first" => marked(count, |level| format!("{}.wh..wh..opq", "d/".repeat(level + 1))),
        "innermost-first" => marked(count, |level| format!("{}.wh..wh..opq", "d/".repeat(20 - level))),
        "whiteouts" => marked(count, |level| format!("{}.wh.d", "d/".repeat(19 - level))),
        _ => panic!("{job}"),
    }
}

/// Not a test of its own: what the tests below run under strace.
#[test]
fn child() {
    let Ok(job) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = job.split(' ').collect();
    let target = Path::new(words[2]);
    // The lower layers have the directories, and something in each.
    if words[0] != "symlinks" {
        for level in 1..=20 {
            std::fs::create_dir(target.join("d/".repeat(level))).unwrap();
            std::fs::write(target.join(format!("{}lower", "d/".repeat(level))), "").unwrap();
        }
    }
    unpack_with(&tar(&items(words[0], words[1].parse().unwrap())), target, &options(Whiteouts::Delete)).unwrap();
}

/// How many system calls an unpack takes, with all around it that is the same each time.
fn calls(job: &str, count: usize, scratch: &Scratch) -> usize {
    let log = scratch.0.join("strace");
    let target = scratch.dir(&format!("{job}-{count}"));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=%file,%desc", "-o"]).arg(&log).arg(chroot::this_program());
    command.args(["--exact", "child", "--test-threads", "1"]);
    command.env(CHILD, format!("{job} {count} {}", target.display()));
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    let log = std::fs::read_to_string(log).unwrap();
    // The standard library looks whether a descriptor is open before it closes it, in debug builds only.
    log.lines().filter(|line| !line.contains(" resumed>") && !line.contains("F_GETFD")).count()
}

#[test]
fn a_marker_costs_the_same_however_often_it_comes() {
    let scratch = Scratch::new("budget-markers");
    for job in ["one-directory", "outermost-first", "innermost-first", "whiteouts"] {
        let (few, many) = (calls(job, 40, &scratch), calls(job, 1040, &scratch));
        let each = (many - few) / 1000;
        println!("{job}: {few} calls with 40 markers, {each} for each more");
        assert!(each <= 10, "{job}: {each} calls for each marker that changes nothing any more");
        assert_eq!(dump(&scratch, job, 40), dump(&scratch, job, 1040));
        assert!(!dump(&scratch, job, 40).contains("lower") || job == "whiteouts");
    }
}

fn dump(scratch: &Scratch, job: &str, count: usize) -> String {
    let mut find = Command::new("find");
    find.arg(".").current_dir(scratch.0.join(format!("{job}-{count}")));
    let out = String::from_utf8(find.output().unwrap().stdout).unwrap();
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn files_through_symlinks_cost_the_same_each() {
    let scratch = Scratch::new("budget-symlinks");
    let [one, two, three] = [300, 600, 900].map(|count| calls("symlinks", count, &scratch));
    println!("{} calls for each file through a symlink", (two - one) / 300);
    assert!((three - two).abs_diff(two - one) < 100, "{one}, {two}, {three}");
    assert!((two - one) / 300 < 60, "{one}, {two}");
}

fn placed(items: &[Item], name: &str, symlinks: u32) -> (Result<()>, usize) {
    let scratch = Scratch::new(name);
    scratch.dir("t");
    let mut how = options(Whiteouts::Overlay);
    how.limits.symlinks = symlinks;
    let outcome = unpack_with(&tar(items), &scratch.0.join("t"), &how).map(drop);
    let files = std::fs::read_dir(scratch.0.join("t/d")).map_or(0, Iterator::count);
    (outcome, files)
}

#[test]
fn symlinks_that_make_long_ways_are_within_a_budget() {
    // 200 names of one: 65,536 and 16 for each file make for 355 files.
    let long = through_symlinks(200, 1000);
    let (outcome, files) = placed(&long, "budget-long", 16);
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::Limit);
    assert!(error.to_string().contains("limit 'symlinks'") && error.to_string().contains("unpack 'l"), "{error}");
    assert!((300..400).contains(&files), "{files}");
    let (outcome, files) = placed(&long, "budget-raised", 200);
    outcome.unwrap();
    assert_eq!(files, 1000);
    // Few files may go a long way, and as many as one likes a short one.
    for (names, count) in [(200, 200), (14, 3000)] {
        let (outcome, files) = placed(&through_symlinks(names, count), "budget-fair", 16);
        outcome.unwrap();
        assert_eq!(files, count);
    }
}

#[test]
fn one_path_alone_has_its_bound() {
    // Eleven symlinks, each of which goes up and down 2,000 names and leads to the next.
    let text = |next: usize| format!("{}l{next}", "d/../".repeat(800));
    let mut items = vec![dir("d"), symlink("l11", "d")];
    items.extend((0..11).map(|n| symlink(&format!("l{n}"), &text(n + 1))));
    items.push(file("l0/f", ""));
    let (outcome, _) = placed(&items, "budget-chain", u32::MAX);
    let error = outcome.unwrap_err();
    assert!(error.kind() == Kind::Limit && error.to_string().contains("limit 'path'"), "{error:?}");
}
