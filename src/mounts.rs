//! Mount option words, and what is mounted where.

use crate::error::errno::ENOSPC;
use crate::error::{Error, Result};
use crate::sys::mount::{self, Flags};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Mount options, sorted into what `mount(2)` takes as flags and what it hands to the filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// Flags to set.
    pub flags: Flags,
    /// A change of propagation, which takes a `mount(2)` of its own.
    pub propagation: Flags,
    /// Everything else, in order.
    pub data: Vec<OsString>,
}

/// What a word does to the flags.
enum Effect {
    Set(Flags),
    Clear(Flags),
    Propagation(Flags),
    Nothing,
}

/// The words of `mount(8)` that are flags to the kernel.
fn effect(word: &[u8]) -> Option<Effect> {
    use Effect::{Clear, Nothing, Propagation, Set};
    let recursive = Flags::MS_REC;
    Some(match word {
        b"defaults" | b"" => Nothing,
        b"ro" => Set(Flags::MS_RDONLY),
        b"rw" => Clear(Flags::MS_RDONLY),
        b"nosuid" => Set(Flags::MS_NOSUID),
        b"suid" => Clear(Flags::MS_NOSUID),
        b"nodev" => Set(Flags::MS_NODEV),
        b"dev" => Clear(Flags::MS_NODEV),
        b"noexec" => Set(Flags::MS_NOEXEC),
        b"exec" => Clear(Flags::MS_NOEXEC),
        b"sync" => Set(Flags::MS_SYNCHRONOUS),
        b"async" => Clear(Flags::MS_SYNCHRONOUS),
        b"dirsync" => Set(Flags::MS_DIRSYNC),
        b"remount" => Set(Flags::MS_REMOUNT),
        b"mand" => Set(Flags::MS_MANDLOCK),
        b"nomand" => Clear(Flags::MS_MANDLOCK),
        b"noatime" => Set(Flags::MS_NOATIME),
        b"atime" => Clear(Flags::MS_NOATIME),
        b"nodiratime" => Set(Flags::MS_NODIRATIME),
        b"diratime" => Clear(Flags::MS_NODIRATIME),
        b"relatime" => Set(Flags::MS_RELATIME),
        b"norelatime" => Clear(Flags::MS_RELATIME),
        b"strictatime" => Set(Flags::MS_STRICTATIME),
        b"nostrictatime" => Clear(Flags::MS_STRICTATIME),
        b"bind" => Set(Flags::MS_BIND),
        b"rbind" => Set(Flags::MS_BIND | recursive),
        b"private" => Propagation(Flags::MS_PRIVATE),
        b"rprivate" => Propagation(Flags::MS_PRIVATE | recursive),
        b"shared" => Propagation(Flags::MS_SHARED),
        b"rshared" => Propagation(Flags::MS_SHARED | recursive),
        b"slave" => Propagation(Flags::MS_SLAVE),
        b"rslave" => Propagation(Flags::MS_SLAVE | recursive),
        b"unbindable" => Propagation(Flags::MS_UNBINDABLE),
        b"runbindable" => Propagation(Flags::MS_UNBINDABLE | recursive),
        _ => return None,
    })
}

impl Words {
    /// Sorts comma-separated options, each of which may hold several words. A comma between double quotes separates nothing.
    pub fn parse<S: AsRef<OsStr>>(options: impl IntoIterator<Item = S>) -> Words {
        let mut words = Words { flags: Flags::empty(), propagation: Flags::empty(), data: Vec::new() };
        for option in options {
            for word in unquoted_commas(option.as_ref().as_bytes()) {
                match effect(word) {
                    Some(Effect::Set(flags)) => words.flags |= flags,
                    Some(Effect::Clear(flags)) => words.flags &= !flags,
                    Some(Effect::Propagation(flags)) => words.propagation = flags,
                    Some(Effect::Nothing) => {}
                    None => words.data.push(OsString::from_vec(word.to_vec())),
                }
            }
        }
        words
    }

    /// The data as one string for `mount(2)`.
    #[must_use]
    pub fn data_string(&self) -> OsString {
        self.data.join(OsStr::new(","))
    }
}

fn unquoted_commas(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    text.split(move |&byte| {
        quoted ^= byte == b'"';
        byte == b',' && !quoted
    })
}

/// Whether something is mounted on the directory `name` of `dir`. `path` is the same place as an absolute path without
/// symlinks; it is looked up in the mount table where the kernel (before 5.8) has no better answer.
///
/// # Errors
/// The directory does not exist or cannot be asked.
pub fn is_mount_point(dir: impl AsFd, name: impl AsRef<OsStr>, path: &Path) -> Result<bool> {
    match mount::is_mount_root(dir, name.as_ref())? {
        Some(answer) => Ok(answer),
        None => Ok(mount_points(&mount::table()?).any(|point| point == path)),
    }
}

/// The mount points strictly below a directory, in the calling thread's namespace.
///
/// # Errors
/// The mount table cannot be read.
pub fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(mount_points(&mount::table()?).filter(|point| point != dir && point.starts_with(dir)).collect())
}

/// The same, each with the type of its filesystem.
///
/// # Errors
/// The mount table cannot be read.
pub fn kinds_below(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let below = |m: &Mounted| m.point != dir && m.point.starts_with(dir);
    Ok(mounted(&mount::table()?).filter(below).map(|m| (m.point, m.kind)).collect())
}

