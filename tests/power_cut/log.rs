//! The log of the kernel's `log-writes` target (`Documentation/admin-guide/device-mapper/log-writes.rst`), and its replay.

use std::fs::File;
use std::os::unix::fs::FileExt;

const MAGIC: u64 = 0x6a_736677_736872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// Four numbers stand before what an entry holds in its own sector.
const HEADER: usize = 32;

/// One request that the filesystem made, or one mark of ours.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it writes, in bytes from the start of the device.
    pub offset: u64,
    pub what: What<'a>,
    /// With this entry, all before it is on the disk for good.
    pub is_durable: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// Nothing, if it is a flush and no more.
    Write(&'a [u8]),
    /// As many bytes are forgotten.
    Discard(u64),
    Mark(&'a str),
}

/// Takes the bytes of a log apart.
pub fn parse(log: &[u8]) -> Result<Vec<Entry<'_>>, String> {
    if number(log, 0)? != MAGIC {
        return Err("not a log of dm-log-writes".to_owned());
    }
    let entries = number(log, 16)?;
    let sector = u64::from(u32::try_from(number(log, 24)? & 0xffff_ffff).unwrap());
    if !sector.is_power_of_two() || !(512..=65536).contains(&sector) {
        return Err(format!("a sector size of {sector}"));
    }
    let mut at = sector;
    (0..entries).map(|_| entry(log, sector, &mut at)).collect()
}

/// The entry at `at`, which is moved behind it.
fn entry<'a>(log: &'a [u8], sector: u64, at: &mut u64) -> Result<Entry<'a>, String> {
    let start = usize::try_from(*at).map_err(|_| cut_off(*at))?;
    let [place, count, flags, inline] =
        [number(log, start)?, number(log, start + 8)?, number(log, start + 16)?, number(log, start + 24)?];
    let bytes = |sectors: u64| sectors.checked_mul(sector).ok_or_else(|| cut_off(*at));
    let (offset, length) = (bytes(place)?, bytes(count)?);
    let next = *at + sector;
    let what = if flags & MARK != 0 {
        let text = range(log, *at + HEADER as u64, inline.min(sector - HEADER as u64))?;
        What::Mark(std::str::from_utf8(text).map_err(|_| format!("a mark at {start} that is not text"))?)
    } else if flags & DISCARD != 0 {
        What::Discard(length)
    } else {
        What::Write(range(log, next, length)?)
    };
    *at = next + if let What::Write(data) = what { data.len() as u64 } else { 0 };
    Ok(Entry { offset, what, is_durable: flags & (FLUSH | FUA) != 0 })
}

fn cut_off(at: u64) -> String {
    format!("the log is cut off at {at}")
}

fn range(log: &[u8], start: u64, length: u64) -> Result<&[u8], String> {
    let bounds = start.checked_add(length).and_then(|end| Some((usize::try_from(start).ok()?, usize::try_from(end).ok()?)));
    bounds.and_then(|(start, end)| log.get(start..end)).ok_or_else(|| cut_off(start))
}

fn number(log: &[u8], at: usize) -> Result<u64, String> {
    let bytes = range(log, at as u64, 8)?;
    Ok(u64::from_le_bytes(bytes.try_into().unwrap()))
}

impl Entry<'_> {
    /// Does to an image what the entry did to the device; false if that is nothing.
    pub fn replay(&self, image: &File) -> bool {
        match self.what {
            What::Write(data) => image.write_all_at(data, self.offset).unwrap(),
            What::Discard(length) => {
                use nix::fcntl::{FallocateFlags, fallocate};
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(image, flags, self.offset.try_into().unwrap(), length.try_into().unwrap()).unwrap();
            }
            What::Mark(_) => {}
        }
        matches!(self.what, What::Write(data) if !data.is_empty()) || matches!(self.what, What::Discard(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(numbers: &[u64], text: &str) -> Vec<u8> {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.extend(text.as_bytes());
        bytes.resize(512, 0);
        bytes
    }

    /// A write of two sectors, a flush, a mark, a discard, a write with FUA.
    fn example() -> Vec<u8> {
        [
            sector(&[MAGIC, 1, 5, 512], ""),
            sector(&[8, 2, 16, 0], ""),
            vec![b'a'; 1024],
            sector(&[0, 0, FLUSH, 0], ""),
            sector(&[0, 0, MARK, 6], "call-7"),
            sector(&[4, 3, DISCARD, 0], ""),
            sector(&[1, 1, FUA, 0], ""),
            vec![b'b'; 512],
        ]
        .concat()
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        let entry = |offset, what, is_durable| Entry { offset, what, is_durable };
        let expected = [
            entry(8 * 512, What::Write(&[b'a'; 1024]), false),
            entry(0, What::Write(&[]), true),
            entry(0, What::Mark("call-7"), false),
            entry(4 * 512, What::Discard(3 * 512), false),
            entry(512, What::Write(&[b'b'; 512]), true),
        ];
        assert_eq!(parse(&example()).unwrap(), expected);
    }

    #[test]
    fn a_log_that_is_cut_off_or_damaged_is_an_error() {
        let log = example();
        for length in 0..log.len() {
            // Behind the text of the last mark nothing of its sector is needed, but all that follows is.
            assert!(parse(&log[..length]).is_err(), "{length}");
        }
        for at in [0, 24, 26, 512 + 8, 512 + 15] {
            let mut damaged = log.clone();
            damaged[at] ^= 0x55;
            assert!(parse(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_replayed_is_what_was_written() {
        let path = std::env::temp_dir().join(format!("power-cut-replay-{}", std::process::id()));
        let image = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        image.write_all_at(&[b'x'; 10 * 512], 0).unwrap();
        let log = example();
        let changed: Vec<bool> = parse(&log).unwrap().iter().map(|entry| entry.replay(&image)).collect();
        assert_eq!(changed, [true, false, false, true, true]);
        let mut bytes = vec![0; 10 * 512];
        image.read_exact_at(&mut bytes, 0).unwrap();
        let expected = [(b'x', 1), (b'b', 1), (b'x', 2), (0, 3), (b'x', 1), (b'a', 2)];
        assert!(bytes == expected.iter().flat_map(|&(byte, n)| vec![byte; n * 512]).collect::<Vec<_>>());
    }
}
