//! Project quota of the kernel (`quotactl(2)`), by the commands that came with XFS: ext4 answers them as well, and unlike the
//! older ones they count bytes in units that every version of the quota file can hold.

use crate::error::{Error, Result};
use crate::sys::fs::check;
use crate::sys::quota_node;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// `PRJQUOTA` of `linux/quota.h`.
const PROJECT_TYPE: i32 = 2;

// `XQM_CMD(n)` of linux/dqblk_xfs.h, wrapped by `QCMD` of linux/quota.h.
const fn command(number: i32) -> i32 {
    ((('X' as i32) << 8) + number) << 8 | PROJECT_TYPE
}
const GET_QUOTA: i32 = command(3);
const SET_LIMITS: i32 = command(4);
const GET_STATE: i32 = command(5);
const GET_NEXT: i32 = command(9);

// linux/dqblk_xfs.h.
const DQUOT_VERSION: i8 = 1; // FS_DQUOT_VERSION
const PROJECT_FLAG: i8 = 2; // FS_PROJ_QUOTA
const LIMIT_FIELDS: u16 = 0b1111; // FS_DQ_ISOFT | FS_DQ_IHARD | FS_DQ_BSOFT | FS_DQ_BHARD
const BLOCK_TIMER: u16 = 1 << 6; // FS_DQ_BTIMER
const INODE_TIMER: u16 = 1 << 7; // FS_DQ_ITIMER
const LONG_TIMERS: u16 = 1 << 15; // FS_DQ_BIGTIME
const ACCOUNTED: u16 = 1 << 4; // FS_QUOTA_PDQ_ACCT
const ENFORCED: u16 = 1 << 5; // FS_QUOTA_PDQ_ENFD

/// What limits and usage are counted in: the "basic block" of `linux/dqblk_xfs.h`, bytes.
const UNIT: u64 = 512;

/// `struct fs_disk_quota` of `linux/dqblk_xfs.h`. Blocks are basic blocks.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Dquot {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    blocks_hard: u64,
    blocks_soft: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    blocks: u64,
    inodes: u64,
    inode_timer: u32,
    block_timer: u32,
    warnings: [u16; 2],
    inode_timer_high: u8,
    block_timer_high: u8,
    more_timers_high: [u8; 2],
    realtime: [u64; 3],
    realtime_timer_and_warnings: [u32; 2],
    padding: [u8; 8],
}

/// `struct fs_quota_stat` of `linux/dqblk_xfs.h`; only the flags are of interest.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct State {
    version: i8,
    flags: u16,
    padding: i8,
    rest: [u64; 9],
}

// The layout on every 64-bit architecture; the kernel writes this much.
const _: () = assert!(size_of::<Dquot>() == 112 && size_of::<State>() == 80);

/// Bytes and inodes: limits, where 0 is none, or what is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Bytes. Those in use include what is still to be written.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// The two limits of a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Never to be exceeded.
    pub hard: Amounts,
    /// To be exceeded for some days only.
    pub soft: Amounts,
}

/// Until when soft limits may be exceeded, seconds since 1970; 0 where they are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grace {
    /// That of bytes.
    pub bytes: u64,
    /// That of inodes.
    pub inodes: u64,
}

/// All that the kernel knows of one project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Its limits.
    pub bounds: Bounds,
    /// When soft ones become as hard.
    pub grace: Grace,
    /// In use.
    pub used: Amounts,
}

/// Whether the filesystem counts, and whether it refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Usage of projects is counted.
    pub accounted: bool,
    /// Limits of projects are enforced.
    pub enforced: bool,
}

/// One command on the filesystem that holds `fd`. `quotactl_fd` is there since Linux 5.14; `node`, a device node of the
/// filesystem, serves older kernels. `ENOSYS` also is the answer where the filesystem has no quota, so both are asked then.
fn quotactl<T>(fd: impl AsFd, node: &Path, command: i32, id: u32, data: &mut T) -> Result<(), Errno> {
    // SAFETY: `data` is a struct that the command reads or writes, of the kernel's layout (asserted above), and outlives the
    // call; the borrow keeps the descriptor open.
    let rc = unsafe { libc::syscall(libc::SYS_quotactl_fd, fd.as_fd().as_raw_fd(), command, id, std::ptr::from_mut(data)) };
    match Errno::result(rc) {
        Ok(_) => Ok(()),
        Err(Errno::ENOSYS) => quota_node::quotactl(fd, node, command, id, data),
        Err(errno) => Err(errno),
    }
}

/// What is switched on; `None` where project quota is off altogether, or the kernel has none.
pub fn switches(fd: impl AsFd, node: &Path) -> Result<Option<Switches>> {
    let mut state = State { version: 1, ..State::default() };
    match quotactl(fd, node, GET_STATE, 0, &mut state) {
        Ok(()) => Ok(Some(Switches { accounted: state.flags & ACCOUNTED != 0, enforced: state.flags & ENFORCED != 0 })),
        // Off, or no quota in this kernel; the same for a filesystem that knows no quota; no block device to ask by.
        Err(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::ESRCH | Errno::ENOTBLK | Errno::ENOENT | Errno::ENODEV) => Ok(None),
        Err(errno) => Err(Error::sys("quotactl: state of project quota", errno as i32)),
    }
}

