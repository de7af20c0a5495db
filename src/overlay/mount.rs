//! Mounting a layer upon its ancestors.

use super::Shared;
use super::layout::{DIFF, EMPTY, Found, Home, Layer, LinkId, Lowers, MERGED, WORK, find, incomplete, look};
use super::leftover::children;
use super::links::owner;
use super::probe::{MAX_LOWERS, Stacking};
use super::repair::lowers_of;
use crate::driver::{Access, MountOptions};
use crate::error::errno::{ELOOP, ENOENT, ENOSPC, ENOTDIR, EROFS};
use crate::error::{Context as _, Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::log;
use crate::mounts::{self, Words};
use crate::room;
use crate::sys::fs;
use crate::sys::mount::{self, Flags};
use crate::sys::newmount::{Context, MAX_STRING, attach, attr};
use crate::sys::own_cwd;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `mount(2)` copies one page of options, which must end in a NUL byte; 4096 is the smallest page of any architecture.
pub(super) const PAGE: usize = 4096;

impl Shared {
    pub(super) fn mount_layer(&self, id: &LayerId, options: &MountOptions) -> Result<PathBuf> {
        let _held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        let dir = self.home.open()?;
        let Found::Layer(layer) = find(&self.home, &dir, id)? else {
            return Err(Error::new(Kind::NotFound, format!("layer '{id}' does not exist")));
        };
        self.lease.tell(id);
        layer.check_finished()?;
        self.before_use(&dir, &layer);
        let access = self.access_for_mount(&dir, &layer)?;
        let words = self.words(options, access)?;
        let merged = self.home.path(id, MERGED);
        let is_mounted = layer.is_mounted(&self.home)?;
        if is_mounted && !words.flags.contains(Flags::MS_REMOUNT) {
            return Ok(merged);
        }
        // A mount that only changes its options is as volatile as it was.
        if has_upper(access) && !is_mounted {
            // First: with the note of this boot, what an earlier one left would not be told any more.
            self.forget_volatile(&layer)?;
            if words.data.iter().any(|word| word == "volatile" || word == "fsync=volatile") {
                self.note_volatile(&dir, &layer)?;
            }
        }
        let mount = |access| {
            let lowers = self.visible_lowers(&dir, &layer)?;
            let target = self.home.mount_point(id);
            let stack = Stack { home: &self.home, dir: &dir, layer: &layer, lowers, access, words: &words, target: &target };
            self.with_room(&dir, &layer, || stack.mount(self.stacking))
                .map_err(|e| room::explain(stack.explained(e), layer.as_fd()))
        };
        let first = mount(access);
        match first {
            // The kernel takes no upper directory there, and has the same error for that as for many things.
            Err(_) if has_upper(access) && fs::is_read_only(&layer)? => {
                if !words.flags.contains(Flags::MS_RDONLY) {
                    let hint = "the filesystem of home can only be read; mount the layer with 'ro'";
                    return Err(Error::sys("mount it for writing", EROFS).hint(hint));
                }
                mount(Some(Access::ReadOnly))?;
            }
            Err(e) if [Kind::NotFound, Kind::Corrupt].contains(&e.kind()) => {
                // The worker may have done that just now: what is mended is not what counts.
                self.furnish(&dir, &layer)?;
                self.restore_links(&dir, Some(&layer.id))?;
                mount(access)?;
                log::warn!("layer '{id}' is mounted now; before it was mended: {e}");
            }
            outcome => outcome?,
        }
        Ok(merged)
    }

    /// Read-only layers are mounted read-only: what is written into an image would show in all containers upon it. The C module keeps
    /// no note of which layers these are; while one has children, it is mounted as they need it.
    fn access_for_mount(&self, home: &OwnedFd, layer: &Layer) -> Result<Option<Access>> {
        match layer.access()? {
            None if children(home, layer)?.told()?.is_some() => Ok(Some(Access::ReadOnly)),
            noted => Ok(noted),
        }
    }

    /// The ancestors as far as they can be seen: one whose root is opaque hides those below it, also where it became that after
    /// its children were made. One that is not finished must not be shown.
    fn visible_lowers(&self, home: &OwnedFd, layer: &Layer) -> Result<Lowers> {
        let mut lowers = lowers_of(home, layer)?;
        let mut seen = 0;
        for link in &lowers.0 {
            let found = look(home, link).map_err(|e| unreachable(link, e))?;
            if found.unfinished {
                let owner = owner(home, link).ok().flatten();
                let name = owner.map_or_else(|| link.as_str().to_owned(), |id| id.to_string());
                return Err(incomplete(&name)).context(|| "a layer below it");
            }
            seen += 1;
            if found.root_opaque {
                break;
            }
        }
        lowers.0.truncate(seen);
        Ok(lowers)
    }

    /// The kernel needs a little room in the layer to mount it for writing, also where the layer's limit is used up.
    fn with_room(&self, dir: &OwnedFd, layer: &Layer, mount: impl FnOnce() -> Result<()>) -> Result<()> {
        match &self.quota {
            Ok(quota) => quota.with_room(dir.as_fd(), layer.as_fd(), mount),
            Err(_) => mount(),
        }
    }

    /// What a crash left of the layer's limit is put right, and one that is not enforced is told in the log.
    pub(super) fn before_use(&self, dir: &OwnedFd, layer: &Layer) {
        if let Ok(quota) = &self.quota {
            quota.before_use(dir.as_fd(), layer.as_fd(), layer.id.as_str());
        }
    }

    pub(super) fn umount_layer(&self, id: &LayerId) -> Result<()> {
        id.check_free(&super::layout::RESERVED)?;
        let _held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        mount::umount_detach(&self.home.mount_point(id)).map(drop)
    }

    /// The layer's own options replace the configured ones; the label goes with either.
    fn words(&self, options: &MountOptions, access: Option<Access>) -> Result<Words> {
        let mut words =
            if options.options.is_empty() { Words::parse([&self.options.mountopt]) } else { Words::parse(&options.options) };
        if let Some(label) = options.mount_label.as_deref().filter(|label| !label.is_empty()) {
            words.data.push([OsStr::new("context=\""), label, OsStr::new("\"")].into_iter().collect());
        }
        if access == Some(Access::ReadOnly) {
            words.flags |= Flags::MS_RDONLY;
        }
        super::defaults::add(&mut words, access)?;
        Ok(words)
    }

    /// An error unless a layer on top of these lowers can be mounted here.
    pub(super) fn check_depth(&self, id: &LayerId, lowers: &Lowers, access: Access) -> Result<()> {
        // A read-only layer is a lower of its own mount.
        let depth = lowers.0.len() + usize::from(access == Access::ReadOnly);
        let fits = match self.stacking {
            Stacking::OneByOne => depth <= MAX_LOWERS,
            Stacking::OptionString => {
                let words = self.words(&MountOptions::default(), Some(access))?;
                let string = option_string(Path::new(""), id, lowers, Some(access), &words.data);
                depth <= MAX_LOWERS && string.as_bytes().len() < PAGE
            }
        };
        if fits {
            return Ok(());
        }
        let limit = match self.stacking {
            Stacking::OneByOne => "overlayfs stacks at most 500",
            Stacking::OptionString => "before Linux 6.8 all of them must fit into one page of mount options, about 130",
        };
        Err(Error::new(Kind::Limit, format!("Max depth exceeded: {} layers below it, and {limit}", lowers.0.len())))
    }
}

/// A path of home under which names of `longest` bytes still fit into one `fsconfig` string: home itself, or where that is too
/// long, its open descriptor.
pub(super) fn base_for(home: &Home, dir: &OwnedFd, longest: usize) -> PathBuf {
    short(home.real.clone(), dir.as_fd(), longest)
}

/// The path of a directory, or of its descriptor where names of `longest` bytes below it would not fit into one `fsconfig` string.
fn short(path: PathBuf, dir: BorrowedFd<'_>, longest: usize) -> PathBuf {
    if path.as_os_str().as_bytes().len() + 1 + longest <= MAX_STRING {
        path
    } else {
        PathBuf::from(format!("/proc/thread-self/fd/{}", dir.as_raw_fd()))
    }
}

/// All that a mount is made of.
struct Stack<'a> {
    home: &'a Home,
    dir: &'a OwnedFd,
    layer: &'a Layer,
    lowers: Lowers,
    access: Option<Access>,
    words: &'a Words,
    target: &'a Path,
}

