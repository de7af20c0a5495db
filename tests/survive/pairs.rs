//! Two operations at once: one is held at each of its calls that change something, until the other one is through or waits. What
//! comes of both, and of the store, must be what comes of one after the other.

use super::Extent;
use super::common::Tar;
use super::common::subject::{Failure, Outcome, Rust, Subject};
use super::disk::{Disk, disk};
use super::fault::difference;
use super::ground::{Ground, View, told};
use super::operations::{Operation, PLAIN};
use super::report::Report;
use super::supervisor::{Child, Event, Link};
use serde_json::{Value, json};

/// How many points apart those are that run in the check.
const STEP: usize = 48;

/// One of two operations. It must be possible whatever the other did: an error is an outcome as well.
struct Half {
    name: &'static str,
    act: Act,
    kind: Kind,
}

/// What others hear while one is under way, besides what they hear before or after it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing else.
    Plain,
    /// Initialises or cleans up: turns others away.
    Change,
    /// Unpacks: a layer that is being filled for the first time does not exist until that is done, and is not mounted.
    Fill,
    /// Asks whether a layer exists, and waits for nobody.
    Ask,
    /// Mounts, and waits for nobody who works on an ancestor.
    Show,
}

/// What came of both, and of the store.
#[derive(Clone, Debug, PartialEq)]
struct End {
    outcomes: [i64; 2],
    disk: Disk,
    view: View,
}

/// How the two are run.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// The second after the first, which is this one.
    After(usize),
    /// The first is held at this change.
    Held(usize),
    /// Only the one that is not this one.
    Without(usize),
}

/// Every pair of every meeting.
pub fn each(ground: &Ground, extent: Extent, report: &mut Report) {
    let pairs = MEETINGS.iter().flat_map(|meeting| meeting.pairs().into_iter().map(move |pair| (meeting, pair)));
    for (number, (meeting, (one, other))) in pairs.enumerate() {
        let left_out = extent == Extent::Check && number % ground.step != 0;
        if left_out || !super::is_wanted(&format!("{}: {}, {}", meeting.name, one.name, other.name)) {
            continue;
        }
        let plain = Operation { prepare: meeting.prepare, ..PLAIN };
        let halves = [one, other];
        let run = |order| {
            ground.prepare(&plain);
            let (outcomes, disk, reached) = run(ground, halves, order);
            let mut found = Vec::new();
            let view = ground.view_and_clear(&mut found);
            (End { outcomes, disk, view }, reached, found)
        };
        let mut allowed: Vec<End> = [Order::After(0), Order::After(1)].map(|order| run(order).0).to_vec();
        for (at, half) in halves.iter().enumerate() {
            // The other one may be turned away, and has done nothing then.
            let other = halves[1 - at].kind;
            if half.kind == Kind::Change {
                let mut end = run(Order::Without(1 - at)).0;
                end.outcomes[1 - at] = match other {
                    Kind::Change => libc::EBUSY.into(),
                    Kind::Ask => NO,
                    Kind::Plain | Kind::Fill | Kind::Show => libc::ENOTCONN.into(),
                };
                allowed.push(end);
            }
            // What is being filled is not shown, nor is what stands upon it.
            if half.kind == Kind::Fill && other == Kind::Show {
                let mut end = run(Order::Without(1 - at)).0;
                end.outcomes[1 - at] = libc::EUCLEAN.into();
                allowed.push(end);
            }
            if half.kind == Kind::Fill && other == Kind::Ask {
                let mut end = allowed[at].clone();
                end.outcomes[1 - at] = NO;
                allowed.push(end);
            }
        }
        for at in extent.points(number / ground.step, STEP) {
            let (end, reached, mut found) = run(Order::Held(at));
            if !reached {
                break;
            }
            if !allowed.contains(&end) {
                let orders = allowed.iter().map(|order| order.outcomes).collect::<Vec<_>>();
                let nearest = allowed.iter().find(|order| order.outcomes == end.outcomes).unwrap_or(&allowed[0]);
                let differs = difference(&nearest.disk, &end.disk);
                let shows = difference(&nearest.view, &end.view);
                found.push(format!("came to {:?}, and may to {orders:?}; {differs}; {shows}", end.outcomes));
            }
            report.point(&format!("{}: {} held at change {at}, {}", meeting.name, one.name, other.name), found);
        }
    }
}

