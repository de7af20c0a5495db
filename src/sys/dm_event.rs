//! Suspend, resume and remove: the device-mapper requests that make udev work, with a wait for it that ends.
//!
//! The protocol is libdevmapper's: a System V semaphore whose key goes into the request as a "cookie"; the kernel hands it to
//! udev in its event, and udev's rules lower the semaphore when they are done. The wait is bounded by [`PATIENCE`], after
//! which the caller makes the node itself. Where no udev runs there is no cookie and no wait.

use crate::error::{Error, Result};
use crate::sys::dm::Settle;
use crate::sys::fs::random;
use nix::errno::Errno;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long udev may take for one event. Its own limit for one is 180 s, after which it kills its worker; a node is made
/// within milliseconds even on a loaded host.
const PATIENCE: Duration = Duration::from_secs(20);

// linux/dm-ioctl.h
const DM_DEV_REMOVE: u64 = 4;
const DM_DEV_SUSPEND: u64 = 6;
const DM_SUSPEND_FLAG: u32 = 1 << 1;
const DM_UEVENT_GENERATED_FLAG: u32 = 1 << 13;
const DM_DEFERRED_REMOVE: u32 = 1 << 17;

// libdevmapper.h
const COOKIE_MAGIC: u32 = 0x0D4D;
const UDEV_DISABLE_DISK_RULES: u32 = 0x0004;
const UDEV_DISABLE_LIBRARY_FALLBACK: u32 = 0x0020;
const UDEV_PRIMARY_SOURCE: u32 = 0x0040;
const UDEV_FLAGS_SHIFT: u32 = 16;

/// `struct dm_ioctl` of `linux/dm-ioctl.h`.
#[repr(C)]
struct Request {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

const _: () = assert!(size_of::<Request>() == 312);

impl Request {
    fn new(name: &str, flags: u32, event_nr: u32) -> Result<Request> {
        let mut request = Request {
            version: [4, 0, 0],
            data_size: 312,
            data_start: 312,
            target_count: 0,
            open_count: 0,
            flags,
            event_nr,
            padding: 0,
            dev: 0,
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
        };
        // One byte stays for the NUL at the end.
        match request.name[..127].get_mut(..name.len()) {
            Some(room) => room.copy_from_slice(name.as_bytes()),
            None => return Err(Error::sys(format!("device-mapper name '{name}'"), libc::ENAMETOOLONG)),
        }
        Ok(request)
    }

    fn send(&mut self, control: &impl AsRawFd, number: u64) -> Result<(), Errno> {
        // _IOWR(0xfd, number, struct dm_ioctl) of asm-generic/ioctl.h
        let code = 3_u64 << 30 | 312 << 16 | 0xfd << 8 | number;
        #[allow(clippy::unnecessary_cast, clippy::cast_possible_truncation)]
        let code = code as libc::Ioctl;
        // SAFETY: the control node's requests read and write `data_size` bytes at the pointer, which is the size of `self`.
        let rc = unsafe { libc::ioctl(control.as_raw_fd(), code, std::ptr::from_mut(self)) };
        Errno::result(rc).map(drop)
    }