impl Stack<'_> {
    fn mount(&self, stacking: Stacking) -> Result<()> {
        if self.words.flags.contains(Flags::MS_REMOUNT) {
            // The layers of a mount cannot be changed.
            mount::mount(OsStr::new("overlay"), self.target, "overlay", self.words.flags, &self.words.data_string())?;
        } else if stacking == Stacking::OptionString || self.words.flags.contains(Flags::MS_BIND) || !self.fits_one_by_one()
        {
            self.mount_classic()?;
        } else {
            self.mount_one_by_one()?;
        }
        if self.words.propagation.is_empty() {
            return Ok(());
        }
        let nothing = OsStr::new("");
        let is_new = !self.words.flags.contains(Flags::MS_REMOUNT);
        let set = mount::mount(nothing, self.target, "", self.words.propagation, nothing);
        set.map_err(|e| if is_new { self.take_off(e) } else { e })
    }

    /// Takes a mount away that is not what it was to be.
    fn take_off(&self, why: Error) -> Error {
        match mount::umount_detach(self.target) {
            Ok(_) => why,
            Err(other) => why.and_also(other),
        }
    }

    /// The layer's own directory, by a path under which the names of its parts fit into one `fsconfig` string.
    fn own_base(&self) -> PathBuf {
        short(self.home.real.join(self.layer.id.as_str()), self.layer.as_fd(), EMPTY.len())
    }

    /// The lowers by paths that the kernel can be given one by one.
    fn lowers_one_by_one(&self) -> Vec<PathBuf> {
        let parts = lower_parts(&self.lowers, self.access);
        let longest = self.lowers.0.iter().map(|link| link.path().len()).max().unwrap_or(0);
        let (own, base) = (self.own_base(), base_for(self.home, self.dir, longest));
        let path = |part: &Part<'_>| match part {
            Part::Own(name) => own.join(name),
            Part::Link(link) => base.join(link.path()),
        };
        parts.iter().map(path).collect()
    }

    /// Whether every value is short enough: SELinux labels with many categories and link names of other tools may not be.
    fn fits_one_by_one(&self) -> bool {
        let fits = |text: &OsStr| text.as_bytes().len() <= MAX_STRING;
        self.lowers_one_by_one().iter().all(|path| fits(path.as_os_str())) && self.words.data.iter().all(|word| fits(word))
    }

    /// Linux 6.8: each lower is an option of its own, and no page limits their number.
    fn mount_one_by_one(&self) -> Result<()> {
        let base = self.own_base();
        let context = Context::open("overlay")?;
        context.string("source", "overlay")?;
        for option in &self.words.data {
            set_option(&context, option)?;
        }
        for (flag, name) in [
            (Flags::MS_RDONLY, "ro"),
            (Flags::MS_SYNCHRONOUS, "sync"),
            (Flags::MS_DIRSYNC, "dirsync"),
            (Flags::MS_MANDLOCK, "mand"),
        ] {
            if self.words.flags.contains(flag) {
                context.flag(name)?;
            }
        }
        for lower in self.lowers_one_by_one() {
            context.string("lowerdir+", lower)?;
        }
        if has_upper(self.access) {
            context.string("upperdir", base.join(DIFF))?;
            context.string("workdir", base.join(WORK))?;
        }
        context.create()?;
        let mounted = context.mount(attributes(self.words.flags))?;
        self.check_writable(&mounted)?;
        attach(mounted.as_fd(), self.layer, MERGED).map_err(mounts::table_full)
    }

    /// `mount(2)` with all lowers in one string; with names relative to home where absolute ones do not fit.
    fn mount_classic(&self) -> Result<()> {
        let id = &self.layer.id;
        let string = |base: &Path| option_string(base, id, &self.lowers, self.access, &self.words.data);
        let (data, source, flags) = (string(&self.home.real), OsStr::new("overlay"), self.words.flags);
        if data.as_bytes().len() < PAGE {
            mount::mount(source, self.target, "overlay", flags, &data).map_err(mounts::explained)?;
        } else {
            let data = string(Path::new(""));
            if data.as_bytes().len() >= PAGE {
                let what = format!("{} layers do not fit into one page of mount options", self.lowers.0.len());
                return Err(
                    Error::new(Kind::Limit, what).hint("cannot mount layer, mount label too large; or use Linux 6.8")
                );
            }
            let target = Path::new(id.as_str()).join(MERGED);
            own_cwd::run_in(self.dir.as_fd(), || mount::mount(source, &target, "overlay", flags, &data))
                .map_err(mounts::explained)?;
        }
        fs::open_dir(self.target).and_then(|mounted| self.check_writable(&mounted)).map_err(|e| self.take_off(e))
    }

    /// Overlayfs mounts read-only, and says so only in the kernel's log, where it cannot make what it needs in the work directory.
    fn check_writable(&self, mounted: &OwnedFd) -> Result<()> {
        if self.words.flags.contains(Flags::MS_RDONLY) || !fs::is_read_only(mounted)? {
            return Ok(());
        }
        Err(Error::sys("make the layer's work directory", ENOSPC))
    }

    /// Says which part of the layer is missing, or no directory, where the kernel only says that it cannot.
    fn explained(&self, error: Error) -> Error {
        let is_dir = |part: &Part<'_>| match part {
            Part::Own(name) => self.layer.has_dir(name),
            Part::Link(link) => fs::stat_at_follow(self.dir, link.path()).map(|stat| stat.kind == fs::FileKind::Dir),
        };
        let own: &[&str] = if has_upper(self.access) { &[DIFF, WORK, MERGED] } else { &[MERGED] };
        let mut parts = lower_parts(&self.lowers, self.access);
        parts.extend(own.iter().map(|name| Part::Own(name)));
        let Some(bad) = parts.iter().find(|part| !is_dir(part).unwrap_or(false)) else { return error };
        let path = match bad {
            Part::Own(name) => format!("{}/{name}", self.layer.id),
            Part::Link(link) => link.path(),
        };
        let home = fs::shown(&self.home.path);
        error
            .with_kind(Kind::Corrupt)
            .hint(format!("'{path}' in {home} is missing or no directory; repair the layer or make it anew"))
    }
}