/// Runs the two, each on a thread of one process: what came of them, what is on the disk then, and whether the first was held.
fn run(ground: &Ground, halves: [&Half; 2], order: Order) -> ([i64; 2], Disk, bool) {
    let without = if let Order::Without(at) = order { Some(at) } else { None };
    let mut child = Child::start(|link| both(ground, halves, without, link));
    let mut outcomes = [None, None];
    if let Some(at) = without {
        outcomes[at] = Some(0);
    }
    let mut gates = [None, None];
    let (mut held, mut reached, mut changes) = (None, false, 0);
    let wait = if matches!(order, Order::Held(_)) { 10 } else { 60_000 };
    let mut idle = 0;
    while outcomes.contains(&None) {
        let event = child.next(wait);
        idle = if matches!(event, Event::Idle) { idle + 1 } else { 0 };
        assert!(idle * wait < 60_000, "{} and {} wait for each other", halves[0].name, halves[1].name);
        match event {
            Event::Mark(call) => gates[call.who] = Some(call),
            Event::Call(call) => {
                let holds = |at| call.who == 0 && call.changes() && at == changes;
                if matches!(order, Order::Held(at) if holds(at) && !reached) {
                    (held, reached) = (Some(call), true);
                } else {
                    child.go_on(&call);
                }
                changes += usize::from(call.who == 0 && call.changes());
            }
            Event::Told(value) => {
                let who = usize::try_from(value["who"].as_u64().unwrap()).unwrap();
                outcomes[who] = value["outcome"]["errno"].as_i64();
            }
            // The second one waits, for the first or for a thread of its own.
            Event::Idle => {
                if let Some(call) = held.take_if(|_| child.is_still()) {
                    child.go_on(&call);
                }
            }
            Event::Gone { .. } => panic!("{} and {} ended without a word", halves[0].name, halves[1].name),
        }
        let open = |at: usize| match order {
            Order::After(first) => at == first || outcomes[first].is_some(),
            Order::Held(_) => at == 0 || reached || outcomes[0].is_some(),
            Order::Without(_) => true,
        };
        for at in [0, 1] {
            if let Some(call) = gates[at].filter(|_| open(at)) {
                gates[at] = None;
                child.go_on(&call);
            }
        }
        if outcomes[1].is_some() {
            if let Some(call) = held.take() {
                child.go_on(&call);
            }
        }
    }
    child.told(); // what they left to the worker is done
    let disk = disk(ground);
    child.end();
    (outcomes.map(|outcome| outcome.unwrap()), disk, reached)
}

fn both(ground: &Ground, halves: [&Half; 2], without: Option<usize>, link: &Link) {
    let subject = Rust::default();
    ground.init(&subject).unwrap();
    ground.wait_for_the_worker();
    std::thread::scope(|scope| {
        for (who, half) in halves.iter().enumerate().filter(|(who, _)| Some(*who) != without) {
            let subject = &subject;
            scope.spawn(move || {
                link.watch(who);
                let outcome: Value = told((half.act)(subject, ground));
                link.tell(&json!({"who": who, "outcome": outcome}));
            });
        }
    });
    ground.wait_for_the_worker();
    link.tell(&json!(null));
}

type Act = fn(&dyn Subject, &Ground) -> Outcome<()>;

const fn half(name: &'static str, act: Act) -> Half {
    Half { name, act, kind: Kind::Plain }
}

const fn change(name: &'static str, act: Act) -> Half {
    Half { name, act, kind: Kind::Change }
}

/// The outcome of a question whose answer is no.
const NO: i64 = 1;

fn content(name: &str) -> Vec<u8> {
    Tar::new().dir("dir").file(&format!("dir/{name}"), "x").file(name, "y").done()
}

