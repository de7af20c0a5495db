//! Thirty-two threads do everything to a few layers at random. What each was told, and what is there in the end, is what it would
//! have been one after another: each history is searched for such an order. Needs root and overlay.
//!
//! `GRAPHDRIVER_ROUNDS=1000` makes it longer, `GRAPHDRIVER_SEED=7` another one.

mod common;
mod histories {
    pub mod model;
    pub mod search;
}

use common::Tar;
use common::overlay::{QUICK, World, mounts_of};
use common::random::Random;
use common::subject::{Outcome, Subject};
use histories::model::{Answer, Call, MEMBERS, Member, State};
use histories::search::{Event, ends};
use nix::errno::Errno;
use std::collections::HashSet;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

#[test]
fn another_process_answers() {
    common::process::another_process_answers();
}

const THREADS: u64 = 32;
const FAMILIES: usize = 8;
/// Of each thread in a round, between which all wait for each other.
const CALLS: usize = 12;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn name(family: usize, member: Member) -> String {
    format!("{}-{}", ["base", "left", "right"][member], family)
}

/// An archive that comes in pieces, so that others get in between.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_micros(200));
        let len = buf.len().min(700);
        self.0.read(&mut buf[..len])
    }
}

fn answer(outcome: Outcome<()>) -> Answer {
    told(outcome, |()| Answer::Done)
}

fn told<T>(outcome: Outcome<T>, answer: impl FnOnce(T) -> Answer) -> Answer {
    outcome.map_or_else(|failure| Answer::Refused(failure.errno), answer)
}

/// The numbers of the files in an archive of a layer.
fn files(archive: &[u8]) -> Answer {
    let mut archive = tar::Archive::new(archive);
    let paths = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
    let mut files: Vec<u32> = paths.filter_map(|path| path.to_str().unwrap().parse().ok()).collect();
    files.sort_unstable();
    Answer::Files(files)
}

fn make(subject: &dyn Subject, family: usize, call: &Call) -> Answer {
    let id = |member: &Member| name(family, *member);
    match call {
        Call::CreateBase => answer(subject.create_ro(&name(family, 0), None)),
        Call::Create { member, upon_base } => {
            let base = name(family, 0);
            answer(subject.create_rw(&id(member), upon_base.then_some(base.as_str())))
        }
        Call::Fill { member, file } => {
            let archive = Tar::new().file(&file.to_string(), "content").done();
            told(subject.apply_from(&id(member), &mut Slow(&archive)), |_| Answer::Done)
        }
        Call::Break { member } => {
            let archive = Tar::new().file("a", "first").file("b", "second").done();
            told(subject.apply_from(&id(member), &mut Slow(&archive[..1400])), |_| Answer::Done)
        }
        Call::Mount { member } => told(subject.mount(&id(member), &[]), |_| Answer::Done),
        Call::Umount { member } => answer(subject.umount(&id(member))),
        Call::Remove { member } => answer(subject.remove(&id(member))),
        Call::Exists { member } => Answer::Exists(subject.exists(&id(member))),
        Call::Lowers { member } => {
            told(subject.metadata(&id(member)), |items| Answer::Lowers(items.iter().any(|(key, _)| key == "LowerDir")))
        }
        Call::Usage { member } => told(subject.usage(&id(member)), |_| Answer::Done),
        Call::Export { member } => told(subject.diff(&id(member), None), |bytes| files(&bytes)),
    }
}

fn some_call(random: &mut Random, number: u32) -> Call {
    let member = random.index(MEMBERS);
    match random.index(24) {
        0..4 if member == 0 => Call::CreateBase,
        0..4 => Call::Create { member, upon_base: random.index(4) > 0 },
        4..8 => Call::Fill { member, file: number },
        8 => Call::Break { member },
        9..12 => Call::Mount { member },
        12..14 => Call::Umount { member },
        14..17 => Call::Remove { member },
        17..19 => Call::Exists { member },
        19..21 => Call::Lowers { member },
        21 => Call::Usage { member },
        _ => Call::Export { member },
    }
}

/// Of all families: what was done since the last round, and what may be there since then.
struct Histories {
    clock: AtomicU64,
    numbers: AtomicU32,
    events: [Mutex<Vec<Event>>; FAMILIES],
    states: [HashSet<State>; FAMILIES],
}

impl Histories {
    fn new() -> Histories {
        Histories {
            clock: AtomicU64::new(0),
            numbers: AtomicU32::new(0),
            events: std::array::from_fn(|_| Mutex::default()),
            states: std::array::from_fn(|_| HashSet::from([State::default()])),
        }
    }

    fn call(&self, subject: &dyn Subject, random: &mut Random) {
        let family = random.index(FAMILIES);
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        let call = some_call(random, number);
        let began = self.clock.fetch_add(1, Ordering::SeqCst);
        let answer = make(subject, family, &call);
        let ended = self.clock.fetch_add(1, Ordering::SeqCst);
        self.events[family].lock().unwrap().push(Event { number, began, ended, call, answer });
    }

