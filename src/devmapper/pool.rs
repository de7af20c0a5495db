//! What the kernel says about a thin pool: its status line and its table, from text.

use crate::error::{Error, Kind, Result};
use std::fmt;

/// Used and total blocks of one of the pool's two devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks {
    pub used: u64,
    pub total: u64,
}

impl Blocks {
    pub(super) fn free(self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    /// The least number of free blocks at which layers may still be made.
    pub(super) fn least(self, percent: u8) -> u64 {
        let share = u128::from(self.total) * u128::from(percent) / 100;
        u64::try_from(share).unwrap_or(u64::MAX).max(1)
    }
}

/// Whether a pool can do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Reads and writes.
    Good,
    /// No data blocks left: writes wait or fail.
    OutOfDataSpace,
    /// Metadata cannot be changed.
    ReadOnly,
    /// Metadata cannot be trusted before `thin_check` has seen it.
    NeedsCheck,
    /// Nothing works.
    Failed,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Health::Good => "rw",
            Health::OutOfDataSpace => "out_of_data_space",
            Health::ReadOnly => "ro",
            Health::NeedsCheck => "needs_check",
            Health::Failed => "Fail",
        })
    }
}

impl Health {
    pub(super) fn advice(self) -> &'static str {
        match self {
            Health::Good => "",
            Health::OutOfDataSpace => "add data space to the pool (lvextend) or delete layers",
            Health::ReadOnly => "see the kernel log for why the pool became read-only; metadata may be full",
            Health::NeedsCheck => "deactivate the pool and run thin_check and, if it complains, thin_repair on its metadata",
            Health::Failed => "see the kernel log; deactivate the pool and run thin_check on its metadata",
        }
    }

    /// An error if no layer can be made or deleted in this state.
    pub(super) fn writable(self, pool: &str) -> Result<()> {
        if self == Health::Good {
            return Ok(());
        }
        Err(self.explain(Error::new(Kind::Unsupported, "its metadata cannot be changed"), pool))
    }

    /// Says the pool's state in an error that it may have caused.
    pub(super) fn explain(self, error: Error, pool: &str) -> Error {
        if self == Health::Good {
            return error;
        }
        let kind = if self == Health::OutOfDataSpace { Kind::NoSpace } else { error.kind() };
        error.context(format!("thin pool '{pool}' is in state {self}")).hint(self.advice()).with_kind(kind)
    }
}

/// A thin pool's status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// The id that counts transactions.
    pub transaction: u64,
    pub metadata: Blocks,
    pub data: Blocks,
    pub health: Health,
}

impl Status {
    /// Parses `<transaction> <used>/<total metadata> <used>/<total data> <held root> <mode> …`
    /// (`Documentation/admin-guide/device-mapper/thin-provisioning.rst`), or `Fail`.
    pub(super) fn parse(text: &[u8]) -> Result<Status> {
        let unclear = || {
            let shown = String::from_utf8_lossy(text).escape_debug().to_string();
            Error::new(Kind::Corrupt, format!("thin pool status '{shown}' cannot be understood"))
        };
        let words: Vec<&[u8]> = text.split(|&b| b == b' ').filter(|word| !word.is_empty()).collect();
        if let [b"Fail" | b"Error"] = words[..] {
            let none = Blocks::default();
            return Ok(Status { transaction: 0, metadata: none, data: none, health: Health::Failed });
        }
        let [transaction, metadata, data, _held_root, mode, rest @ ..] = words.as_slice() else { return Err(unclear()) };
        let health = match *mode {
            _ if rest.contains(&&b"needs_check"[..]) => Health::NeedsCheck,
            b"rw" => Health::Good,
            b"ro" => Health::ReadOnly,
            b"out_of_data_space" => Health::OutOfDataSpace,
            _ => return Err(unclear()),
        };
        Ok(Status {
            transaction: number(transaction).ok_or_else(unclear)?,
            metadata: blocks(metadata).ok_or_else(unclear)?,
            data: blocks(data).ok_or_else(unclear)?,
            health,
        })
    }
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn blocks(word: &[u8]) -> Option<Blocks> {
    let slash = word.iter().position(|&b| b == b'/')?;
    Some(Blocks { used: number(&word[..slash])?, total: number(&word[slash + 1..])? })
}

/// The two devices in a thin pool's table `<metadata> <data> <block size> <low water> …`, in the kernel's form `major:minor`.
pub(super) fn devices(table: &str) -> Option<(&str, &str)> {
    let mut words = table.split_ascii_whitespace();
    Some((words.next()?, words.next()?))
}

/// The mapped sectors in a thin device's status `<mapped> <highest>`.
pub(super) fn mapped_sectors(status: &str) -> Option<u64> {
    status.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read() {
        let line = b"8 31/1024 1500/16384 - rw no_discard_passdown queue_if_no_space - 1024 ";
        let status = Status::parse(line).unwrap();
        assert_eq!(status.transaction, 8);
        assert_eq!(status.metadata, Blocks { used: 31, total: 1024 });
        assert_eq!(status.data, Blocks { used: 1500, total: 16384 });
        assert_eq!(status.health, Health::Good);
    }

    #[test]
    fn illness_is_recognised() {
        for (line, health) in [
            ("1 2/3 4/5 - ro discard_passdown queue_if_no_space - 16", Health::ReadOnly),
            ("1 2/3 4/5 - out_of_data_space discard_passdown error_if_no_space - 16", Health::OutOfDataSpace),
            ("1 2/3 4/5 - ro discard_passdown queue_if_no_space needs_check 16", Health::NeedsCheck),
            ("Fail", Health::Failed),
            ("Error", Health::Failed),
        ] {
            let found = Status::parse(line.as_bytes()).unwrap().health;
            assert_eq!(found, health, "{line}");
            assert!(found.writable("p").unwrap_err().to_string().contains(&health.to_string()), "{line}");
        }
        for line in ["", "1 2/3 4/5 -", "x 2/3 4/5 - rw", "1 2 4/5 - rw", "1 2/3 4/-5 - rw", "1 2/3 4/5 - odd", "\u{ff}"] {
            assert!(Status::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn the_reserve_is_one_block_at_least() {
        assert_eq!(Blocks { used: 0, total: 1000 }.least(10), 100);
        assert_eq!(Blocks { used: 0, total: 5 }.least(10), 1);
        assert_eq!(Blocks { used: 0, total: u64::MAX }.least(99), u64::MAX / 100 * 99 + 14);
        assert_eq!(Blocks { used: 9, total: 5 }.free(), 0);
    }

    #[test]
    fn tables_are_read() {
        assert_eq!(devices("7:1 7:0 128 1024 1 error_if_no_space"), Some(("7:1", "7:0")));
        assert_eq!(mapped_sectors("2048 4095"), Some(2048));
        assert_eq!((devices("7:1"), mapped_sectors("-")), (None, None));
    }
}
