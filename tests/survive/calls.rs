//! The system calls that the harnesses know: which of them change a disk, a device or the mount table, and how each may fail.

use super::common::old_kernel::FCHMODAT2;

/// When a call counts as a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changes {
    Always,
    Never,
    /// With `O_CREAT` or `O_TRUNC` among the flags, which are this argument.
    Flags(usize),
    /// The same for `openat2`, whose flags are in memory.
    How,
    /// What is written to has a path.
    File,
    /// Commands that set something.
    Command,
}

/// What the harnesses have to know of a system call.
pub struct Kind {
    pub name: &'static str,
    number: libc::c_long,
    changes: Changes,
    /// The errors that it is made to fail with.
    pub errors: &'static [i32],
}

const fn kind(name: &'static str, number: libc::c_long, changes: Changes, errors: &'static [i32]) -> Kind {
    Kind { name, number, changes, errors }
}

const MAKE: &[i32] = &[libc::ENOSPC, libc::EIO, libc::EPERM];
const OPEN: &[i32] = &[libc::EMFILE, libc::EIO, libc::ENOMEM, libc::EINTR];
const LOOK: &[i32] = &[libc::EIO, libc::ENOMEM];
const WRITE: &[i32] = &[libc::ENOSPC, libc::EIO, libc::EINTR];
const SYNC: &[i32] = &[libc::EIO, libc::ENOSPC];
const SET: &[i32] = &[libc::EPERM, libc::EIO];
const MOUNT: &[i32] = &[libc::ENOMEM, libc::EPERM];
const COMMAND: &[i32] = &[libc::EIO, libc::ENOMEM, libc::EINTR];
const THREAD: &[i32] = &[libc::EAGAIN];

/// All of them. `close` is left out, as the descriptor is gone whatever it says, and so is memory, of which Rust needs none back.
pub const KINDS: &[Kind] = &[
    kind("openat", libc::SYS_openat, Changes::Flags(2), OPEN),
    kind("openat2", libc::SYS_openat2, Changes::How, OPEN),
    kind("write", libc::SYS_write, Changes::File, WRITE),
    kind("pwrite64", libc::SYS_pwrite64, Changes::File, WRITE),
    kind("writev", libc::SYS_writev, Changes::File, WRITE),
    kind("mkdirat", libc::SYS_mkdirat, Changes::Always, MAKE),
    kind("mknodat", libc::SYS_mknodat, Changes::Always, MAKE),
    kind("symlinkat", libc::SYS_symlinkat, Changes::Always, MAKE),
    kind("linkat", libc::SYS_linkat, Changes::Always, MAKE),
    kind("unlinkat", libc::SYS_unlinkat, Changes::Always, SET),
    kind("renameat", libc::SYS_renameat, Changes::Always, MAKE),
    kind("renameat2", libc::SYS_renameat2, Changes::Always, MAKE),
    kind("ftruncate", libc::SYS_ftruncate, Changes::Always, WRITE),
    kind("fallocate", libc::SYS_fallocate, Changes::Always, WRITE),
    kind("fchmod", libc::SYS_fchmod, Changes::Always, SET),
    kind("fchmodat", libc::SYS_fchmodat, Changes::Always, SET),
    kind("fchmodat2", FCHMODAT2, Changes::Always, &[libc::EIO]),
    kind("fchown", libc::SYS_fchown, Changes::Always, SET),
    kind("fchownat", libc::SYS_fchownat, Changes::Always, SET),
    kind("utimensat", libc::SYS_utimensat, Changes::Always, SET),
    kind("setxattr", libc::SYS_setxattr, Changes::Always, MAKE),
    kind("lsetxattr", libc::SYS_lsetxattr, Changes::Always, MAKE),
    kind("fsetxattr", libc::SYS_fsetxattr, Changes::Always, MAKE),
    kind("removexattr", libc::SYS_removexattr, Changes::Always, SET),
    kind("lremovexattr", libc::SYS_lremovexattr, Changes::Always, SET),
    kind("fremovexattr", libc::SYS_fremovexattr, Changes::Always, SET),
    kind("fsync", libc::SYS_fsync, Changes::Always, SYNC),
    kind("fdatasync", libc::SYS_fdatasync, Changes::Always, SYNC),
    kind("syncfs", libc::SYS_syncfs, Changes::Always, SYNC),
    kind("mount", libc::SYS_mount, Changes::Always, MOUNT),
    kind("umount2", libc::SYS_umount2, Changes::Always, MOUNT),
    kind("fsopen", libc::SYS_fsopen, Changes::Never, &[libc::EMFILE, libc::ENOMEM]),
    kind("fsconfig", libc::SYS_fsconfig, Changes::Always, MOUNT),
    kind("fsmount", libc::SYS_fsmount, Changes::Always, MOUNT),
    kind("move_mount", libc::SYS_move_mount, Changes::Always, MOUNT),
    kind("open_tree", libc::SYS_open_tree, Changes::Never, &[libc::EMFILE, libc::ENOMEM]),
    kind("mount_setattr", libc::SYS_mount_setattr, Changes::Always, MOUNT),
    kind("ioctl", libc::SYS_ioctl, Changes::Command, COMMAND),
    kind("quotactl", libc::SYS_quotactl, Changes::Always, COMMAND),
    kind("quotactl_fd", libc::SYS_quotactl_fd, Changes::Always, COMMAND),
    kind("newfstatat", libc::SYS_newfstatat, Changes::Never, LOOK),
    kind("fstat", libc::SYS_fstat, Changes::Never, LOOK),
    kind("statx", libc::SYS_statx, Changes::Never, LOOK),
    kind("getdents64", libc::SYS_getdents64, Changes::Never, LOOK),
    kind("read", libc::SYS_read, Changes::Never, &[libc::EIO, libc::EINTR]),
    kind("readlinkat", libc::SYS_readlinkat, Changes::Never, LOOK),
    kind("getxattr", libc::SYS_getxattr, Changes::Never, LOOK),
    kind("getxattrat", super::common::old_kernel::GETXATTRAT, Changes::Never, LOOK),
    kind("fgetxattr", libc::SYS_fgetxattr, Changes::Never, LOOK),
    kind("flock", libc::SYS_flock, Changes::Never, &[libc::ENOLCK, libc::EINTR]),
    kind("clone3", libc::SYS_clone3, Changes::Never, THREAD),
];

