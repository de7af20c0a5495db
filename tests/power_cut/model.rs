//! What is done to the store, what must be there after each call, and what a start after a power cut has found.

use crate::common::Tar;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A call of the scenario.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    CreateRo(&'static str, Option<&'static str>),
    CreateRw(&'static str, Option<&'static str>),
    Apply(&'static str, &'static [Item]),
    Mount(&'static str),
    /// With `volatile`: nothing is forced to disk until the daemon ends.
    MountVolatile(&'static str),
    /// A program in the mounted container writes a file and calls fsync.
    Write(&'static str, &'static str, &'static str),
    Umount(&'static str),
    Remove(&'static str),
    /// The daemon ends, and another starts.
    Restart,
}

/// What an archive has.
#[derive(Clone, Copy, Debug)]
pub enum Item {
    Dir(&'static str),
    File(&'static str, &'static str),
    /// A file that does not come with the first read.
    Large(&'static str),
    Symlink(&'static str, &'static str),
    /// Hides a name of the layers below.
    Hides(&'static str),
    /// The directory hides all that the layers below have in it; `.` is the layer's root.
    Opaque(&'static str),
}

use Item::{Dir, File, Hides, Large, Opaque, Symlink};
use Step::{Apply, CreateRo, CreateRw, Mount, MountVolatile, Remove, Restart, Umount, Write};

const BASE: &[Item] = &[
    Dir("etc"),
    File("etc/name", "base"),
    File("etc/old", "to be hidden"),
    Symlink("etc/link", "name"),
    Dir("cache"),
    File("cache/a", "a"),
    Large("library"),
];
const CHILD: &[Item] =
    &[File("etc/name", "child"), Hides("etc/old"), Dir("cache"), Opaque("cache"), File("cache/b", "b"), Large("program")];
const ALONE: &[Item] = &[Opaque("."), Dir("own"), File("own/file", "nothing is below"), Large("own/program")];
const MORE: &[Item] = &[File("etc/more", "unpacked into a container"), Hides("library"), Large("data")];
const FIRST: &[Item] = &[File("first", "first"), Large("content")];
const SECOND: &[Item] = &[File("second", "second"), Large("content")];

/// All calls, in this order, each followed by a mark in the log.
pub const SCENARIO: &[Step] = &[
    CreateRo("bottom", None),
    Apply("bottom", BASE),
    CreateRo("child", Some("bottom")),
    Apply("child", CHILD),
    CreateRo("alone", Some("child")),
    Apply("alone", ALONE),
    CreateRw("box", Some("child")),
    Mount("box"),
    Write("box", "etc/mine", "a new file"),
    Write("box", "etc/name", "a file that was copied up"),
    Umount("box"),
    Apply("box", MORE),
    CreateRo("anew", Some("bottom")),
    Apply("anew", FIRST),
    Remove("anew"),
    CreateRo("anew", None),
    Apply("anew", SECOND),
    CreateRo("leftover", Some("child")),
    Apply("leftover", FIRST),
    CreateRw("quick", Some("child")),
    MountVolatile("quick"),
    Write("quick", "etc/mine", "safe when the daemon has ended"),
    Umount("quick"),
    Restart,
    CreateRo("leftover", Some("bottom")),
    Apply("leftover", SECOND),
    Remove("box"),
    Remove("alone"),
];

/// The ids of the scenario, parents first.
pub const IDS: &[&str] = &["bottom", "child", "alone", "box", "anew", "leftover", "quick"];

/// The time of every file, unpacked or written.
pub const TIME: u64 = 1_600_000_000;

/// A layer's mounted content: each path with what is there, as [`dir`], [`file`] and [`symlink`] describe it.
pub type View = BTreeMap<String, String>;

pub fn dir(mode: u32, owner: (u32, u32)) -> String {
    format!("directory {mode:o} {owner:?}")
}

pub fn file(mode: u32, owner: (u32, u32), time: u64, content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("file {mode:o} {owner:?} of {time}, {} bytes, {:x}", content.len(), hasher.finish())
}

pub fn symlink(target: &str) -> String {
    format!("symlink to {target}")
}

fn large() -> String {
    (0..600_000_usize).map(|n| char::from(b'a' + u8::try_from(n / 1000 % 26).unwrap())).collect()
}

/// The archive of these items.
pub fn archive(items: &[Item]) -> Vec<u8> {
    let tar = items.iter().fold(Tar::new(), |tar, item| match *item {
        Dir(path) => tar.dir(path),
        File(path, text) => tar.file(path, text),
        Large(path) => tar.file(path, &large()),
        Symlink(path, target) => tar.symlink(path, target),
        Hides(path) => tar.file(&marker(path), ""),
        Opaque(path) => tar.file(&format!("{path}/.wh..wh..opq"), ""),
    });
    tar.done()
}

/// The first file that unpacking makes.
pub fn first_file(items: &[Item]) -> &'static str {
    let path = |item: &Item| if let File(path, _) = *item { Some(path) } else { None };
    items.iter().find_map(path).unwrap()
}

fn marker(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((parent, name)) => format!("{parent}/.wh.{name}"),
        None => format!(".wh.{path}"),
    }
}

/// What unpacking the items does to what is seen.
fn unpack(view: &mut View, items: &[Item]) {
    let root = (0, 0);
    for item in items {
        let (path, what) = match *item {
            Dir(path) => (path, dir(0o755, root)),
            File(path, text) => (path, file(0o644, root, TIME, text.as_bytes())),
            Large(path) => (path, file(0o644, root, TIME, large().as_bytes())),
            Symlink(path, target) => (path, symlink(target)),
            Hides(path) => {
                view.remove(path);
                continue;
            }
            Opaque(path) => {
                view.retain(|found, _| found == "." || path != "." && !found.starts_with(&format!("{path}/")));
                continue;
            }
        };
        view.insert(path.to_owned(), what);
    }
}

/// A layer as it must be.
#[derive(Clone)]
struct Layer {
    view: View,
    has_content: bool,
    /// Mounted `volatile`, or it was and has not been forced to disk since: what is there at least, or it is marked.
    lasting: Option<View>,
}

impl Layer {
    fn is(&self, seen: &Seen) -> bool {
        match seen {
            Seen::Whole(view) => self.view == *view || self.lasting.as_ref() == Some(view),
            Seen::Marked => self.lasting.is_some(),
            _ => false,
        }
    }
}

type World = BTreeMap<&'static str, Layer>;

fn after(before: &World, step: Step) -> World {
    let mut world = before.clone();
    match step {
        CreateRo(id, parent) | CreateRw(id, parent) => {
            let nothing = || View::from([(".".to_owned(), dir(0o755, (0, 0)))]);
            let view = parent.map_or_else(nothing, |parent| before[parent].view.clone());
            world.insert(id, Layer { view, has_content: false, lasting: None });
        }
        Apply(id, items) => {
            let layer = world.get_mut(id).unwrap();
            unpack(&mut layer.view, items);
            layer.has_content = true;
        }
        Write(id, path, text) => {
            let layer = world.get_mut(id).unwrap();
            layer.view.insert(path.to_owned(), file(0o644, (0, 0), TIME, text.as_bytes()));
            layer.has_content = true;
        }
        Remove(id) => drop(world.remove(id).unwrap()),
        MountVolatile(id) => {
            let layer = world.get_mut(id).unwrap();
            layer.lasting = Some(layer.view.clone());
        }
        Restart => world.values_mut().for_each(|layer| layer.lasting = None),
        Mount(_) | Umount(_) => {}
    }
    world
}

/// How a start after the power cut found a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// `exists` is false, and it cannot be mounted.
    Absent,
    /// `exists` is true, and this is mounted.
    Whole(View),
    /// `exists` is true, and a mount says that it is damaged.
    Marked,
    /// Anything else.
    Broken(String),
}

impl Seen {
    /// As lines of text, from one process to another: a word, and for a view its paths with tabs before and after.
    pub fn to_text(&self) -> String {
        match self {
            Seen::Absent => "absent\n".to_owned(),
            Seen::Marked => "marked\n".to_owned(),
            Seen::Broken(what) => format!("broken {}\n", what.replace('\n', " ")),
            Seen::Whole(view) => {
                let lines = view.iter().map(|(path, what)| format!("\t{path}\t{what}\n"));
                std::iter::once("whole\n".to_owned()).chain(lines).collect()
            }
        }
    }

    /// Takes one off the front of a text.
    pub fn from_text(text: &mut &str) -> Seen {
        let mut line = || {
            let (line, rest) = text.split_once('\n')?;
            *text = rest;
            Some(line)
        };
        match line().unwrap() {
            "absent" => Seen::Absent,
            "marked" => Seen::Marked,
            "whole" => {
                let mut view = View::new();
                while let Some((path, what)) =
                    text.strip_prefix('\t').and_then(|rest| rest.split_once('\n')?.0.split_once('\t'))
                {
                    view.insert(path.to_owned(), what.to_owned());
                    *text = text.split_once('\n').unwrap().1;
                }
                Seen::Whole(view)
            }
            other => Seen::Broken(other.strip_prefix("broken ").unwrap().to_owned()),
        }
    }
}

/// What is wrong with a layer after a power cut.
#[derive(Default)]
pub struct Verdict {
    /// Neither whole nor absent, nor marked where it had content before.
    pub half: Vec<String>,
    /// Not as the calls that had returned have left it.
    pub undone: Vec<String>,
}

/// The states that the store goes through.
pub struct Model {
    steps: &'static [Step],
    /// Before the first call, and after each.
    worlds: Vec<World>,
}

impl Model {
    pub fn new(steps: &'static [Step]) -> Model {
        let mut worlds = vec![World::new()];
        for step in steps {
            worlds.push(after(worlds.last().unwrap(), *step));
        }
        Model { steps, worlds }
    }

    /// Judges what was found when so many calls had returned and the next one was under way, or had not begun yet.
    pub fn judge(&self, returned: usize, is_under_way: bool, found: &BTreeMap<&'static str, Seen>) -> Verdict {
        let moment = Moment {
            before: &self.worlds[returned],
            step: self.steps.get(returned).copied().filter(|_| is_under_way),
            after: self.worlds.get(returned + 1).filter(|_| is_under_way),
        };
        let last = returned.checked_sub(1).map_or_else(|| "the start".to_owned(), |last| shown(self.steps[last]));
        let mut verdict = Verdict::default();
        for (id, seen) in found {
            let when = moment.step.map_or_else(String::new, |step| format!(" and during {}", shown(step)));
            let line = || format!("after {last}{when}: '{id}' {}", moment.difference(id, seen));
            if !(moment.fits(id, seen) || self.was_once(returned, id, seen)) {
                verdict.half.push(line());
            }
            if !moment.fits(id, seen) {
                verdict.undone.push(line());
            }
        }
        verdict
    }

    /// Whether it is absent, or whole as at a time before, or marked and has had content.
    fn was_once(&self, returned: usize, id: &str, seen: &Seen) -> bool {
        let mut layers = self.worlds[..=returned].iter().filter_map(|world| world.get(id));
        match seen {
            Seen::Absent => true,
            Seen::Broken(_) => false,
            Seen::Marked => layers.any(|layer| layer.has_content || layer.is(seen)),
            Seen::Whole(_) => layers.any(|layer| layer.is(seen)),
        }
    }
}

/// What the power cut falls into: what the calls that returned have left, and what the one under way makes of it.
struct Moment<'a> {
    before: &'a World,
    step: Option<Step>,
    after: Option<&'a World>,
}

impl Moment<'_> {
    /// Whether a layer is as before the call under way, or as after it, or as that call may leave it when it is cut off.
    fn fits(&self, id: &str, seen: &Seen) -> bool {
        let is = |world: &World| match (world.get(id), seen) {
            (None, Seen::Absent) => true,
            (Some(layer), seen) => layer.is(seen),
            _ => false,
        };
        is(self.before)
            || self.after.is_some_and(is)
            || match self.step {
                Some(Apply(own, _)) if own == id && self.before[own].has_content => *seen == Seen::Marked,
                // Nothing is lost: its content is unpacked again from the start.
                Some(Apply(own, _)) if own == id => *seen == Seen::Absent,
                Some(Write(own, path, _)) if own == id => self.is_but_for(own, path, seen),
                _ => false,
            }
    }

    /// Whether a layer is as before but for one file, which a program was writing.
    fn is_but_for(&self, id: &str, path: &str, seen: &Seen) -> bool {
        let others = |view: &View| {
            let mut view = view.clone();
            view.remove(path);
            view
        };
        matches!(seen, Seen::Whole(view) if others(view) == others(&self.before[id].view))
    }

    /// A layer in words; of one that is there, what is other than before the call under way.
    fn difference(&self, id: &str, seen: &Seen) -> String {
        let Seen::Whole(view) = seen else { return format!("is {seen:?}") };
        let Some(layer) = self.before.get(id) else {
            return format!("is there, with {:?}", view.keys().collect::<Vec<_>>());
        };
        let lacks = |a: &View, b: &View| -> Vec<String> {
            b.iter()
                .filter(|(path, what)| a.get(*path) != Some(what))
                .map(|(path, what)| format!("{path}: {what}"))
                .collect()
        };
        format!("has {:?} in place of {:?}", lacks(&layer.view, view), lacks(view, &layer.view))
    }
}

fn shown(step: Step) -> String {
    match step {
        Apply(id, _) => format!("Apply({id:?})"),
        step => format!("{step:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: &[Step] = &[
        CreateRw("a", None),
        Apply("a", &[Dir("d"), File("d/f", "1"), File("g", "2")]),
        Write("a", "h", "3"),
        Apply("a", &[Opaque("d"), Hides("g")]),
        Remove("a"),
    ];

    fn whole(world: &World) -> Seen {
        world.get("a").map_or(Seen::Absent, |layer| Seen::Whole(layer.view.clone()))
    }

    /// Whether a layer that is found so while the next call is under way is half, and whether something is undone.
    fn judged(returned: usize, seen: Seen) -> (bool, bool) {
        let verdict = Model::new(STEPS).judge(returned, true, &BTreeMap::from([("a", seen)]));
        (!verdict.half.is_empty(), !verdict.undone.is_empty())
    }

    #[test]
    fn what_the_calls_leave_is_right_before_and_after_and_at_no_other_time() {
        let model = Model::new(STEPS);
        assert_eq!(model.worlds[4]["a"].view.keys().collect::<Vec<_>>(), [".", "d", "h"]);
        for (time, seen) in model.worlds.iter().map(whole).enumerate() {
            let is_absent = seen == Seen::Absent;
            for returned in 0..=STEPS.len() {
                let (half, undone) = judged(returned, seen.clone());
                // It is absent at both ends, and where its first unpack is cut off.
                let fits = time == returned || time == returned + 1 || is_absent && [0, 1, 4, 5].contains(&returned);
                assert_eq!(undone, !fits, "{time} seen at {returned}");
                assert_eq!(half, !is_absent && time > returned + 1, "{time} seen at {returned}");
                let between = model.judge(returned, false, &BTreeMap::from([("a", seen.clone())]));
                let fits = time == returned || is_absent && [0, 5].contains(&returned);
                assert_eq!(between.undone.is_empty(), fits, "{time} seen right after {returned}");
            }
        }
    }

    #[test]
    fn half_layers_and_wrong_marks_are_found() {
        let model = Model::new(STEPS);
        let mut half = model.worlds[2]["a"].view.clone();
        half.remove("g");
        for returned in 0..=STEPS.len() {
            assert_eq!(judged(returned, Seen::Whole(half.clone())), (true, true), "{returned}");
            assert_eq!(judged(returned, Seen::Broken("x".to_owned())), (true, true), "{returned}");
            // The layer has content from the second call on; the fourth unpacks into it.
            let marked = judged(returned, Seen::Marked);
            assert_eq!(marked, (returned < 2, returned != 3), "{returned}");
        }
    }

    #[test]
    fn a_file_that_is_being_written_may_be_anything_and_no_other() {
        let with = |path: &str| {
            let mut view = Model::new(STEPS).worlds[2]["a"].view.clone();
            view.insert(path.to_owned(), file(0o644, (0, 0), TIME, b""));
            Seen::Whole(view)
        };
        assert_eq!(judged(2, with("h")), (false, false));
        assert_eq!(judged(2, with("g")), (true, true));
        assert_eq!(judged(3, with("h")), (true, true), "its fsync has returned");
    }

    #[test]
    fn what_was_seen_survives_as_text() {
        let worlds = Model::new(SCENARIO).worlds;
        let seen = [
            Seen::Absent,
            Seen::Whole(worlds[2]["bottom"].view.clone()),
            Seen::Whole(View::new()),
            Seen::Marked,
            Seen::Broken("why not".to_owned()),
        ];
        let text: String = seen.iter().map(Seen::to_text).collect();
        let mut rest = text.as_str();
        assert_eq!(seen, [(); 5].map(|()| Seen::from_text(&mut rest)));
        assert_eq!(rest, "");
    }
}
