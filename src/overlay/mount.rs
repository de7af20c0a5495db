//! Mounting a layer upon its ancestors.

use super::Overlay;
use super::layout::{DIFF, EMPTY, Home, Layer, Lowers, MERGED, WORK};
use super::probe::{MAX_LOWERS, Stacking};
use crate::driver::MountOptions;
use crate::error::{Error, Kind, Result};
use crate::id::LayerId;
use crate::locks::Mode;
use crate::log;
use crate::mounts::Words;
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

impl Overlay {
    pub(super) fn mount_layer(&self, id: &LayerId, options: &MountOptions) -> Result<PathBuf> {
        let _held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        let dir = self.home.open()?;
        let layer = Layer::open(&dir, id)?;
        layer.check_finished()?;
        let words = self.words(options);
        let merged = self.home.path(id, MERGED);
        if layer.is_mounted(&self.home)? && !words.flags.contains(Flags::MS_REMOUNT) {
            return Ok(merged);
        }
        let target = self.home.mount_point(id);
        let stack = Stack { home: &self.home, dir: &dir, layer: &layer, lowers: layer.lowers()?, words, target: &target };
        match self.with_room(&layer, || stack.mount(self.stacking)) {
            Err(e) if e.kind() == Kind::NotFound && self.restore_links(&dir)? > 0 => {
                log::warn!("restored links of layers below '{id}'");
                self.with_room(&layer, || stack.mount(self.stacking))
            }
            outcome => outcome,
        }
        .map_err(|e| stack.explained(e))?;
        Ok(merged)
    }

    /// The kernel needs a little room in the layer to mount it for writing, also where the layer's limit is used up.
    fn with_room(&self, layer: &Layer, mount: impl FnOnce() -> Result<()>) -> Result<()> {
        match &self.quota {
            Ok(quota) => quota.with_room(layer.as_fd(), mount),
            Err(_) => mount(),
        }
    }

    pub(super) fn umount_layer(&self, id: &LayerId) -> Result<()> {
        let _held = self.locks.hold(&[(id.as_str(), Mode::Exclusive)])?;
        mount::umount_detach(&self.home.mount_point(id)).map(drop)
    }

    /// The layer's own options replace the configured ones; the label goes with either.
    fn words(&self, options: &MountOptions) -> Words {
        let mut words =
            if options.options.is_empty() { Words::parse([&self.options.mountopt]) } else { Words::parse(&options.options) };
        if let Some(label) = options.mount_label.as_deref().filter(|label| !label.is_empty()) {
            words.data.push([OsStr::new("context=\""), label, OsStr::new("\"")].into_iter().collect());
        }
        words
    }

    /// An error unless a layer on top of these lowers can be mounted here.
    pub(super) fn check_depth(&self, id: &LayerId, lowers: &Lowers) -> Result<()> {
        let depth = lowers.0.len();
        let fits = match self.stacking {
            Stacking::OneByOne => depth <= MAX_LOWERS,
            Stacking::OptionString => {
                let options = Words::parse([&self.options.mountopt]);
                depth <= MAX_LOWERS && option_string(Path::new(""), id, lowers, &options.data).as_bytes().len() < PAGE
            }
        };
        if fits {
            return Ok(());
        }
        let limit = match self.stacking {
            Stacking::OneByOne => "overlayfs stacks at most 500",
            Stacking::OptionString => "before Linux 6.8 all of them must fit into one page of mount options, about 130",
        };
        Err(Error::new(Kind::Limit, format!("Max depth exceeded: {depth} layers below it, and {limit}")))
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
    words: Words,
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
        mount::mount(nothing, self.target, "", self.words.propagation, nothing).map_err(|e| {
            match mount::umount_detach(self.target) {
                Ok(_) => e,
                Err(other) => e.and_also(other),
            }
        })
    }

    /// The paths of the lowers below home, the topmost first.
    fn lower_paths(&self) -> Vec<String> {
        match self.lowers.0.as_slice() {
            [] => vec![format!("{}/{EMPTY}", self.layer.id)],
            links => links.iter().map(super::layout::LinkId::path).collect(),
        }
    }

