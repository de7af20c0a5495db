//! Capabilities of the calling thread (`capget(2)`, `linux/capability.h`, interface version 3).

use crate::error::{Error, Kind, Result};
use crate::sys::fs::check;
use nix::errno::Errno;

/// A set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set(u64);

/// No capability.
pub const NONE: Set = Set(0);
/// Give files any owner.
pub const CHOWN: Set = Set(1 << 0);
/// Work in directories whatever their mode.
pub const DAC_OVERRIDE: Set = Set(1 << 1);
/// Change files of any owner.
pub const FOWNER: Set = Set(1 << 3);
/// Keep setuid and setgid bits.
pub const FSETID: Set = Set(1 << 4);
/// What decides about set*id(2): `CAP_SETGID` and `CAP_SETUID`.
const IDS: Set = Set(1 << 6 | 1 << 7);
/// Set `trusted.*` attributes.
pub const SYS_ADMIN: Set = Set(1 << 21);
/// Make device nodes.
pub const MKNOD: Set = Set(1 << 27);
/// Set `security.capability`.
pub const SETFCAP: Set = Set(1 << 31);

impl Set {
    /// Both.
    #[must_use]
    pub const fn with(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    /// What is not in the other.
    #[must_use]
    pub const fn without(self, other: Set) -> Set {
        Set(self.0 & !other.0)
    }
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn get() -> Result<[Data; 2]> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 reads a header and writes two data elements, which is what the pointers describe.
    let rc = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    check(Errno::result(rc).map(drop), || "capget")?;
    Ok(data)
}

fn set(data: [Data; 2]) -> Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    // SAFETY: version 3 reads a header and two data elements, which is what the pointers describe.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    check(Errno::result(rc).map(drop), || "capset")
}

fn halves(set: Set) -> [u32; 2] {
    [(set.0 & 0xffff_ffff) as u32, (set.0 >> 32) as u32]
}

/// Leaves the calling thread at most `permitted`, of which at most `effective` are in force, and none that a program it
/// might execute would inherit; then looks whether that is so. Returns which are in force. What set*id(2) takes is left as it is
/// and not among them: on all threads of a process these calls must have the same outcome.
pub fn reduce(permitted: Set, effective: Set) -> Result<Set> {
    let mut want = get()?;
    let (permitted, effective, ids) = (halves(permitted), halves(effective), halves(IDS));
    for (half, data) in want.iter_mut().enumerate() {
        data.permitted &= permitted[half] | ids[half];
        data.effective = data.permitted & (effective[half] | data.effective & ids[half]);
        data.inheritable = 0;
    }
    set(want)?;
    if get()? != want {
        return Err(Error::new(Kind::Internal, "capset did not drop the capabilities"));
    }
    Ok(Set(u64::from(want[1].effective) << 32 | u64::from(want[0].effective)).without(IDS))
}

/// Puts `effective` in force, and nothing else but what set*id(2) takes, after such a call has changed what is.
pub fn resume(effective: Set) -> Result<()> {
    let now = get()?;
    let mut want = now;
    let (effective, ids) = (halves(effective), halves(IDS));
    for (half, data) in want.iter_mut().enumerate() {
        data.effective = effective[half] | data.effective & ids[half];
        if data.effective & !data.permitted != 0 {
            return Err(Error::sys("go on after the host program gave up its privileges", libc::EPERM));
        }
    }
    if want == now { Ok(()) } else { set(want) }
}

/// Runs `task` with `extra` in force beside what is, and takes it back afterwards; a thread that is not permitted `extra`
/// runs it without.
pub fn with<T>(extra: Set, task: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = get()?;
    let mut raised = before;
    let extra = halves(extra);
    for (half, data) in raised.iter_mut().enumerate() {
        data.effective |= data.permitted & extra[half];
    }
    set(raised)?;
    let outcome = task();
    set(before)?;
    outcome
}