const CREATE_RO: Half = half("create_ro", |s, _| s.create_ro("new", Some("upper")));
const CREATE_RW: Half = half("create_rw", |s, _| s.create_rw("new", Some("upper")));
const APPLY: Half = Half { kind: Kind::Fill, ..half("apply_diff", |s, _| s.apply("new", &content("applied")).map(drop)) };
const MOUNT: Half = Half { kind: Kind::Show, ..half("mount", |s, _| s.mount("new", &[]).map(drop)) };
const UMOUNT: Half = half("umount", |s, _| s.umount("new"));
const RM: Half = half("rm", |s, _| s.remove("new"));
const REPAIR: Half = half("repair", |s, _| s.repair("new", Some("upper")));
const EXISTS: Half = Half {
    kind: Kind::Ask,
    ..half("exists", |s, _| match s.exists("new") {
        true => Ok(()),
        false => Err(Failure { errno: NO as i32, text: String::new() }),
    })
};
const INIT: Half = change("init", |s, ground| ground.init(s));
const CLEANUP: Half = change("clean-up", |s, _| s.cleanup());
const PARENT_APPLY: Half =
    Half { kind: Kind::Fill, ..half("apply_diff of the parent", |s, _| s.apply("upper", &content("below")).map(drop)) };
const PARENT_MOUNT: Half = half("mount of the parent", |s, _| s.mount("upper", &[]).map(drop));
const PARENT_UMOUNT: Half = half("umount of the parent", |s, _| s.umount("upper"));
const PARENT_RM: Half = half("rm of the parent", |s, _| s.remove("upper"));
const PARENT_REPAIR: Half = half("repair of the parent", |s, _| s.repair("upper", Some("image")));
const PARENT_CREATE: Half = half("create_ro of the parent", |s, _| s.create_ro("upper", Some("image")));

/// Operations that meet, with what is there before.
struct Meeting {
    name: &'static str,
    prepare: Act,
    these: &'static [Half],
    with: &'static [Half],
}

const ABSENT: Act = |_, _| Ok(());
const EMPTY: Act = |s, _| s.create_ro("new", Some("upper"));
const MOUNTED: Act = |s, _| {
    s.create_rw("new", Some("upper"))?;
    s.mount("new", &[]).map(drop)
};

const MEETINGS: &[Meeting] = &[
    Meeting {
        name: "no layer",
        prepare: ABSENT,
        these: &[CREATE_RO, CREATE_RW, APPLY, MOUNT, RM, REPAIR, EXISTS],
        with: &[CREATE_RO, CREATE_RW, APPLY, MOUNT, RM, EXISTS],
    },
    Meeting {
        name: "an empty layer",
        prepare: EMPTY,
        these: &[CREATE_RO, CREATE_RW, APPLY, MOUNT, RM, REPAIR, EXISTS],
        with: &[CREATE_RO, APPLY, MOUNT, UMOUNT, RM, REPAIR, EXISTS],
    },
    Meeting {
        name: "a mounted layer",
        prepare: MOUNTED,
        these: &[MOUNT, UMOUNT, RM, APPLY],
        with: &[MOUNT, UMOUNT, RM, APPLY, REPAIR],
    },
    Meeting {
        name: "a parent, and its first child",
        prepare: ABSENT,
        these: &[PARENT_APPLY, PARENT_MOUNT, PARENT_RM, PARENT_REPAIR, PARENT_CREATE],
        with: &[CREATE_RO, CREATE_RW],
    },
    Meeting {
        name: "a parent, and its child",
        prepare: EMPTY,
        these: &[PARENT_APPLY, PARENT_MOUNT, PARENT_UMOUNT, PARENT_RM, PARENT_REPAIR, PARENT_CREATE],
        with: &[APPLY, MOUNT, RM, REPAIR],
    },
    Meeting {
        name: "init and clean-up",
        prepare: EMPTY,
        these: &[INIT, CLEANUP],
        with: &[INIT, CLEANUP, CREATE_RO, APPLY, MOUNT, RM, REPAIR, EXISTS, PARENT_RM],
    },
];

impl Meeting {
    /// Each of these held by each of those, and the other way round.
    fn pairs(&self) -> Vec<(&Half, &Half)> {
        let one_way = self.these.iter().flat_map(|one| self.with.iter().map(move |other| (one, other)));
        let both_ways: Vec<(&Half, &Half)> = one_way.flat_map(|(one, other)| [(one, other), (other, one)]).collect();
        let mut pairs: Vec<(&Half, &Half)> = Vec::new();
        for pair in both_ways {
            if !pairs.iter().any(|known| (known.0.name, known.1.name) == (pair.0.name, pair.1.name)) {
                pairs.push(pair);
            }
        }
        pairs
    }
}