    /// The layer's own directory, by a path under which the names of its parts fit into one `fsconfig` string.
    fn own_base(&self) -> PathBuf {
        short(self.home.real.join(self.layer.id.as_str()), self.layer.as_fd(), EMPTY.len())
    }

    /// The lowers by paths that the kernel can be given one by one.
    fn lowers_one_by_one(&self) -> Vec<PathBuf> {
        if self.lowers.0.is_empty() {
            return vec![self.own_base().join(EMPTY)];
        }
        let links = self.lower_paths();
        let base = base_for(self.home, self.dir, links.iter().map(String::len).max().unwrap_or(0));
        links.iter().map(|link| base.join(link)).collect()
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
        context.string("upperdir", base.join(DIFF))?;
        context.string("workdir", base.join(WORK))?;
        context.create()?;
        let mounted = context.mount(attributes(self.words.flags))?;
        attach(mounted.as_fd(), self.layer, MERGED)
    }

    /// `mount(2)` with all lowers in one string; with names relative to home where absolute ones do not fit.
    fn mount_classic(&self) -> Result<()> {
        let id = &self.layer.id;
        let data = option_string(&self.home.real, id, &self.lowers, &self.words.data);
        let (source, flags) = (OsStr::new("overlay"), self.words.flags);
        if data.as_bytes().len() < PAGE {
            return mount::mount(source, self.target, "overlay", flags, &data);
        }
        let data = option_string(Path::new(""), id, &self.lowers, &self.words.data);
        if data.as_bytes().len() >= PAGE {
            let what = format!("{} layers do not fit into one page of mount options", self.lowers.0.len());
            return Err(Error::new(Kind::Limit, what).hint("cannot mount layer, mount label too large; or use Linux 6.8"));
        }
        let target = Path::new(id.as_str()).join(MERGED);
        own_cwd::run_in(self.dir.as_fd(), || mount::mount(source, &target, "overlay", flags, &data))
    }

    /// Says which part of the layer is missing where the kernel only says "no such file".
    fn explained(&self, error: Error) -> Error {
        let lowers = self.lower_paths();
        let parts = [DIFF, WORK, MERGED].map(|name| format!("{}/{name}", self.layer.id));
        for path in lowers.iter().chain(&parts) {
            let found = fs::stat_at_follow(self.dir, path);
            if !found.is_ok_and(|stat| stat.kind == fs::FileKind::Dir) {
                return error.with_kind(Kind::Corrupt).hint(format!(
                    "'{path}' is missing in {}; repair the layer or make it anew",
                    fs::shown(&self.home.path)
                ));
            }
        }
        error
    }
}

/// The options of overlayfs as one string. `base` is home, or empty for names relative to it.
fn option_string(base: &Path, id: &LayerId, lowers: &Lowers, options: &[OsString]) -> OsString {
    let layer = Path::new(id.as_str());
    let mut data = OsString::new();
    for option in options {
        data.push(option);
        data.push(",");
    }
    data.push("lowerdir=");
    if lowers.0.is_empty() {
        data.push(base.join(layer).join(EMPTY));
    }
    for (i, link) in lowers.0.iter().enumerate() {
        if i > 0 {
            data.push(":");
        }
        data.push(base.join(link.path()));
    }
    data.push(",upperdir=");
    data.push(base.join(layer).join(DIFF));
    data.push(",workdir=");
    data.push(base.join(layer).join(WORK));
    data
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
        let absolute = option_string(Path::new("/h"), &id, &lowers, &["index=off".into()]);
        assert_eq!(absolute, "index=off,lowerdir=/h/l/A:/h/l/B,upperdir=/h/c1/diff,workdir=/h/c1/work");
        let relative = option_string(Path::new(""), &id, &Lowers::default(), &[]);
        assert_eq!(relative, "lowerdir=c1/empty,upperdir=c1/diff,workdir=c1/work");
    }

    #[test]
    fn flags_become_attributes() {
        assert_eq!(attributes(Flags::MS_RDONLY | Flags::MS_NODEV), 5);
        assert_eq!(attributes(Flags::MS_NOATIME | Flags::MS_STRICTATIME), attr::STRICTATIME);
    }
}