/// A layer below cannot be reached by its link.
fn unreachable(link: &LinkId, error: Error) -> Error {
    if ![ENOENT, ENOTDIR, ELOOP].contains(&error.errno()) {
        return error;
    }
    let what = format!("a layer below it is missing: '{}' does not lead to one ({error})", link.path());
    Error::new(Kind::Corrupt, what)
        .hint("call graphdriver_try_repair_lowers with its parent, or make the missing layer anew")
}

/// A lower: a directory of the layer's own, or what a link leads to.
#[derive(Clone, Copy)]
enum Part<'a> {
    Own(&'a str),
    Link(&'a LinkId),
}

/// Only what may be written has an upper directory; what an unmarked layer is, nobody knows.
fn has_upper(access: Option<Access>) -> bool {
    access != Some(Access::ReadOnly)
}

/// The lowers, the topmost first. A read-only layer's own content is the topmost; overlayfs wants two where there is no upper.
fn lower_parts(lowers: &Lowers, access: Option<Access>) -> Vec<Part<'_>> {
    let mut parts = Vec::with_capacity(lowers.0.len() + 1);
    if !has_upper(access) {
        parts.push(Part::Own(DIFF));
    }
    parts.extend(lowers.0.iter().map(Part::Link));
    if lowers.0.is_empty() {
        parts.push(Part::Own(EMPTY));
    }
    parts
}

