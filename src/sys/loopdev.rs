//! Loop devices: block devices upon files.

use crate::error::{Error, Result};
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

// linux/loop.h
const LOOP_SET_FD: u64 = 0x4C00;
const LOOP_SET_STATUS64: u64 = 0x4C04;
const LOOP_CONFIGURE: u64 = 0x4C0A;
const LOOP_CTL_GET_FREE: u64 = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Status {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Status,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Status>() == 232 && size_of::<Config>() == 304);

/// An open loop device. It goes away by itself when the last user closes it: this one, or a device upon it.
pub struct Loop {
    /// Its node.
    pub path: PathBuf,
    _open: File,
}

fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|e| Error::sys(format!("open '{}'", path.display()), e.raw_os_error().unwrap_or(libc::EIO)))
}

/// Puts a free loop device upon `file`.
pub fn attach(file: &Path) -> Result<Loop> {
    let backing = open(file)?;
    let control = open(Path::new("/dev/loop-control")).map_err(|e| e.hint("is the module loop loaded?"))?;
    // Between asking for a free number and taking it, someone else may take it.
    for _ in 0..64 {
        let number = request(&control, LOOP_CTL_GET_FREE, 0).map_err(|e| Error::sys("LOOP_CTL_GET_FREE", e as i32))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        match configure(&device, &backing, file) {
            Ok(()) => return Ok(Loop { path, _open: device }),
            Err(Errno::EBUSY) => {}
            Err(errno) => {
                return Err(Error::sys(format!("LOOP_CONFIGURE {} '{}'", path.display(), file.display()), errno as i32));
            }
        }
    }
    Err(Error::sys(format!("find a free loop device for '{}'", file.display()), libc::EBUSY))
}

fn configure(device: &File, backing: &File, name: &Path) -> Result<(), Errno> {
    let mut shown = [0; 64]; // cut off, with a NUL at its end: only for people
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str());
    for (to, from) in shown[..63].iter_mut().zip(bytes) {
        *to = *from;
    }
    let info = Status {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_AUTOCLEAR,
        file_name: shown,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let config = Config { fd, block_size: 0, info, reserved: [0; 8] };
    match request(device, LOOP_CONFIGURE, std::ptr::from_ref(&config) as usize) {
        // Before Linux 5.8: two steps. An unknown loop request is EINVAL there.
        Err(Errno::EINVAL | Errno::ENOTTY) => {
            request(device, LOOP_SET_FD, fd as usize)?;
            request(device, LOOP_SET_STATUS64, std::ptr::from_ref(&info) as usize).map(drop)
        }
        outcome => outcome.map(drop),
    }
}

fn request(fd: &File, code: u64, argument: usize) -> Result<i32, Errno> {
    #[allow(clippy::unnecessary_cast, clippy::cast_possible_truncation)]
    let code = code as libc::Ioctl;
    // SAFETY: the callers pass what the request takes: an integer, or the address of a live struct of the right type.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), code, argument) })
}