    /// The device's number in the form of `st_rdev`; the kernel answers in its own 64-bit form (`huge_encode_dev`).
    fn device(&self) -> u64 {
        let major = (self.dev & 0xf_ff00) >> 8;
        let minor = (self.dev & 0xff) | ((self.dev >> 12) & 0xf_ff00);
        nix::sys::stat::makedev(major, minor)
    }
}

/// Freezes the device; makes no event.
pub fn suspend(control: &impl AsRawFd, name: &str) -> Result<()> {
    let mut request = Request::new(name, DM_SUSPEND_FLAG, 0)?;
    request.send(control, DM_DEV_SUSPEND).map_err(|errno| failed("suspend", name, errno))
}

/// Resumes the device and returns its number.
pub fn resume(control: &impl AsRawFd, name: &str, settle: Settle) -> Result<u64> {
    // Layers of one base all have its UUID: links to them in /dev/disk would lead to any of them, and udev would hold each new
    // device open to look for its UUID just when it may have to go away again.
    let cookie = if settle == Settle::Wait { Cookie::new(UDEV_DISABLE_DISK_RULES)? } else { None };
    let mut request = Request::new(name, 0, Cookie::event_nr(cookie.as_ref()))?;
    request.send(control, DM_DEV_SUSPEND).map_err(|errno| failed("resume", name, errno))?;
    Cookie::wait(cookie, name, request.flags);
    Ok(request.device())
}

/// Removes the device, or marks it for removal. False if there is none.
pub fn remove(control: &impl AsRawFd, name: &str, deferred: bool) -> Result<bool> {
    let cookie = Cookie::new(UDEV_DISABLE_LIBRARY_FALLBACK)?;
    let flags = if deferred { DM_DEFERRED_REMOVE } else { 0 };
    let mut request = Request::new(name, flags, Cookie::event_nr(cookie.as_ref()))?;
    match request.send(control, DM_DEV_REMOVE) {
        Ok(()) => Cookie::wait(cookie, name, request.flags),
        Err(Errno::ENXIO) => return Ok(false),
        Err(errno) => return Err(failed(if deferred { "remove (deferred)" } else { "remove" }, name, errno)),
    }
    Ok(true)
}

fn failed(call: &str, name: &str, errno: Errno) -> Error {
    Error::sys(format!("device-mapper: {call} '{name}'"), errno as i32)
}

/// Set once udev did not answer in time, so that a host with a stuck udev is slow once and not at every step.
static UDEV_STUCK: AtomicBool = AtomicBool::new(false);

/// Whether udev makes and removes the nodes. `DM_DISABLE_UDEV` is libdevmapper's way to say no.
pub fn udev_runs() -> bool {
    std::path::Path::new("/run/udev/control").exists() && std::env::var_os("DM_DISABLE_UDEV").is_none()
}

/// A semaphore that udev lowers. It is removed from the system when dropped.
struct Cookie {
    semaphore: i32,
    event_nr: u32,
}

impl Cookie {
    /// `None` where no udev would answer.
    fn new(flags: u32) -> Result<Option<Cookie>> {
        if !udev_runs() || UDEV_STUCK.load(Ordering::Relaxed) {
            return Ok(None);
        }
        loop {
            let base = u32::from(u16::from_ne_bytes(random()?));
            if base == 0 {
                continue; // stands for "no cookie"
            }
            #[allow(clippy::cast_possible_wrap)]
            let key = (COOKIE_MAGIC << UDEV_FLAGS_SHIFT | base) as libc::key_t;
            // SAFETY: takes three integers.
            match Errno::result(unsafe { libc::semget(key, 1, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) }) {
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(Error::sys("semget for a udev cookie", errno as i32)),
                Ok(semaphore) => {
                    let event_nr = (flags | UDEV_PRIMARY_SOURCE) << UDEV_FLAGS_SHIFT | base;
                    let cookie = Cookie { semaphore, event_nr };
                    cookie.operate(1, 0).map_err(|errno| Error::sys("semop of a udev cookie", errno as i32))?;
                    return Ok(Some(cookie));
                }
            }
        }
    }

    fn event_nr(cookie: Option<&Cookie>) -> u32 {
        cookie.map_or(0, |cookie| cookie.event_nr)
    }

    /// Waits until udev is done, if the request made an event at all.
    fn wait(cookie: Option<Cookie>, name: &str, flags: u32) {
        let Some(cookie) = cookie.filter(|_| flags & DM_UEVENT_GENERATED_FLAG != 0) else { return };
        if let Err(errno) = cookie.operate(0, PATIENCE.as_secs()) {
            UDEV_STUCK.store(true, Ordering::Relaxed);
            crate::log::warn!("udev did not finish with '{name}' in {PATIENCE:?} ({errno}); not waiting for it any more");
        }
    }

    /// Adds `change` to the semaphore, or waits for zero if that is 0, at most `seconds`.
    fn operate(&self, change: i16, seconds: u64) -> Result<(), Errno> {
        let mut operation = libc::sembuf { sem_num: 0, sem_op: change, sem_flg: 0 };
        let deadline = std::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            #[allow(clippy::cast_possible_wrap)]
            let limit = libc::timespec { tv_sec: left.as_secs() as libc::time_t, tv_nsec: left.subsec_nanos().into() };
            // SAFETY: one operation and one timespec, both alive for the call.
            let rc = unsafe {
                let operations = std::ptr::from_mut(&mut operation);
                libc::syscall(libc::SYS_semtimedop, self.semaphore, operations, 1_usize, std::ptr::from_ref(&limit))
            };
            match Errno::result(rc) {
                Err(Errno::EINTR) => {}
                outcome => return outcome.map(drop),
            }
        }
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        // SAFETY: IPC_RMID takes no fourth argument.
        unsafe { libc::semctl(self.semaphore, 0, libc::IPC_RMID) };
    }
}

