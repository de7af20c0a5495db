//! Loop devices: block devices upon files.

use crate::error::{Error, Result};
use crate::sys::fs::shown;
use nix::errno::Errno;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

// linux/loop.h
const LOOP_SET_FD: u64 = 0x4C00;
const LOOP_SET_STATUS64: u64 = 0x4C04;
const LOOP_GET_STATUS64: u64 = 0x4C05;
const LOOP_SET_CAPACITY: u64 = 0x4C07;
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
    opened.map_err(|e| Error::io(format!("open '{}'", path.display()), &e))
}

/// Which file a loop device is upon: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    device: u64,
    inode: u64,
}

impl Backing {
    /// A file as a loop device would name it.
    #[must_use]
    pub fn of(file: &std::fs::Metadata) -> Backing {
        Backing { device: file.dev(), inode: file.ino() }
    }
}

/// The file behind the loop device of this number (`major:minor`).
pub fn backing(device: &str) -> Result<Backing> {
    backing_of(&node(device)?).map_err(|errno| Error::sys(format!("LOOP_GET_STATUS64 of {device}"), errno as i32))
}

fn backing_of(path: &Path) -> Result<Backing, Errno> {
    let device = File::open(path).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    // SAFETY: integers and arrays of bytes, for which zero is a value.
    let mut info: Status = unsafe { std::mem::zeroed() };
    request(&device, LOOP_GET_STATUS64, std::ptr::from_mut(&mut info) as usize)?;
    // The kernel's own 64-bit form (`huge_encode_dev`).
    let (major, minor) = ((info.device & 0xf_ff00) >> 8, (info.device & 0xff) | ((info.device >> 12) & 0xf_ff00));
    Ok(Backing { device: nix::sys::stat::makedev(major, minor), inode: info.inode })
}

/// The kernel's node of a device of this number (`sysfs(5)`).
fn node(device: &str) -> Result<PathBuf> {
    let link = Path::new("/sys/dev/block").join(device);
    let target = std::fs::read_link(&link);
    let target = target.map_err(|e| Error::io(format!("readlink '{}'", link.display()), &e))?;
    Ok(Path::new("/dev").join(target.file_name().unwrap_or_default()))
}

/// The loop devices that are upon a file, whoever attached them. One that cannot be asked counts as a user if the path that the
/// kernel shows for its file leads to this one.
pub fn users(file: &File) -> Result<Vec<String>> {
    let failed = |e: std::io::Error| Error::io("look for loop devices", &e);
    let wanted = Backing::of(&file.metadata().map_err(failed)?);
    let mut users = Vec::new();
    for entry in std::fs::read_dir("/sys/block").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let named = match std::fs::read(entry.path().join("loop/backing_file")) {
            // Nothing is attached, or not any more.
            Err(e) if e.raw_os_error().is_some_and(|n| [libc::ENOENT, libc::ENODEV, libc::ENXIO].contains(&n)) => continue,
            named => named.map_err(failed)?,
        };
        let named = Path::new(OsStr::from_bytes(named.trim_ascii_end()));
        let device = Path::new("/dev").join(entry.file_name());
        let is_user = match backing_of(&device) {
            Ok(backing) => backing == wanted,
            Err(Errno::ENXIO) => false, // detached meanwhile
            // The path may be of another mount namespace.
            Err(errno) => match std::fs::metadata(named) {
                Ok(found) => Backing::of(&found) == wanted,
                Err(_) => {
                    let (device, named) = (device.display(), named.display());
                    crate::log::warn!("what '{device}' is upon cannot be asked ({errno}); it says '{named}'");
                    false
                }
            },
        };
        if is_user {
            users.push(shown(&device));
        }
    }
    Ok(users)
}

/// Lets the loop device of this number take over the length that its file has now.
pub fn refresh(device: &str) -> Result<()> {
    let file = open(&node(device)?)?;
    let done = request(&file, LOOP_SET_CAPACITY, 0);
    done.map(drop).map_err(|errno| Error::sys(format!("LOOP_SET_CAPACITY of {device}"), errno as i32))
}

/// Puts a free loop device upon the open file `backing`, which it keeps open, with the locks on it. `file` is its path.
pub fn attach(backing: &File, file: &Path) -> Result<Loop> {
    let control = open(Path::new("/dev/loop-control")).map_err(|e| e.hint("is the module loop loaded?"))?;
    // Between asking for a free number and taking it, someone else may take it.
    for _ in 0..64 {
        let number = request(&control, LOOP_CTL_GET_FREE, 0).map_err(|e| Error::sys("LOOP_CTL_GET_FREE", e as i32))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        match configure(&device, backing, file) {
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
