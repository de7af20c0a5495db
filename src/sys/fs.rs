//! Files and directories, always relative to a directory that the caller holds open.
//!
//! Every descriptor is opened close-on-exec: the host program forks at times of its own choosing.

use crate::error::{Error, Result};
use crate::sys::dirents;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag};
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Shows a name from outside without letting it break a log line.
pub fn shown(name: impl AsRef<OsStr>) -> String {
    String::from_utf8_lossy(name.as_ref().as_bytes()).escape_debug().to_string()
}

/// Opens a file for writing with the numbers of stdin, stdout and stderr taken, by copies of a directory's descriptor, which
/// nobody can write to: in a process that has closed them, the file could get one, and what is still written there.
fn with_stdio_taken<T>(dir: impl AsFd, open: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut taken = Vec::new();
    loop {
        let copy = nix::fcntl::fcntl(&dir, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(0));
        let number = check(copy, || "fcntl(F_DUPFD_CLOEXEC)")?;
        // SAFETY: a new descriptor that nobody else has.
        let copy = unsafe { OwnedFd::from_raw_fd(number) };
        if number > libc::STDERR_FILENO {
            return open();
        }
        taken.push(copy);
    }
}

/// Turns the outcome of a nix call into ours; the text of the call is only built when it failed.
pub(crate) fn check<T, D: fmt::Display>(outcome: nix::Result<T>, call: impl FnOnce() -> D) -> Result<T> {
    outcome.map_err(|errno| Error::sys(call(), errno as i32))
}

fn named<T>(outcome: nix::Result<T>, call: &str, name: &OsStr) -> Result<T> {
    check(outcome, || format!("{call} '{}'", shown(name)))
}

/// Whether the error is "no such file or directory".
pub fn is_absent(error: &Error) -> bool {
    error.errno() == Errno::ENOENT as i32
}

/// Makes a directory by path, and those above it that are missing; false if it was there. The umask applies to the mode.
pub fn make_dirs(path: &Path, mode: u32) -> Result<bool> {
    match named(nix::sys::stat::stat(path), "stat", path.as_os_str()) {
        Ok(_) => return Ok(false), // who opens it finds out what it is
        Err(e) if is_absent(&e) => {}
        Err(e) => return Err(e),
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dirs(parent, mode)?;
    }
    match named(nix::unistd::mkdir(path, Mode::from_bits_truncate(mode)), "mkdir", path.as_os_str()) {
        Err(e) if e.errno() == Errno::EEXIST as i32 => Ok(false),
        made => made.map(|()| true),
    }
}

/// Opens an existing directory by path, following symlinks: for places the host's administrator named.
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    named(nix::fcntl::open(path, flags, Mode::empty()), "open directory", path.as_os_str())
}

/// Opens the directory `name` in `dir`, not following a symlink.
pub fn open_dir_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    named(nix::fcntl::openat(dir, name.as_ref(), flags, Mode::empty()), "open directory", name.as_ref())
}

/// Opens the directory `name` in `dir`, following symlinks: for the layer directories of a remote store.
pub fn open_dir_at_follow(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    named(nix::fcntl::openat(dir, name.as_ref(), flags, Mode::empty()), "open directory", name.as_ref())
}

/// Makes the directory `name` with exactly `mode`, whatever the umask.
pub fn make_dir_at(dir: impl AsFd, name: impl AsRef<OsStr>, mode: u32) -> Result<()> {
    let name = name.as_ref();
    named(nix::sys::stat::mkdirat(&dir, name, Mode::from_bits_truncate(mode)), "mkdir", name)?;
    // With another mode it is not what was asked for, and its maker's undoing does not know of it yet.
    chmod_at(&dir, name, mode).map_err(|e| remove_dir_at(&dir, name).err().into_iter().fold(e, Error::and_also))
}

/// Sets the mode of `name`; follows a symlink (the kernel has no other way before 6.6).
pub fn chmod_at(dir: impl AsFd, name: impl AsRef<OsStr>, mode: u32) -> Result<()> {
    let mode = Mode::from_bits_truncate(mode);
    let flag = nix::sys::stat::FchmodatFlags::FollowSymlink;
    named(nix::sys::stat::fchmodat(dir, name.as_ref(), mode, flag), "chmod", name.as_ref())
}

