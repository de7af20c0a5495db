//! What a power cut leaves of an overlay2 store. The kernel logs every write that a scenario makes (`dm-log-writes`); the log is
//! replayed to each moment when the disk had promised something, and a new process looks at the store as it was then.
//!
//! Two things must hold at each of them. A layer is whole or absent, or marked as damaged where it had content before. And what a
//! call that had returned 0 has done is there. Run by `vm/test`.

mod common;
mod power_cut;

use common::overlay::{has_xattr, set_xattr};
use graphdriver::driver::{Access, CreateOptions, MountOptions};
use graphdriver::error::{Kind, Result};
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use power_cut::disk::{self, Disk, EXT4, XFS};
use power_cut::model::{self, IDS, Model, SCENARIO, Seen, Step, View};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

#[test]
fn ext4_keeps_what_was_promised() {
    holds_on(&EXT4);
}

#[test]
fn xfs_keeps_what_was_promised() {
    holds_on(&XFS);
}

fn holds_on(kind: &'static disk::Kind) {
    common::own_namespace();
    let disk = Disk::new(kind);
    let log = disk.recorded(|root, device| {
        let restart = SCENARIO.iter().position(|step| matches!(step, Step::Restart)).unwrap();
        for (first, end) in [(0, restart), (restart, SCENARIO.len())] {
            as_a_new_process("play", &[&first.to_string(), &end.to_string(), root.to_str().unwrap(), device]);
        }
    });
    let model = Model::new(SCENARIO);
    let (mut half, mut undone, mut left) = (Found::default(), Found::default(), Found::default());
    let mut last = 0;
    let report = std::env::temp_dir().join(format!("power-cut-report-{}", kind.name));
    let look = |root: &Path| {
        as_a_new_process("look", &[root.to_str().unwrap(), report.to_str().unwrap()]);
        fs::read_to_string(&report).unwrap()
    };
    let points = disk.replayed(&log, look, |moment, text| {
        // The kernel's own mark at the end is none of a call.
        last = moment.mark.and_then(|mark| mark.strip_prefix("call-")?.parse().ok()).unwrap_or(last);
        let mut rest = text.as_str();
        let found = IDS.iter().map(|id| (*id, Seen::from_text(&mut rest))).collect();
        let verdict = model.judge(last, !moment.is_mark, &found);
        half.add(verdict.half);
        undone.add(verdict.undone);
        left.add(rest.lines().map(str::to_owned).collect());
    });
    fs::remove_file(&report).unwrap();
    println!(
        "{}: {} calls, {points} points; not whole or absent at {}; what returned 0 undone at {}; not cleaned up at {}",
        kind.name,
        SCENARIO.len(),
        half.points,
        undone.points,
        left.points
    );
    assert_eq!(last, SCENARIO.len(), "marks are missing in the log");
    assert!(points >= 2 * SCENARIO.len(), "only {points} points: the disk was hardly ever flushed");
    let mut wrong = String::new();
    for (what, found) in [("neither whole nor absent", half), ("undone", undone), ("not cleaned up", left)] {
        wrong.extend(found.lines.iter().map(|line| format!("{what}: {line}\n")));
    }
    assert!(wrong.is_empty(), "{}: {wrong}", kind.name);
}

/// What was found wrong.
#[derive(Default)]
struct Found {
    points: usize,
    lines: Vec<String>,
}

impl Found {
    fn add(&mut self, lines: Vec<String>) {
        self.points += usize::from(!lines.is_empty());
        self.lines.extend(lines);
    }
}

const JOB: &str = "POWER_CUT_JOB";

/// On a layer that was mounted `volatile`: during which boot.
const BOOT: &str = "trusted.graphdriver.volatile";

