//! Whether calls that overlapped can have been made one after another (Wing and Gong, "Testing and Verifying Concurrent Objects",
//! 1993, with the memory of what was tried that Lowe added): one that had returned before another began comes first.

use super::model::{Answer, Call, State};
use std::collections::HashSet;

/// A call that was made, between two ticks of a clock that all threads share.
#[derive(Clone, Debug)]
pub struct Event {
    pub number: u32,
    pub began: u64,
    pub ended: u64,
    pub call: Call,
    pub answer: Answer,
}

/// At most so many in a history.
const MOST: usize = 128;

/// The states that some order of the calls leads to, from one of these. If there is no such order: how far the longest gets, in
/// words.
pub fn ends(starts: &HashSet<State>, events: &[Event]) -> Result<HashSet<State>, String> {
    assert!(events.len() <= MOST, "more than can be searched: fewer calls, or more families");
    let all = if events.len() == MOST { u128::MAX } else { (1 << events.len()) - 1 };
    let mut tried: HashSet<(u128, State)> = HashSet::new();
    let mut open: Vec<(u128, State)> = starts.iter().map(|state| (0, state.clone())).collect();
    let mut ends = HashSet::new();
    let mut longest = (0_u128, State::default());
    while let Some((made, state)) = open.pop() {
        if made == all {
            ends.insert(state);
            continue;
        }
        if made.count_ones() >= longest.0.count_ones() {
            longest = (made, state.clone());
        }
        let left = || (0..events.len()).filter(|i| made & (1 << i) == 0);
        let first_end = left().map(|i| events[i].ended).min().unwrap_or(u64::MAX);
        let may_be_next = left().filter(|i| events[*i].began < first_end);
        let after = |i: usize| state.after(events[i].number, &events[i].call, &events[i].answer).map(|next| (i, next));
        let mut steps: Vec<(usize, State)> = may_be_next.filter_map(after).collect();
        // What never changes anything can as well be made now: whatever order there is with it later, there is the same with it here.
        if let Some(at) = steps.iter().position(|(i, _)| events[*i].call.only_asks(&events[*i].answer)) {
            steps = vec![steps.swap_remove(at)];
        }
        for (i, next) in steps {
            let step = (made | (1 << i), next);
            if tried.insert(step.clone()) {
                open.push(step);
            }
        }
    }
    if ends.is_empty() {
        let left = events.iter().enumerate().filter(|(i, _)| longest.0 & (1 << i) == 0);
        let left: Vec<String> = left.map(|(_, event)| format!("{event:?}")).collect();
        return Err(format!("after {} calls: {:?}; left:\n{}", longest.0.count_ones(), longest.1, left.join("\n")));
    }
    Ok(ends)
}