/// The options of overlayfs as one string. `base` is home, or empty for names relative to it.
fn option_string(base: &Path, id: &LayerId, lowers: &Lowers, access: Option<Access>, options: &[OsString]) -> OsString {
    let own = base.join(id.as_str());
    let paths = lower_parts(lowers, access).into_iter().map(|part| match part {
        Part::Own(name) => own.join(name).into_os_string(),
        Part::Link(link) => base.join(link.path()).into_os_string(),
    });
    let mut words = options.to_vec();
    words.push([OsString::from("lowerdir="), paths.collect::<Vec<_>>().join(OsStr::new(":"))].into_iter().collect());
    if has_upper(access) {
        let option = |key: &str, name: &str| [OsString::from(key), own.join(name).into()].into_iter().collect::<OsString>();
        words.extend([option("upperdir=", DIFF), option("workdir=", WORK)]);
    }
    words.join(OsStr::new(","))
}

/// Gives one option word to the kernel: `key=value`, with the quotes around a value taken off, or a lone `key`.
fn set_option(context: &Context, option: &OsStr) -> Result<()> {
    let bytes = option.as_bytes();
    let (key, value) = match bytes.iter().position(|&b| b == b'=') {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    let key = std::str::from_utf8(key).map_err(|_| Error::new(Kind::Invalid, "a mount option is not text"))?;
    match value {
        Some(value) => {
            let unquoted = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
            context.string(key, OsStr::from_bytes(unquoted))
        }
        None => context.flag(key),
    }
}

fn attributes(flags: Flags) -> u32 {
    [
        (Flags::MS_RDONLY, attr::RDONLY),
        (Flags::MS_NOSUID, attr::NOSUID),
        (Flags::MS_NODEV, attr::NODEV),
        (Flags::MS_NOEXEC, attr::NOEXEC),
        (Flags::MS_NOATIME, attr::NOATIME),
        (Flags::MS_NODIRATIME, attr::NODIRATIME),
        (Flags::MS_STRICTATIME, attr::STRICTATIME),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.contains(*flag))
    // noatime and strictatime are values of one field; as with mount(2), strictatime wins.
    .fold(0, |all, (_, bit)| if bit == attr::STRICTATIME { (all & !attr::NOATIME) | bit } else { all | bit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_string_is_the_c_modules() {
        let id = LayerId::parse(b"c1").unwrap();
        let lowers = Lowers::parse(b"l/A:l/B").unwrap();
        let absolute = option_string(Path::new("/h"), &id, &lowers, None, &["index=off".into()]);
        assert_eq!(absolute, "index=off,lowerdir=/h/l/A:/h/l/B,upperdir=/h/c1/diff,workdir=/h/c1/work");
        let relative = option_string(Path::new(""), &id, &Lowers::default(), Some(Access::ReadWrite), &[]);
        assert_eq!(relative, "lowerdir=c1/empty,upperdir=c1/diff,workdir=c1/work");
    }

    #[test]
    fn a_read_only_layer_is_the_topmost_lower_of_at_least_two() {
        let id = LayerId::parse(b"i").unwrap();
        let string = |lowers: &Lowers| option_string(Path::new("/h"), &id, lowers, Some(Access::ReadOnly), &[]);
        assert_eq!(string(&Lowers::parse(b"l/A").unwrap()), "lowerdir=/h/i/diff:/h/l/A");
        assert_eq!(string(&Lowers::default()), "lowerdir=/h/i/diff:/h/i/empty");
    }

    #[test]
    fn flags_become_attributes() {
        assert_eq!(attributes(Flags::MS_RDONLY | Flags::MS_NODEV), 5);
        assert_eq!(attributes(Flags::MS_NOATIME | Flags::MS_STRICTATIME), attr::STRICTATIME);
    }
}
