//! Which parts of a file with holes are worth writing. Decided by the content and not by where the filesystem has its holes,
//! so that the same file is the same archive on every filesystem.

use crate::error::Result;
use crate::sys::fs::Stat;
use crate::sys::reading;
use std::os::fd::OwnedFd;

/// Runs of zeros are looked for in pieces of this size: the smallest block of a filesystem that has holes worth telling.
const PIECE: u64 = 4096;
/// Parts of one file; with more, short runs of zeros are written out. Our own reader takes 65,536.
const MOST: usize = 32_768;
/// Bytes read at a time.
const STEP: u64 = 256 << 10;

/// Offset and length of every part that is not zeros, and behind the last a part without length if the file ends with zeros.
/// `None`: the file has no holes, or nothing but data in them.
pub(super) fn map(file: &OwnedFd, stat: &Stat) -> Result<Option<Vec<(u64, u64)>>> {
    if stat.allocated >= stat.size || stat.size <= PIECE {
        return Ok(None);
    }
    let mut found = Parts::default();
    let mut buffer = vec![0; STEP as usize];
    let mut at = 0;
    while let Some((start, end)) = reading::next_data(file, at)?.filter(|(start, _)| *start < stat.size) {
        // The filesystem's own pieces may be smaller or larger.
        let (start, end) = (start / PIECE * PIECE, end.min(stat.size));
        reading::seek(file, start)?;
        at = start;
        while at < end {
            let want = usize::try_from((stat.size - at).min(STEP)).unwrap_or(0);
            let got = reading::fill(file, &mut buffer[..want])?;
            for (number, piece) in buffer[..got].chunks(PIECE as usize).enumerate() {
                if piece.iter().any(|byte| *byte != 0) {
                    found.add(at + number as u64 * PIECE, piece.len() as u64);
                }
            }
            at += got as u64;
            if got < want {
                return Ok(None); // it became shorter, which whoever reads it next finds out
            }
        }
    }
    reading::seek(file, 0)?;
    let mut parts = found.parts;
    let covered: u64 = parts.iter().map(|(_, length)| length).sum();
    if covered == stat.size {
        return Ok(None);
    }
    if parts.last().is_none_or(|(start, length)| start + length < stat.size) {
        parts.push((stat.size, 0));
    }
    Ok(Some(parts))
}

struct Parts {
    parts: Vec<(u64, u64)>,
    /// Runs of zeros shorter than this are no holes.
    least: u64,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts { parts: Vec::new(), least: PIECE }
    }
}

impl Parts {
    fn add(&mut self, start: u64, length: u64) {
        self.join(start, length);
        while self.parts.len() > MOST {
            self.least *= 2;
            let all = std::mem::take(&mut self.parts);
            all.into_iter().for_each(|(start, length)| self.join(start, length));
        }
    }

    fn join(&mut self, start: u64, length: u64) {
        match self.parts.last_mut() {
            Some((first, so_far)) if start < *first + *so_far + self.least => *so_far = start + length - *first,
            _ => self.parts.push((start, length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_touch_are_one() {
        let mut parts = Parts::default();
        for at in [0, 4096, 12288, 1 << 30] {
            parts.add(at, 4096);
        }
        assert_eq!(parts.parts, [(0, 8192), (12288, 4096), (1 << 30, 4096)]);
    }

    #[test]
    fn their_number_is_bounded_and_nothing_is_lost() {
        let mut parts = Parts::default();
        let every_other = (0..3 * MOST as u64).map(|n| n * 2 * PIECE);
        every_other.clone().for_each(|at| parts.add(at, PIECE));
        assert!(parts.parts.len() <= MOST && parts.parts.is_sorted());
        for at in every_other {
            assert!(parts.parts.iter().any(|(start, length)| *start <= at && at + PIECE <= start + length), "{at}");
        }
    }
}