/// Sets owner and group of `name`, not following a symlink.
pub fn chown_at(dir: impl AsFd, name: impl AsRef<OsStr>, uid: u32, gid: u32) -> Result<()> {
    let (uid, gid) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(gid));
    let outcome = nix::unistd::fchownat(dir, name.as_ref(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW);
    named(outcome, "chown", name.as_ref())
}

/// Makes the regular file `name`, which must not exist, with this content and exactly this mode; `sync` forces it to disk.
pub fn write_new_at(dir: impl AsFd, name: impl AsRef<OsStr>, content: &[u8], mode: u32, sync: bool) -> Result<()> {
    let name = name.as_ref();
    let file = made_at(dir, name, content, mode)?;
    if sync { fsync(file, name) } else { Ok(()) }
}

/// The same, with the file left open, and not on disk yet.
pub fn made_at(dir: impl AsFd, name: impl AsRef<OsStr>, content: &[u8], mode: u32) -> Result<OwnedFd> {
    use std::io::Write;
    let name = name.as_ref();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || nix::fcntl::openat(&dir, name, flags, Mode::from_bits_truncate(mode));
    let fd = with_stdio_taken(&dir, || named(open(), "create file", name))?;
    named(nix::sys::stat::fchmod(&fd, Mode::from_bits_truncate(mode)), "chmod", name)?;
    let mut file = std::fs::File::from(fd);
    let written = file.write_all(content);
    written.map_err(|e| Error::io(format!("write '{}'", shown(name)), &e))?;
    Ok(file.into())
}

/// Replaces the file `name` by one with this content, in one step: readers see the old or the new, also after a crash when
/// `sync` is set. `staging` names the file meanwhile.
pub fn replace_at(dir: impl AsFd, name: &str, staging: &str, content: &[u8], mode: u32, sync: bool) -> Result<()> {
    put_at(&dir, name, staging, content, mode, sync)?;
    if sync { fsync(dir, name) } else { Ok(()) }
}

/// The same, but that the new name is not forced to disk. An error means that the old file is as it was.
pub fn put_at(dir: impl AsFd, name: &str, staging: &str, content: &[u8], mode: u32, sync: bool) -> Result<()> {
    let put = write_new_at(&dir, staging, content, mode, sync).and_then(|()| rename_at(&dir, staging, &dir, name));
    put.map_err(|e| match remove_file_at(dir, staging) {
        Err(other) if !is_absent(&other) => e.and_also(other),
        _ => e,
    })
}

/// Writes `content` over the beginning of the existing file `name`, and forces it to disk. Takes no space that it does not have.
pub fn overwrite_at(dir: impl AsFd, name: impl AsRef<OsStr>, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let name = name.as_ref();
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = std::fs::File::from(named(nix::fcntl::openat(dir, name, flags, Mode::empty()), "open", name)?);
    let written = file.write_all_at(content, 0).and_then(|()| file.sync_data());
    written.map_err(|e| Error::io(format!("write '{}'", shown(name)), &e))
}

/// Reads the regular file `name` whole; one longer than `limit` bytes is an error.
pub fn read_at(dir: impl AsFd, name: impl AsRef<OsStr>, limit: usize) -> Result<Vec<u8>> {
    let name = name.as_ref();
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let fd = named(nix::fcntl::openat(dir, name, flags, Mode::empty()), "open", name)?;
    let (mut content, mut length) = (vec![0; SMALL_FILE.min(limit + 1)], 0);
    loop {
        length += named(nix::unistd::read(&fd, &mut content[length..]), "read", name)?;
        if length < content.len() {
            // A regular file reads short at its end only.
            content.truncate(length);
            return Ok(content);
        }
        if length > limit {
            return Err(Error::sys(format!("read '{}' (more than {limit} bytes)", shown(name)), libc::EFBIG));
        }
        content.resize((length * 4).min(limit + 1), 0);
    }
}

/// Most of the small files of a store fit into this many bytes, and are read by one call.
const SMALL_FILE: usize = 4096;

/// Renames, replacing what is there if it is a file.
pub fn rename_at(from_dir: impl AsFd, from: impl AsRef<OsStr>, to_dir: impl AsFd, to: impl AsRef<OsStr>) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let outcome = nix::fcntl::renameat(from_dir, from, to_dir, to);
    check(outcome, || format!("rename '{}' to '{}'", shown(from), shown(to)))
}

/// Makes a symlink with this text.
pub fn symlink_at(text: impl AsRef<OsStr>, dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let outcome = nix::unistd::symlinkat(text.as_ref(), dir, name.as_ref());
    named(outcome, "symlink", name.as_ref())
}