    /// All threads at once, and one beside them that looks at everything and mends what it can.
    fn round(&self, w: &World, seed: u64) {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    w.subject.check(true).unwrap();
                    w.subject.list().unwrap();
                    w.subject.status().unwrap();
                }
            });
            let threads: Vec<_> = (1..=THREADS)
                .map(|thread| {
                    let mut random = Random((seed << 8) + thread);
                    scope.spawn(move || (0..CALLS).for_each(|_| self.call(&w.subject, &mut random)))
                })
                .collect();
            let ended: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            is_over.store(true, Ordering::SeqCst);
            assert!(ended.iter().all(Result::is_ok));
        });
    }

    /// Another driver goes on. It is told of all layers, so that it replaces none.
    fn restart(&mut self, w: &World) {
        for (family, states) in self.states.iter_mut().enumerate() {
            (0..MEMBERS).for_each(|member| w.subject.umount(&name(family, member)).unwrap());
            *states = states.iter().map(State::unmounted).collect();
        }
        w.subject.cleanup().unwrap();
        w.subject.init("overlay", &w.store.root(), QUICK).unwrap();
        w.subject.list().unwrap();
    }

    /// Finds an order of the calls that leads to what is there.
    fn judge(&mut self, w: &World, seed: u64) -> usize {
        let mut judged = 0;
        for family in 0..FAMILIES {
            let all = std::mem::take(&mut *self.events[family].lock().unwrap());
            let mut events: Vec<Event> = all.iter().filter(|event| !is_being_filled(event, &all)).cloned().collect();
            events.sort_by_key(|event| event.began);
            judged += events.len();
            let calls = || events.iter().map(|event| format!("{event:?}")).collect::<Vec<_>>().join("\n");
            let mut states = ends(&self.states[family], &events).unwrap_or_else(|e| {
                panic!("seed {seed}: no order of these calls explains their answers: {e}\nof:\n{}", calls())
            });
            let possible = states.clone();
            states.retain(|state| (0..MEMBERS).all(|member| is_there(w, state, family, member)));
            assert!(!states.is_empty(), "seed {seed}: what is there is none of {possible:?}, after:\n{}", calls());
            self.states[family] = states;
        }
        judged
    }
}

/// Whether somebody was told that a layer is being filled: it is not there until its first unpacking is through, and what stands
/// upon one is not mounted meanwhile.
fn is_being_filled(event: &Event, all: &[Event]) -> bool {
    let filled = match (&event.call, &event.answer) {
        (Call::Exists { member }, Answer::Exists(false)) => *member,
        (Call::Mount { member: 1.. }, Answer::Refused(errno)) if *errno == Errno::EUCLEAN as i32 => 0,
        _ => return false,
    };
    let fills = |call: &Call| matches!(call, Call::Fill { member, .. } | Call::Break { member } if *member == filled);
    all.iter().any(|other| fills(&other.call) && other.began < event.ended && event.began < other.ended)
}

fn is_there(w: &World, state: &State, family: usize, member: Member) -> bool {
    let id = name(family, member);
    let layer = state.0[member].as_ref();
    w.layer(&id).exists() == layer.is_some()
        && (mounts_of(&w.home(), &id) > 0) == layer.is_some_and(|layer| layer.is_mounted)
}

#[test]
fn root_what_many_threads_are_told_has_an_order() {
    let w = World::new();
    w.store.leaves_damage(); // layers that broke, and those whose base is gone
    let seed = setting("GRAPHDRIVER_SEED", 1);
    let rounds = setting("GRAPHDRIVER_ROUNDS", 30);
    let mut histories = Histories::new();
    let mut judged = 0;
    for round in 1..=rounds {
        histories.round(&w, seed.wrapping_mul(1_000_003).wrapping_add(round));
        judged += histories.judge(&w, seed);
        if round % 10 == 0 {
            histories.restart(&w);
        }
    }
    println!("{judged} calls of {THREADS} threads in {rounds} rounds: 0 violations");
}

/// The search finds what it is for.
#[test]
fn an_answer_that_no_order_explains_is_found() {
    let event = |number, began, ended, call, answer| Event { number, began, ended, call, answer };
    let start = HashSet::from([State::default()]);
    let created = || event(1, 0, 3, Call::CreateBase, Answer::Done);
    let again = |began, ended, answer| event(2, began, ended, Call::CreateBase, answer);
    let exists = |began, ended, answer| event(3, began, ended, Call::Exists { member: 0 }, Answer::Exists(answer));
    let eexist = || Answer::Refused(Errno::EEXIST as i32);
    assert_eq!(ends(&start, &[created(), again(1, 2, eexist()), exists(4, 5, true)]).unwrap().len(), 1);
    assert!(ends(&start, &[created(), again(1, 2, Answer::Done)]).is_err(), "made twice");
    assert!(ends(&start, &[created(), exists(4, 5, false)]).is_err(), "lost");
    assert_eq!(ends(&start, &[created(), exists(1, 2, false)]).unwrap().len(), 1, "asked while it was made");
    assert_eq!(ends(&start, &[created(), exists(1, 2, true)]).unwrap().len(), 1);
    let filled = event(4, 4, 7, Call::Fill { member: 0, file: 4 }, Answer::Done);
    let export =
        |began, ended, files: &[u32]| event(5, began, ended, Call::Export { member: 0 }, Answer::Files(files.into()));
    assert_eq!(ends(&start, &[created(), filled.clone(), export(5, 6, &[]), export(8, 9, &[4])]).unwrap().len(), 1);
    assert!(ends(&start, &[created(), filled, export(5, 6, &[4]), export(8, 9, &[])]).is_err(), "content comes and goes");
}