/// Has this program do a job in a process that knows nothing of what came before.
fn as_a_new_process(job: &str, arguments: &[&str]) {
    let mut command = Command::new(common::this_program());
    command.args(["--exact", "child", "--nocapture"]);
    let output = command.env(JOB, [&[job], arguments].concat().join(" ")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{job} {arguments:?}: {text}");
}

/// Not a test of its own: the processes that the tests above start.
#[test]
fn child() {
    let Ok(job) = std::env::var(JOB) else { return };
    match job.split(' ').collect::<Vec<_>>()[..] {
        ["play", first, end, root, device] => {
            play(first.parse().unwrap()..end.parse().unwrap(), Path::new(root), device);
        }
        ["look", root, report] => fs::write(report, look(Path::new(root))).unwrap(),
        _ => panic!("no job '{job}'"),
    }
}

fn start(root: &Path) -> Graph {
    let graph = Graph::new();
    graph.init("overlay2", root, &[]).unwrap();
    graph
}

fn id(text: &str) -> LayerId {
    LayerId::parse(text.as_bytes()).unwrap()
}

fn create(graph: &Graph, layer: &str, parent: Option<&str>, access: Access) -> Result<()> {
    let parent = parent.map(id);
    graph.with(|driver| driver.create(&id(layer), parent.as_ref(), access, &mut CreateOptions::default()))
}

fn mount(graph: &Graph, layer: &str) -> Result<PathBuf> {
    graph.with(|driver| driver.mount(&id(layer), &MountOptions::default()))
}

/// Does a part of the scenario, and marks the log after each call that returned.
fn play(calls: std::ops::Range<usize>, root: &Path, device: &str) {
    let graph = start(root);
    for number in calls {
        match SCENARIO[number] {
            Step::CreateRo(layer, parent) => create(&graph, layer, parent, Access::ReadOnly).unwrap(),
            Step::CreateRw(layer, parent) => create(&graph, layer, parent, Access::ReadWrite).unwrap(),
            Step::Apply(layer, items) => {
                let first = root.join("overlay2").join(layer).join("diff").join(model::first_file(items));
                let archive = model::archive(items);
                let mut content =
                    Interrupted { archive: &archive, at: 0, first: &first, neighbour: &root.join("neighbour") };
                graph.with(|driver| driver.apply_diff(&id(layer), &mut content, None)).unwrap();
            }
            Step::Mount(layer) => drop(mount(&graph, layer).unwrap()),
            Step::MountVolatile(layer) => {
                let options = MountOptions { options: vec!["volatile".into()], ..MountOptions::default() };
                graph.with(|driver| driver.mount(&id(layer), &options)).unwrap();
            }
            Step::Write(layer, path, text) => write(&mount(&graph, layer).unwrap().join(path), text),
            Step::Umount(layer) => graph.with(|driver| driver.umount(&id(layer))).unwrap(),
            Step::Remove(layer) => graph.with(|driver| driver.remove(&id(layer))).unwrap(),
            Step::Restart => {} // this process is the one that was started
        }
        common::run(Command::new("dmsetup").args(["message", device, "0", "mark", &format!("call-{}", number + 1)]));
    }
    graph.cleanup().unwrap();
}

/// An archive that comes in two pieces. When a part of the first is unpacked, somebody else has the filesystem write to the disk
/// what it has until then.
struct Interrupted<'a> {
    archive: &'a [u8],
    at: usize,
    first: &'a Path,
    neighbour: &'a Path,
}

impl Read for Interrupted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let half = self.archive.len() / 2;
        if self.at == half {
            let is_late = Instant::now() + Duration::from_secs(60);
            while !self.first.exists() {
                assert!(Instant::now() < is_late, "{} is not unpacked", self.first.display());
                std::thread::sleep(Duration::from_millis(1));
            }
            write(self.neighbour, "anything");
        }
        let end = if self.at < half { half } else { self.archive.len() };
        let piece = &self.archive[self.at..end.min(self.at + buffer.len())];
        buffer[..piece.len()].copy_from_slice(piece);
        self.at += piece.len();
        Ok(piece.len())
    }
}

/// What a careful program in a container does.
fn write(path: &Path, text: &str) {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(model::TIME)).unwrap();
    file.sync_all().unwrap();
}

