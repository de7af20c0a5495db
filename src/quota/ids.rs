//! Which project ids are free: drawn one after the other, each checked with the kernel, which alone knows everyone's.
//!
//! Nothing is listed at start and nothing is kept on disk. Ids stay dense, because quota files take space by the range of ids
//! and XFS never gives a record back: freed ids are drawn again first.

use crate::error::{Error, Kind, Result};
use std::collections::VecDeque;

/// The largest id: `(projid_t)-1` is "no id".
const LAST: u32 = u32::MAX - 1;
/// Freed ids looked at for each one drawn. One whose last file is still held open by someone has to wait.
const FREED_TRIED: usize = 4;

/// Where to look for the next free id.
#[derive(Debug)]
pub(super) struct Ids {
    first: u32,
    next: u32,
    freed: VecDeque<u32>,
}

impl Ids {
    /// Ids above `home`, the project of the directory that holds the layers, as the C module counts them.
    pub(super) fn above(home: u32) -> Ids {
        let first = if home < LAST { home + 1 } else { 1 };
        Ids { first, next: first, freed: VecDeque::new() }
    }

    /// An id that is not `used`, and not drawn again before it is given back.
    pub(super) fn draw(&mut self, mut used: impl FnMut(u32) -> Result<bool>) -> Result<u32> {
        for _ in 0..self.freed.len().min(FREED_TRIED) {
            let Some(id) = self.freed.pop_front() else { break };
            if !used(id)? {
                return Ok(id);
            }
            self.freed.push_back(id);
        }
        let id = match leap(self.next, &mut used)? {
            Some(id) => id,
            // At the end: from the start again, where gaps may have come about.
            None => leap(self.first, &mut used)?
                .ok_or_else(|| Error::new(Kind::Limit, "every project id of the filesystem is in use"))?,
        };
        self.next = id.saturating_add(1);
        Ok(id)
    }

    /// Gives an id back; it may still be used for a while.
    pub(super) fn give_back(&mut self, id: u32) {
        if !self.freed.contains(&id) {
            self.freed.push_back(id);
        }
    }

    /// Goes on some ids further: for two processes that draw the same ones.
    pub(super) fn skip(&mut self, ids: u32) {
        self.next = self.next.saturating_add(ids);
    }
}

/// A free id not below `from`, in a number of questions that grows with the logarithm of the ids in use: strides that double
/// until they hit a free one, then halving back to one that follows a used one. `None` if the strides end in used ones.
fn leap(from: u32, used: &mut impl FnMut(u32) -> Result<bool>) -> Result<Option<u32>> {
    if from > LAST {
        return Ok(None);
    }
    if !used(from)? {
        return Ok(Some(from));
    }
    let (mut taken, mut stride) = (from, 1_u32);
    let mut free = loop {
        if taken == LAST {
            return Ok(None);
        }
        let id = taken.saturating_add(stride).min(LAST);
        if !used(id)? {
            break id;
        }
        (taken, stride) = (id, stride.saturating_mul(2));
    };
    while free - taken > 1 {
        let middle = taken + (free - taken) / 2;
        if used(middle)? {
            taken = middle;
        } else {
            free = middle;
        }
    }
    Ok(Some(free))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A filesystem's ids, with a count of the questions asked about them.
    struct Table(BTreeSet<u32>, usize);

    impl Table {
        fn draw(&mut self, ids: &mut Ids) -> u32 {
            let Table(used, asked) = self;
            let id = ids
                .draw(|id| {
                    *asked += 1;
                    Ok(used.contains(&id))
                })
                .unwrap();
            assert!(id != 0 && id != u32::MAX && used.insert(id), "{id} was in use");
            id
        }
    }

    #[test]
    fn ids_are_dense_and_freed_ones_come_first() {
        let (mut table, mut ids) = (Table(BTreeSet::new(), 0), Ids::above(0));
        assert_eq!((0..5).map(|_| table.draw(&mut ids)).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        ids.give_back(2);
        ids.give_back(2);
        assert_eq!(table.draw(&mut ids), 6, "2 is still in use");
        table.0.remove(&2);
        assert_eq!((table.draw(&mut ids), table.draw(&mut ids)), (2, 7));
    }

    #[test]
    fn a_restart_over_ten_thousand_layers_asks_a_few_dozen_times() {
        let (mut table, mut ids) = (Table((1..=10_000).collect(), 0), Ids::above(0));
        assert_eq!(table.draw(&mut ids), 10_001);
        assert!(table.1 < 40, "{} questions", table.1);
        table.1 = 0;
        for _ in 0..1000 {
            table.draw(&mut ids);
        }
        assert_eq!(table.1, 1000);
    }

    #[test]
    fn others_ids_are_never_drawn_however_they_lie() {
        let everything = (1..60_000_u32).filter(|id| !id.is_power_of_two() && id % 7 != 0);
        let (mut table, mut ids) = (Table(everything.collect(), 0), Ids::above(3));
        for _ in 0..20_000 {
            table.draw(&mut ids);
        }
        assert!(!table.0.contains(&0));
    }

    #[test]
    fn the_end_of_the_range_wraps_and_a_full_one_is_an_error() {
        let mut ids = Ids::above(LAST - 2);
        let mut table = Table(BTreeSet::new(), 0);
        assert_eq!((table.draw(&mut ids), table.draw(&mut ids)), (LAST - 1, LAST));
        table.0.remove(&(LAST - 1));
        assert_eq!(table.draw(&mut ids), LAST - 1);
        assert_eq!(ids.draw(|_| Ok(true)).unwrap_err().kind(), Kind::Limit);
        assert_eq!(Ids::above(u32::MAX).draw(|_| Ok(false)).unwrap(), 1);
    }
}