/// How long a finished cookie may stand before it is taken for forgotten, seconds: who waits for it removes it at once.
const FORGOTTEN: u64 = 60;

/// Removes the cookies that nobody waits for and udev is done with, or whoever touched them last is no more: who made them was
/// killed before it could remove them. Best effort.
pub fn sweep() {
    let Ok(table) = std::fs::read_to_string("/proc/sysvipc/sem") else { return };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    for semaphore in cookies(&table, now) {
        let ask = |command: libc::c_int| {
            // SAFETY: these commands take no fourth argument.
            unsafe { libc::semctl(semaphore, 0, command) }
        };
        // 0: of another PID namespace.
        let is_gone = |pid: libc::c_int| {
            pid > 0 && std::path::Path::new(&format!("/proc/{pid}")).try_exists().is_ok_and(|is_there| !is_there)
        };
        let is_done = ask(libc::GETVAL) == 0 || is_gone(ask(libc::GETPID));
        if is_done && ask(libc::GETZCNT) + ask(libc::GETNCNT) == 0 {
            ask(libc::IPC_RMID);
            crate::log::info!("removed a udev cookie that was left behind, semaphore {semaphore}");
        }
    }
}

/// The semaphores of a table (`proc(5)`, `sysvipc/sem`) that are cookies which nobody has touched lately. A line is key, semid, perms,
/// nsems, uid, gid, cuid, cgid, otime, ctime.
fn cookies(table: &str, now: u64) -> Vec<i32> {
    let old = |line: &str| {
        let fields: Vec<i64> = line.split_whitespace().map(|field| field.parse().unwrap_or(-1)).collect();
        let [key, id, _, 1, _, _, _, _, used, made] = fields[..] else { return None };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a key is 32 bits, printed with a sign
        let is_cookie = (key as u32) >> UDEV_FLAGS_SHIFT == COOKIE_MAGIC;
        let touched = u64::try_from(used.max(made)).unwrap_or(0);
        i32::try_from(id).ok().filter(|_| is_cookie && touched + FORGOTTEN < now)
    };
    table.lines().filter_map(old).collect()
}

/// The system's semaphore sets: how many are in use and how many there may be.
pub fn semaphore_sets() -> Result<(u64, u64)> {
    // SAFETY: a struct of integers, for which zero is a value.
    let mut info: libc::seminfo = unsafe { std::mem::zeroed() };
    // SAFETY: SEM_INFO writes a struct seminfo to the pointer given as fourth argument (semctl(2)).
    let rc = unsafe { libc::semctl(0, 0, libc::SEM_INFO, std::ptr::from_mut(&mut info)) };
    Errno::result(rc).map_err(|errno| Error::sys("semctl SEM_INFO", errno as i32))?;
    Ok((u64::try_from(info.semusz).unwrap_or(0), u64::try_from(info.semmni).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_must_leave_room_for_its_end() {
        assert!(Request::new(&"a".repeat(127), 0, 0).is_ok());
        assert_eq!(Request::new(&"a".repeat(128), 0, 0).err().map(|e| e.errno()), Some(libc::ENAMETOOLONG));
    }

    #[test]
    fn only_old_cookies_are_swept() {
        let line = |key: u32, id: u32, number: u32, used: u32| format!("{key} {id} 600 {number} 0 0 0 0 {used} 1000\n");
        let table = ["key semid perms nsems uid gid cuid cgid otime ctime\n".to_owned()]
            .into_iter()
            .chain([
                line(0x0d4d_1234, 1, 1, 0),
                line(0x0d4d_1235, 2, 1, 5000),
                line(0x0d4d_1236, 3, 2, 0),
                line(0x0d4e_1234, 4, 1, 0),
                line(0x0d4d_0000, 5, 1, 1939),
            ])
            .collect::<String>();
        assert_eq!(cookies(&table, 2000), [1, 5]);
        assert_eq!(cookies(&table, 1060), [0; 0]);
    }

    #[test]
    fn device_numbers_are_decoded() {
        let mut request = Request::new("x", 0, 0).unwrap();
        request.dev = 0x0010_fd05;
        let number = request.device();
        assert_eq!((nix::sys::stat::major(number), nix::sys::stat::minor(number)), (0xfd, 0x105));
    }
}