/// The text of a symlink.
pub fn read_link_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OsString> {
    named(nix::fcntl::readlinkat(dir, name.as_ref()), "readlink", name.as_ref())
}

/// Removes a name that is not a directory.
pub fn remove_file_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let outcome = nix::unistd::unlinkat(dir, name.as_ref(), nix::unistd::UnlinkatFlags::NoRemoveDir);
    named(outcome, "unlink", name.as_ref())
}

/// Removes an empty directory.
pub fn remove_dir_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let outcome = nix::unistd::unlinkat(dir, name.as_ref(), nix::unistd::UnlinkatFlags::RemoveDir);
    named(outcome, "rmdir", name.as_ref())
}

/// Makes a device node (`mknod(2)`) of the file type in `mode`.
pub fn make_node_at(dir: impl AsFd, name: impl AsRef<OsStr>, mode: u32, device: u64) -> Result<()> {
    let (kind, perm) = (SFlag::from_bits_truncate(mode & libc::S_IFMT), Mode::from_bits_truncate(mode));
    named(nix::sys::stat::mknodat(dir, name.as_ref(), kind, perm, device), "mknod", name.as_ref())
}

/// What sort of file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A fifo, a socket, or what the filesystem does not tell (no `d_type`).
    Other,
}

/// The parts of `struct stat` that are of use here.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Sort of file.
    pub kind: FileKind,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Apparent size, bytes.
    pub size: u64,
    /// Bytes allocated.
    pub allocated: u64,
    /// Number of names.
    pub links: u64,
    /// Inode number.
    pub inode: u64,
    /// Device that holds it.
    pub device: u64,
    /// For a device node, which device it is.
    pub rdev: u64,
    /// When content or attributes last changed (ctime), seconds and nanoseconds of the system's clock.
    pub changed: (i64, i64),
    /// When the content was last changed, or is said to have been (mtime).
    pub modified: (i64, i64),
}

impl From<libc::stat> for Stat {
    // The C types differ between architectures; on some of them a conversion changes nothing.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    fn from(st: libc::stat) -> Stat {
        let kind = match st.st_mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::File,
            libc::S_IFDIR => FileKind::Dir,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFCHR => FileKind::Char,
            libc::S_IFBLK => FileKind::Block,
            _ => FileKind::Other,
        };
        Stat {
            kind,
            mode: st.st_mode,
            uid: st.st_uid,
            gid: st.st_gid,
            size: u64::try_from(st.st_size).unwrap_or(0),
            allocated: u64::try_from(st.st_blocks).unwrap_or(0) * 512, // stat(2): units of 512 bytes
            links: st.st_nlink as u64,
            inode: st.st_ino as u64,
            device: st.st_dev as u64,
            rdev: st.st_rdev as u64,
            changed: (st.st_ctime as i64, st.st_ctime_nsec as i64),
            modified: (st.st_mtime as i64, st.st_mtime_nsec as i64),
        }
    }
}

/// `lstat` of a name.
pub fn stat_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<Stat> {
    let outcome = nix::sys::stat::fstatat(dir, name.as_ref(), AtFlags::AT_SYMLINK_NOFOLLOW);
    named(outcome.map(Stat::from), "lstat", name.as_ref())
}

/// `stat` of a name, through symlinks.
pub fn stat_at_follow(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<Stat> {
    named(nix::sys::stat::fstatat(dir, name.as_ref(), AtFlags::empty()).map(Stat::from), "stat", name.as_ref())
}

/// `stat` of an open file.
pub fn stat_fd(fd: impl AsFd) -> Result<Stat> {
    check(nix::sys::stat::fstat(fd).map(Stat::from), || "fstat")
}

/// One name in a directory.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    /// Its kind, where the directory tells (`d_type`); `None` otherwise.
    pub kind: Option<FileKind>,
}

/// A name in a directory, whichever comes first, but not `.` or `..`; `None` if there is none. Takes as long for a large directory
/// as for a small one.
pub fn any_entry(dir: impl AsFd) -> Result<Option<Entry>> {
    dirents::one_from_here(own_position(dir)?)
}

/// Calls `each` for every name in a directory but `.` and `..`, in no particular order.
pub fn each_entry(dir: impl AsFd, each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    dirents::each_from_here(own_position(dir)?, each)
}