/// Limits and usage of a project. One that nobody ever used has none.
pub fn get(fd: impl AsFd, node: &Path, id: u32) -> Result<Quota> {
    let mut dquot = Dquot::default();
    match quotactl(fd, node, GET_QUOTA, id, &mut dquot) {
        Ok(()) => Ok(known(&dquot)),
        Err(Errno::ENOENT) => Ok(Quota::default()),
        Err(errno) => Err(Error::sys(format!("quotactl: read quota of project {id}"), errno as i32)),
    }
}

/// The first project from this id on of which the kernel has a record; `None` behind the last one, and before Linux 4.6.
pub fn from(fd: impl AsFd, node: &Path, id: u32) -> Result<Option<(u32, Quota)>> {
    let mut dquot = Dquot::default();
    match quotactl(fd, node, GET_NEXT, id, &mut dquot) {
        Ok(()) => Ok(Some((dquot.id, known(&dquot)))),
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(Error::sys(format!("quotactl: read the quota that follows project {id}"), errno as i32)),
    }
}

fn known(dquot: &Dquot) -> Quota {
    Quota {
        bounds: Bounds {
            hard: Amounts { bytes: dquot.blocks_hard.saturating_mul(UNIT), inodes: dquot.inodes_hard },
            soft: Amounts { bytes: dquot.blocks_soft.saturating_mul(UNIT), inodes: dquot.inodes_soft },
        },
        grace: Grace {
            bytes: joined(dquot.block_timer, dquot.block_timer_high),
            inodes: joined(dquot.inode_timer, dquot.inode_timer_high),
        },
        used: Amounts { bytes: dquot.blocks.saturating_mul(UNIT), inodes: dquot.inodes },
    }
}

/// Sets the limits of a project; 0 takes a limit away. Bytes are rounded down to 512. A grace that is not 0 is set as well,
/// where the kernel does that for single projects (XFS: since Linux 5.8); else it begins anew where need be.
pub fn set(fd: impl AsFd, node: &Path, id: u32, bounds: Bounds, grace: Grace) -> Result<()> {
    let Bounds { hard, soft } = bounds;
    let (block_timer, block_timer_high) = split(grace.bytes);
    let (inode_timer, inode_timer_high) = split(grace.inodes);
    let mut dquot = Dquot {
        version: DQUOT_VERSION,
        flags: PROJECT_FLAG,
        fields: LIMIT_FIELDS | timer_fields(grace),
        id,
        blocks_hard: hard.bytes / UNIT,
        blocks_soft: soft.bytes / UNIT,
        inodes_hard: hard.inodes,
        inodes_soft: soft.inodes,
        inode_timer,
        block_timer,
        inode_timer_high,
        block_timer_high,
        ..Dquot::default()
    };
    let outcome = quotactl(fd, node, SET_LIMITS, id, &mut dquot);
    check(outcome, || format!("quotactl: set limits of project {id} to {} bytes, {} inodes", hard.bytes, hard.inodes))
}

/// Which timers a grace has. Those beyond the year 2038 take the larger form, which older kernels do not know.
fn timer_fields(grace: Grace) -> u16 {
    let given = |seconds: u64, field| if seconds == 0 { 0 } else { field };
    let long = u64::from(i32::MAX.unsigned_abs());
    given(grace.bytes, BLOCK_TIMER)
        | given(grace.inodes, INODE_TIMER)
        | if grace.bytes.max(grace.inodes) > long { LONG_TIMERS } else { 0 }
}

/// A timer of 40 bits from its two parts, and into them.
fn joined(low: u32, high: u8) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn split(seconds: u64) -> (u32, u8) {
    let [a, b, c, d, high, ..] = seconds.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), high)
}

/// The block size of the filesystem that holds `fd`, bytes.
pub fn block_size(fd: impl AsFd) -> Result<u64> {
    let st = check(nix::sys::statfs::fstatfs(fd), || "fstatfs")?;
    // The field's type differs between architectures; a block size is positive.
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
    Ok(st.block_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_keep_their_value_and_take_the_larger_form_only_when_they_must() {
        for seconds in [0, 1, 1_764_000_000, 0x7fff_ffff, 0x8000_0000, 0xff_ffff_ffff] {
            let (low, high) = split(seconds);
            assert_eq!(joined(low, high), seconds);
        }
        let fields = |bytes, inodes| timer_fields(Grace { bytes, inodes });
        assert_eq!([fields(0, 0), fields(5, 0), fields(0, 5)], [0, BLOCK_TIMER, INODE_TIMER]);
        assert_eq!(fields(0x7fff_ffff, 0x8000_0000), BLOCK_TIMER | INODE_TIMER | LONG_TIMERS);
    }
}