/// Commands of ioctl(2) that look only: of terminals, files, and device-mapper (version, list, dependencies, status).
const LOOKS: &[u64] = &[0x5401, 0x8008_6601, 0x801c_581f, 0x6602];

/// The numbers of all calls that are to be told.
pub fn numbers() -> impl Iterator<Item = libc::c_long> {
    KINDS.iter().map(|kind| kind.number)
}

/// One call that a thread is about to make.
#[derive(Clone, Copy)]
pub struct Call {
    pub(super) id: u64,
    /// Which of the watched threads, or of the threads that it started.
    pub who: usize,
    pub thread: libc::pid_t,
    pub number: libc::c_long,
    pub arguments: [u64; 6],
}

impl Call {
    pub fn kind(&self) -> &'static Kind {
        KINDS.iter().find(|kind| kind.number == self.number).expect("only these are told")
    }

    /// Whether it may change a disk, a device or the mount table.
    pub fn changes(&self) -> bool {
        let creates = |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0;
        match self.kind().changes {
            Changes::Always => true,
            Changes::Never => false,
            Changes::Flags(at) => creates(self.arguments[at]),
            Changes::How => self.word_at(self.arguments[2]).is_some_and(creates),
            Changes::File => self.has_path(),
            Changes::Command => !LOOKS.contains(&self.arguments[1]) && !self.is_terminals(),
        }
    }

    fn is_terminals(&self) -> bool {
        (0x5401..0x5500).contains(&self.arguments[1]) && !(0x4c00..0x4d00).contains(&self.arguments[1])
    }

    /// The path of the descriptor that is the first argument, if it has one.
    pub fn path(&self) -> Option<String> {
        let link = format!("/proc/{}/fd/{}", self.thread, self.arguments[0]);
        std::fs::read_link(link).ok()?.into_os_string().into_string().ok()
    }

    fn has_path(&self) -> bool {
        self.path().is_some_and(|path| path.starts_with('/') && !path.starts_with("/dev/null"))
    }

    fn word_at(&self, address: u64) -> Option<u64> {
        use std::os::unix::fs::FileExt;
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_ne_bytes(word))
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let on = self.path().unwrap_or_default();
        write!(to, "{}({on})", self.kind().name)
    }
}