/// Which mount is the topmost on the directory `path`, which is absolute and without symlinks, if it shows what lies under it: a
/// bind mount of the directory on itself. The number is never given again; before Linux 6.8 it is, when the mount is gone.
///
/// # Errors
/// The mount table cannot be read.
pub fn bound_on_itself(path: &Path) -> Result<Option<u64>> {
    let number = self_bind(&mount::table()?, path);
    Ok(match number {
        Some(number) => Some(mount::unique_number(path)?.unwrap_or(number)),
        None => None,
    })
}

fn self_bind(table: &[u8], path: &Path) -> Option<u64> {
    let on = mounted(table).filter(|m| m.point == path).last()?;
    let above = mounted(table).filter(|m| m.point != path && path.starts_with(&m.point));
    // The deepest mount point above it; of several on one point, the last one.
    let above = above.max_by_key(|m| m.point.as_os_str().len())?;
    let below = path.strip_prefix(&above.point).unwrap_or(path);
    (on.device == above.device && on.root == above.root.join(below)).then_some(on.number)
}

/// Says in the error of `mount(2)` that it was the mount table which had no room, where that is so: the kernel says `ENOSPC` of it
/// as of a disk. Not all mounts that count are shown to a process that was moved into another root.
#[must_use]
pub fn explained(error: Error) -> Error {
    match count().filter(|_| error.errno() == ENOSPC) {
        Some((number, most)) if number + most / 10 >= most => table_full(error),
        _ => error,
    }
}

/// The same of a call for which `ENOSPC` has no other meaning: `move_mount(2)`, a bind mount.
#[must_use]
pub fn table_full(error: Error) -> Error {
    if error.errno() != ENOSPC {
        return error;
    }
    let most = count().map_or_else(String::new, |(number, most)| format!(" ({number} mounts, and fs.mount-max is {most})"));
    error.hint(format!("the mount table is full{most}, not the disk; unmount what is not needed, or raise fs.mount-max"))
}

/// How many mounts the calling thread's namespace has, and how many it may have (`fs.mount-max`, `proc(5)`), where that can be told.
fn count() -> Option<(usize, usize)> {
    let most = std::fs::read_to_string("/proc/sys/fs/mount-max").ok()?.trim().parse().ok()?;
    Some((mounted(&mount::table().ok()?).count(), most))
}

/// One mount of a mount table (`proc(5)`, `mountinfo`).
struct Mounted {
    /// Of this mount, while it lasts.
    number: u64,
    /// Major and minor number of the filesystem.
    device: PathBuf,
    /// Which directory of the filesystem is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
    /// The type of the filesystem.
    kind: Vec<u8>,
}

/// The mounts of a mount table: the first and the third to fifth field of each line, and the first behind the lone dash.
fn mounted(table: &[u8]) -> impl Iterator<Item = Mounted> {
    table.split(|&b| b == b'\n').filter_map(|line| {
        let mut fields = line.split(|&b| b == b' ');
        let number = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let (device, root, point) = (fields.nth(1)?, fields.next()?, fields.next()?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1).unwrap_or_default().to_vec();
        Some(Mounted { number, device: unescape(device), root: unescape(root), point: unescape(point), kind })
    })
}

fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    mounted(table).map(|m| m.point)
}

/// `proc(5)`: blank, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_flags_by_exact_match_only() {
        let words = Words::parse(["ro,nosuid", "rootcontext=\"a:b:c0,c1\"", "rslave", "defaults,index=off,rw"]);
        assert_eq!(words.flags, Flags::MS_NOSUID);
        assert_eq!(words.propagation, Flags::MS_SLAVE | Flags::MS_REC);
        assert_eq!(words.data_string(), "rootcontext=\"a:b:c0,c1\",index=off");
        assert_eq!(Words::parse([""; 0]), Words::parse(["", ",,"]));
    }

    #[test]
    fn a_bind_mount_of_a_directory_on_itself_is_told_from_others() {
        let table = |root: &str| {
            format!(
                "1 0 8:1 / / rw - ext4 d rw\n2 1 8:2 /data /var/lib rw - ext4 d rw\n3 2 8:2 {root} /var/lib/s/o rw - ext4 d rw\n"
            )
        };
        let home = Path::new("/var/lib/s/o");
        assert_eq!(self_bind(table("/data/s/o").as_bytes(), home), Some(3));
        assert_eq!(self_bind(table("/elsewhere/o").as_bytes(), home), None, "the administrator's own bind mount");
        assert_eq!(self_bind(table("/").as_bytes(), home), None, "a filesystem of its own");
        assert_eq!(self_bind(b"1 0 8:1 / / rw - ext4 d rw\n", home), None, "nothing is mounted");
    }

    #[test]
    fn mount_points_are_unescaped() {
        let table = b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 - ext3 /dev/root rw\n\
            37 36 0:3 / /a\\04 rw - tmpfs t rw\nbroken\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [Path::new("/mnt 2\\x"), Path::new("/a\\04")]);
        assert_eq!(mounted(table).map(|m| m.kind).collect::<Vec<_>>(), [&b"ext3"[..], b"tmpfs"]);
    }
}