/// Looks at every layer, makes those anew that are absent, removes all. Returns what was seen, and then a line for each thing that
/// could not be done or was left behind.
fn look(root: &Path) -> String {
    // A power cut ends a boot.
    for layer in IDS.iter().map(|layer| root.join("overlay2").join(layer)).filter(|layer| layer.exists()) {
        if has_xattr(&layer, BOOT) {
            set_xattr(&layer, BOOT, "another boot");
        }
    }
    let graph = start(root);
    let seen: Vec<Seen> = IDS.iter().map(|layer| found(&graph, layer)).collect();
    let mut wrong = Vec::new();
    for (layer, _) in IDS.iter().zip(&seen).filter(|(_, seen)| **seen == Seen::Absent) {
        wrong.extend(create(&graph, layer, None, Access::ReadOnly).err().map(|e| e.to_string()));
    }
    for layer in IDS.iter().rev() {
        wrong.extend(graph.with(|driver| driver.remove(&id(layer))).err().map(|e| e.to_string()));
    }
    // Leftovers are deleted in the background, which a clean-up would end.
    let left = |dir: &str, stays: &[&str]| -> Vec<String> {
        let others = || common::names(&root.join(dir)).into_iter().filter(|name| !stays.contains(&name.as_str()));
        let is_late = Instant::now() + Duration::from_secs(30);
        while others().next().is_some() && Instant::now() < is_late {
            std::thread::sleep(Duration::from_millis(10));
        }
        others().map(|name| format!("{dir}/{name} is left behind")).collect()
    };
    // Quota's device node may be there as well.
    wrong.extend(left("overlay2", &["l", "backingFsBlockDev"]));
    graph.cleanup().unwrap();
    // A layer that a crash has left with two names in here loses one with its removal, the other at the next start.
    let next = start(root);
    wrong.extend(left("overlay2/l", &[]));
    next.cleanup().unwrap();
    seen.iter().map(Seen::to_text).chain(wrong.iter().map(|line| line.replace('\n', " ") + "\n")).collect()
}

fn found(graph: &Graph, layer: &str) -> Seen {
    let exists = graph.with(|driver| driver.exists(&id(layer))).unwrap();
    match (exists, mount(graph, layer)) {
        (true, Ok(path)) => {
            let mut view = View::new();
            collect(&path, Path::new("."), &mut view);
            graph.with(|driver| driver.umount(&id(layer))).unwrap();
            Seen::Whole(view)
        }
        (true, Err(e)) if e.kind() == Kind::Corrupt => Seen::Marked,
        (false, Err(e)) if [Kind::NotFound, Kind::Corrupt].contains(&e.kind()) => Seen::Absent,
        (_, outcome) => Seen::Broken(format!("exists: {exists}, mount: {outcome:?}")),
    }
}

/// Describes a path below `root` and all that is below it.
fn collect(root: &Path, path: &Path, view: &mut View) {
    let place = root.join(path);
    let stat = fs::symlink_metadata(&place).unwrap();
    let (mode, owner) = (stat.mode() & 0o7777, (stat.uid(), stat.gid()));
    let what = if stat.is_dir() {
        model::dir(mode, owner)
    } else if stat.is_symlink() {
        model::symlink(fs::read_link(&place).unwrap().to_str().unwrap())
    } else {
        assert!(stat.is_file(), "{}", place.display());
        model::file(mode, owner, u64::try_from(stat.mtime()).unwrap(), &fs::read(&place).unwrap())
    };
    view.insert(path.to_str().unwrap().to_owned(), what);
    if stat.is_dir() {
        for entry in fs::read_dir(&place).unwrap() {
            let name = entry.unwrap().file_name();
            collect(root, &if path == Path::new(".") { name.into() } else { path.join(name) }, view);
        }
    }
}

/// The judge is told by ids what was found, so each of the scenario has to be among them.
#[test]
fn every_id_of_the_scenario_is_looked_at() {
    let created = SCENARIO.iter().filter_map(|step| match step {
        Step::CreateRo(id, _) | Step::CreateRw(id, _) => Some(*id),
        _ => None,
    });
    assert_eq!(created.collect::<BTreeSet<_>>(), IDS.iter().copied().collect());
}