/// A descriptor of one's own: reading moves the position of the open file, which `dir` must keep.
fn own_position(dir: impl AsFd) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    check(nix::fcntl::openat(dir, ".", flags, Mode::empty()), || "list directory")
}

/// Forces a file or directory to disk. `name` is for the error text.
pub fn fsync(fd: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    named(nix::unistd::fsync(fd), "fsync", name.as_ref())
}

/// Forces everything of the filesystem that holds `fd` to disk, and reports write-back errors since `fd` was opened.
pub fn syncfs(fd: impl AsFd) -> Result<()> {
    // nix offers it for raw descriptors only, by an `extern` of its own.
    // SAFETY: syncfs takes a descriptor and touches no memory; the borrow keeps the descriptor open.
    let rc = unsafe { libc::syncfs(fd.as_fd().as_raw_fd()) };
    check(Errno::result(rc).map(drop), || "syncfs")
}

/// The magic number of the filesystem that holds `fd` (`statfs(2)`, `linux/magic.h`).
pub fn filesystem_magic(fd: impl AsFd) -> Result<u64> {
    let st = check(nix::sys::statfs::fstatfs(fd), || "fstatfs")?;
    // The field is signed on some architectures; magics are 32 bits.
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
    Ok(st.filesystem_type().0 as u64 & 0xffff_ffff)
}

/// A directory that is nowhere: made as `name` in `dir`, opened, and removed. Nothing can be made in it.
pub fn make_nowhere(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<OwnedFd> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    make_dir_at(dir, name, 0o700)?;
    let opened = open_dir_at(dir, name);
    remove_dir_at(dir, name)?;
    opened
}

/// Whether an open directory has no entries.
pub fn is_empty_dir(dir: impl AsFd) -> Result<bool> {
    Ok(any_entry(dir)?.is_none())
}

/// Whether the filesystem that holds `fd`, or the mount it was opened through, can only be read (`statvfs(3)`).
pub fn is_read_only(fd: impl AsFd) -> Result<bool> {
    let st = check(nix::sys::statvfs::fstatvfs(fd), || "fstatvfs")?;
    Ok(st.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
}

/// How many bytes are free for all to use on the filesystem that holds `fd`, and how many its blocks have (`statvfs(3)`).
pub fn free_bytes_and_block(fd: impl AsFd) -> Result<(u64, u64)> {
    let st = check(nix::sys::statvfs::fstatvfs(fd), || "fstatvfs")?;
    #[allow(clippy::unnecessary_cast)] // 32 bits on some architectures
    Ok(((st.blocks_available() as u64).saturating_mul(st.fragment_size() as u64), st.block_size() as u64))
}

/// How many inodes the filesystem that holds `fd` has in use (`statvfs(3)`).
pub fn inodes_in_use(fd: impl AsFd) -> Result<u64> {
    let st = check(nix::sys::statvfs::fstatvfs(fd), || "fstatvfs")?;
    #[allow(clippy::unnecessary_cast)] // 32 bits on some architectures
    Ok((st.files() as u64).saturating_sub(st.files_free() as u64))
}

/// Bytes that the filesystem that holds `fd` has left for everybody, and bytes it has in all (`statvfs(3)`).
pub fn space(fd: impl AsFd) -> Result<(u64, u64)> {
    let st = check(nix::sys::statvfs::fstatvfs(fd), || "fstatvfs")?;
    #[allow(clippy::unnecessary_cast)] // 32 bits on some architectures
    let bytes = |blocks| (blocks as u64).saturating_mul(st.fragment_size() as u64);
    Ok((bytes(st.blocks_available()), bytes(st.blocks())))
}

/// Bytes from the kernel's random pool.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    // SAFETY: the pointer and the length describe `bytes`. Up to 256 bytes come whole (getrandom(2)).
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    match usize::try_from(got) {
        Ok(n) if n == N => Ok(bytes),
        _ => Err(Error::sys("getrandom", Errno::last_raw())),
    }
}

/// So many random bytes in hexadecimal, for a name.
pub fn random_name<const N: usize>() -> Result<String> {
    Ok(random::<N>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A C string of bytes from outside; a NUL inside is `EINVAL`.
pub(crate) fn c_string(bytes: impl AsRef<OsStr>) -> Result<CString> {
    let bytes = bytes.as_ref();
    CString::new(bytes.as_bytes()).map_err(|_| Error::sys(format!("NUL byte inside '{}'", shown(bytes)), libc::EINVAL))
}
