//! What is on disk: the names in the home directory and in a layer, and the two small files that link layers.
//!
//! ```text
//! <home>/l/<LINK>        symlink to ../<id>/diff: a short name for mount options
//! <home>/<id>/diff/      the layer's own content (the upper directory)
//! <home>/<id>/link       LINK
//! <home>/<id>/lower      l/<LINK of the parent>:l/<LINK of its parent>:…  only if the layer has a parent
//! <home>/<id>/empty/     stands for the missing lower otherwise
//! <home>/<id>/work/      the kernel's scratch directory
//! <home>/<id>/merged/    where the layer is mounted
//! ```
//! iSulad's C module, Docker and containers/storage use the same form. A name in home of the form `.stage-…` or `.trash-…` is ours
//! while something is being made or deleted; what a crash leaves of it, the next start's worker deletes. `.room-…` notes that a limit
//! is raised for a moment (`quota::room`).

use crate::driver::Access;
use crate::error::errno::{EFBIG, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ERANGE};
use crate::error::{Context, Error, Kind, Result};
use crate::id::LayerId;
use crate::mounts;
use crate::quota;
use crate::sys::fs::{self, FileKind};
use crate::sys::xattr;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub(super) const LINKS: &str = "l";
pub(super) const DIFF: &str = "diff";
/// The mode that `diff` is made with: it becomes that of the container's root directory.
pub(super) const DIFF_MODE: u32 = 0o755;
pub(super) const LINK: &str = "link";
pub(super) const LOWER: &str = "lower";
pub(super) const WORK: &str = "work";
pub(super) const MERGED: &str = "merged";
pub(super) const EMPTY: &str = "empty";

/// Names in home that are no layers': not to be given to one.
pub(super) const RESERVED: [&str; 3] = [LINKS, REMOTE, quota::NODE];
/// Where the remote layer store keeps what the symlinks in home lead to.
const REMOTE: &str = "RO";

/// Prefix of what is being made.
pub(super) const STAGE: &str = ".stage-";
/// Prefix of what is being deleted.
pub(super) const TRASH: &str = ".trash-";

/// On the layer's directory from the first change of an unpack to its end; what crashed in between is never taken for a whole layer.
/// The C module neither reads nor removes it.
const UNFINISHED: &str = "trusted.graphdriver.unfinished";
/// On the layer's directory: `rw` or `ro`. Layers of the C module have none.
const ACCESS: &str = "trusted.graphdriver.access";
/// Overlayfs' mark of a directory that hides what is below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// No `link` file is longer; readers accept the names of other tools.
const MAX_LINK: usize = 255;
/// Overlayfs stacks at most 500 lowers; names of other tools may be long.
pub(super) const MAX_LOWER: usize = 500 * (MAX_LINK + 3);

/// How far an unpack got that did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// Into a layer that was empty before: nothing is lost with it.
    First,
    /// Into a layer that had content.
    Again,
}

impl Unfinished {
    const fn value(self) -> &'static [u8] {
        match self {
            Unfinished::First => b"first",
            Unfinished::Again => b"again",
        }
    }
}

/// Whether a name in home is one that this driver makes while it makes or deletes something, and nobody else would.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    let random = name.strip_prefix(STAGE.as_bytes()).or_else(|| name.strip_prefix(TRASH.as_bytes()));
    random.is_some_and(|hex| hex.len() == 26 && hex.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b)))
}

/// The short name of a layer: a file name in `l/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkId(String);

impl LinkId {
    /// A new one, as the C module makes them: 26 hexadecimal digits.
    pub(super) fn random() -> Result<LinkId> {
        Ok(LinkId(random_name()?))
    }

    /// Parses the content of a `link` file; a newline at its end is tolerated.
    pub(super) fn parse(content: &[u8]) -> Result<LinkId> {
        let name = content.strip_suffix(b"\n").unwrap_or(content);
        let plain = |b: &u8| b.is_ascii_graphic() && !b"/:,\\\"".contains(b);
        match std::str::from_utf8(name) {
            Ok(text) if !name.is_empty() && name.len() <= MAX_LINK && name[0] != b'.' && name.iter().all(plain) => {
                Ok(LinkId(text.to_owned()))
            }
            _ => Err(corrupt("its 'link' file does not hold a link name")),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Its path below home.
    pub(super) fn path(&self) -> String {
        format!("{LINKS}/{}", self.0)
    }
}

/// Thirteen random bytes in hexadecimal.
pub(super) fn random_name() -> Result<String> {
    fs::random_name::<13>()
}

/// A layer's ancestors, the nearest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lowers(pub(super) Vec<LinkId>);

impl Lowers {
    /// Parses the content of a `lower` file; a newline at its end is tolerated. An empty one is corrupt: the kernel would take
    /// the whole home directory for the lower layer.
    pub(super) fn parse(content: &[u8]) -> Result<Lowers> {
        let text = content.strip_suffix(b"\n").unwrap_or(content);
        let links: Result<Vec<LinkId>> = text
            .split(|&b| b == b':')
            .map(|element| match element.strip_prefix(b"l/") {
                Some(name) if !name.contains(&b'\n') => LinkId::parse(name),
                _ => Err(corrupt("bad element")),
            })
            .collect();
        links.map(Lowers).map_err(|_| corrupt("its 'lower' file is not a list of l/NAME separated by ':'"))
    }

    pub(super) fn to_text(&self) -> String {
        self.0.iter().map(LinkId::path).collect::<Vec<_>>().join(":")
    }
}

fn corrupt(what: &str) -> Error {
    Error::new(Kind::Corrupt, what)
        .hint("repair it with graphdriver_try_repair_lowers, or remove the layer and make it anew")
}

/// A layer's directory, held open.
pub(super) struct Layer {
    pub(super) id: LayerId,
    dir: OwnedFd,
}

impl AsFd for Layer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Layer {
    /// Opens a layer. In a remote store `<home>/<id>` is a symlink into `<home>/RO`, so symlinks are followed.
    pub(super) fn open(home: &OwnedFd, id: &LayerId) -> Result<Layer> {
        match fs::open_dir_at_follow(home, id) {
            Ok(dir) => Ok(Layer { id: id.clone(), dir }),
            Err(e) if fs::is_absent(&e) => Err(Error::new(Kind::NotFound, format!("layer '{id}' does not exist"))),
            Err(e) => Err(e.context(format!("open layer '{id}'"))),
        }
    }

    /// The same, with `None` for a layer that does not exist.
    pub(super) fn find(home: &OwnedFd, id: &LayerId) -> Result<Option<Layer>> {
        match Layer::open(home, id) {
            Ok(layer) => Ok(Some(layer)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    pub(super) fn link(&self) -> Result<LinkId> {
        let read = fs::read_at(&self.dir, LINK, MAX_LINK + 1);
        self.part(read.and_then(|content| LinkId::parse(&content)))
    }

    /// The same, with `None` where the note of it is damaged.
    pub(super) fn known_link(&self) -> Result<Option<LinkId>> {
        match self.link() {
            Ok(link) => Ok(Some(link)),
            Err(e) if e.kind() == Kind::Corrupt => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A part of a layer that is missing, or something else, is damage, and must not be told as "no such layer".
    fn part<T>(&self, outcome: Result<T>) -> Result<T> {
        let is_damage = |e: &Error| [ENOENT, EISDIR, ENOTDIR, ELOOP, EFBIG].contains(&e.errno());
        outcome
            .map_err(|e| if is_damage(&e) { e.with_kind(Kind::Corrupt) } else { e })
            .context(|| format!("layer '{}'", self.id))
    }

    /// Whether something is mounted on the layer. Where the place for that is missing, nothing is.
    pub(super) fn is_mounted(&self, home: &Home) -> Result<bool> {
        match mounts::is_mount_point(&self.dir, MERGED, &home.mount_point(&self.id)) {
            Err(e) if fs::is_absent(&e) => Ok(false),
            outcome => outcome.context(|| format!("layer '{}'", self.id)),
        }
    }

    /// The ancestors as the layer itself tells them; none for a base layer. `None` if it does not: it has neither a `lower` file nor
    /// the `empty` directory.
    pub(super) fn own_lowers(&self) -> Result<Option<Lowers>> {
        let read = match fs::read_at(&self.dir, LOWER, MAX_LOWER) {
            Ok(content) => Lowers::parse(&content).map(Some),
            Err(e) if fs::is_absent(&e) => Ok(self.has_dir(EMPTY)?.then(Lowers::default)),
            Err(e) => Err(e),
        };
        self.part(read)
    }

    /// Who may write into it, as it was made; `None` for a layer of the C module, which keeps no note of that, and where the note
    /// is damaged.
    pub(super) fn access(&self) -> Result<Option<Access>> {
        match xattr::get::<8>(&self.dir, ACCESS) {
            Ok(access) if access == b"rw" => Ok(Some(Access::ReadWrite)),
            Ok(access) if access == b"ro" => Ok(Some(Access::ReadOnly)),
            Ok(_) => Ok(None),
            Err(e) if xattr::is_absent(&e) || e.errno() == ERANGE => Ok(None),
            Err(e) => Err(e.context(format!("layer '{}'", self.id))),
        }
    }

    /// Whether the note of [`Layer::access`], if there is one, is one that this driver makes.
    pub(super) fn is_access_clear(&self) -> Result<bool> {
        match xattr::get::<8>(&self.dir, ACCESS) {
            Ok(access) => Ok([&b"rw"[..], b"ro"].contains(&access.as_slice())),
            Err(e) if xattr::is_absent(&e) => Ok(true),
            // Longer than any of them.
            Err(e) if e.errno() == ERANGE => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn diff(&self) -> Result<OwnedFd> {
        self.part(fs::open_dir_at(&self.dir, DIFF))
    }

    pub(super) fn has_dir(&self, name: &str) -> Result<bool> {
        match fs::stat_at(&self.dir, name) {
            Ok(stat) => Ok(stat.kind == FileKind::Dir),
            Err(e) if fs::is_absent(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether it has anything that layers have. That one cannot be looked at does not make it something else.
    fn has_any_part(&self) -> Result<bool> {
        for part in [DIFF, LINK, LOWER, WORK, MERGED, EMPTY] {
            match fs::stat_at(&self.dir, part) {
                Err(e) if fs::is_absent(&e) => {}
                found => return found.map(|_| true),
            }
        }
        Ok(false)
    }

    /// Whether an unpack into the layer did not finish. Marks of an unknown kind stand for one that destroys nothing.
    pub(super) fn unfinished(&self) -> Result<Option<Unfinished>> {
        match xattr::get::<8>(&self.dir, UNFINISHED) {
            Ok(value) if value == Unfinished::First.value() => Ok(Some(Unfinished::First)),
            Ok(_) => Ok(Some(Unfinished::Again)),
            Err(e) if xattr::is_absent(&e) => Ok(None),
            Err(e) => Err(e.context(format!("layer '{}'", self.id))),
        }
    }

    /// An error unless the last unpack into the layer was completed.
    pub(super) fn check_finished(&self) -> Result<()> {
        self.unfinished()?.map_or(Ok(()), |_| Err(incomplete(self.id.as_str())))
    }

    pub(super) fn set_unfinished(&self, how: Unfinished) -> Result<()> {
        xattr::set(&self.dir, UNFINISHED, how.value())
    }

    pub(super) fn set_finished(&self) -> Result<()> {
        match xattr::remove(&self.dir, UNFINISHED) {
            Err(e) if !xattr::is_absent(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Remembers that the layer's root hides everything below. The kernel ignores the mark there, so the lowers must be cut
    /// off as well; the mark keeps repair from bringing them back.
    pub(super) fn set_root_opaque(&self) -> Result<()> {
        xattr::set(self.diff()?, OPAQUE, b"y")
    }

    /// Takes back [`Layer::set_root_opaque`].
    pub(super) fn set_root_transparent(&self) -> Result<()> {
        match xattr::remove(self.diff()?, OPAQUE) {
            Err(e) if !xattr::is_absent(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// See [`Layer::set_root_opaque`].
    pub(super) fn is_root_opaque(&self) -> Result<bool> {
        xattr::is_set(self.diff()?, OPAQUE)
    }
}

/// Notes on a layer's directory who may write into it.
pub(super) fn set_access(dir: &OwnedFd, access: Access) -> Result<()> {
    let value: &[u8] = match access {
        Access::ReadWrite => b"rw",
        Access::ReadOnly => b"ro",
    };
    xattr::set(dir, ACCESS, value)
}

/// A layer cannot be used because an unpack into it did not finish.
pub(super) fn incomplete(id: &str) -> Error {
    let what = format!("layer '{id}' is incomplete: unpacking into it is under way or was interrupted");
    Error::new(Kind::Corrupt, what).hint("wait for it, or remove the layer and make it anew")
}

/// What the layer that a link leads to says about itself, without opening it.
pub(super) struct Seen {
    pub(super) unfinished: bool,
    pub(super) root_opaque: bool,
}

/// Looks at a layer through its link; `ENOENT` if that leads nowhere.
pub(super) fn look(home: &OwnedFd, link: &LinkId) -> Result<Seen> {
    let diff = link.path();
    Ok(Seen {
        unfinished: xattr::is_set_below(home, &format!("{diff}/.."), UNFINISHED)?,
        root_opaque: xattr::is_set_below(home, &diff, OPAQUE)?,
    })
}

/// Whether the layer that a link leads to hides all that is below it. One that is not there does not.
pub(super) fn hides_all(home: &OwnedFd, link: &LinkId) -> Result<bool> {
    match look(home, link) {
        Err(e) if leads_nowhere(&e) => Ok(false),
        seen => Ok(seen?.root_opaque),
    }
}

/// The driver's home directory. It is opened anew by each operation: a descriptor that is kept would keep the mount of home
/// busy when the driver is cleaned up.
#[derive(Clone, Debug)]
pub(super) struct Home {
    /// As the caller gave it, and gets it back.
    pub(super) path: PathBuf,
    /// Without symlinks, as the kernel's mount table shows it.
    pub(super) real: PathBuf,
}

impl Home {
    pub(super) fn open(&self) -> Result<OwnedFd> {
        fs::open_dir(&self.real)
    }

    /// Where a layer is mounted, as the kernel sees it.
    pub(super) fn mount_point(&self, id: &LayerId) -> PathBuf {
        self.real.join(id.as_str()).join(MERGED)
    }

    /// Whether the text of a symlink in home is that of a layer of the remote store.
    fn is_remote(&self, text: &Path, id: &LayerId) -> bool {
        [&self.path, &self.real].iter().any(|home| text == home.join(REMOTE).join(id.as_str()))
    }

    /// The path of a layer's part, as callers see it.
    pub(super) fn path(&self, id: &LayerId, part: &str) -> PathBuf {
        self.path.join(id.as_str()).join(part)
    }
}

/// What has a layer's id in home.
pub(super) enum Found {
    /// Nothing, or what is not worth keeping: an empty directory, a symlink into the remote store that leads nowhere any more.
    Nothing(Vacant),
    /// Something that is no layer: not ours to touch.
    Foreign,
    /// A layer, whole or damaged.
    Layer(Layer),
}

/// A free id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vacant {
    /// No such name.
    Absent,
    /// A name in the way that can be taken away.
    Hollow,
}

/// Looks what has an id.
pub(super) fn find(home: &Home, dir: &OwnedFd, id: &LayerId) -> Result<Found> {
    id.check_free(&RESERVED)?;
    match Layer::find(dir, id) {
        Ok(Some(layer)) => {
            if layer.has_any_part()? {
                return Ok(Found::Layer(layer));
            }
            let is_link = fs::stat_at(dir, id)?.kind == FileKind::Symlink;
            Ok(if !is_link && fs::is_empty_dir(&layer)? { Found::Nothing(Vacant::Hollow) } else { Found::Foreign })
        }
        Ok(None) => match fs::read_link_at(dir, id) {
            // No symlink: it was made since, and was absent when it was looked for.
            Err(e) if fs::is_absent(&e) || e.errno() == EINVAL => Ok(Found::Nothing(Vacant::Absent)),
            Ok(text) if home.is_remote(Path::new(&text), id) => Ok(Found::Nothing(Vacant::Hollow)),
            Ok(_) => Ok(Found::Foreign),
            Err(e) => Err(e),
        },
        Err(e) if is_no_directory(&e) => Ok(Found::Foreign),
        Err(e) => Err(e),
    }
}

/// A file, or a symlink that leads to none or to itself.
pub(super) fn is_no_directory(error: &Error) -> bool {
    [ENOTDIR, ELOOP, ENAMETOOLONG].contains(&error.errno())
}

/// No directory, or nothing at all.
pub(super) fn leads_nowhere(error: &Error) -> bool {
    fs::is_absent(error) || is_no_directory(error)
}

/// The text of the symlink in `l/` of a layer.
pub(super) fn link_text(id: &LayerId) -> OsString {
    format!("../{id}/{DIFF}").into()
}

/// Which layer a link in `l/` is of, by its text.
pub(super) fn owner_of(text: &OsStr) -> Option<LayerId> {
    let id = text.as_bytes().strip_prefix(b"../")?.strip_suffix(b"/diff")?;
    LayerId::parse(id).ok()
}

/// Calls `each` for every directory in home that can be a layer; with the error for one that cannot be opened, which must not stand
/// in the way of all others.
pub(super) fn each_layer(home: &OwnedFd, mut each: impl FnMut(&LayerId, Result<Layer>) -> Result<()>) -> Result<()> {
    fs::each_entry(home, |entry| {
        let id = LayerId::parse(entry.name.as_bytes()).ok().filter(|id| id.check_free(&RESERVED).is_ok());
        let Some(id) = id.filter(|_| entry.kind.is_none_or(|kind| kind != FileKind::File)) else { return Ok(()) };
        match Layer::find(home, &id) {
            Ok(Some(layer)) => each(&id, Ok(layer)),
            Ok(None) => Ok(()),
            Err(e) if is_no_directory(&e) => Ok(()),
            Err(e) => each(&id, Err(e)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowers_survive_the_round_trip_and_one_newline() {
        let text = b"l/c3343428f60aab9c86d24293f6:l/IEWQ2BZ5NTJN4VYFC3S6JFQYQZ";
        let lowers = Lowers::parse(text).unwrap();
        assert_eq!(lowers.to_text().as_bytes(), text);
        assert_eq!(Lowers::parse(&[&text[..], b"\n"].concat()).unwrap(), lowers);
    }

    #[test]
    fn what_is_not_a_list_of_links_is_corrupt() {
        let bad: [&[u8]; 14] = [
            b"",
            b"\n",
            b":",
            b"l/",
            b"l/a:",
            b":l/a",
            b"/l/a",
            b"l/../x",
            b"l/.",
            b"l/a/b",
            b"x/a",
            b"l/a\n\n",
            b"l/a,b",
            b"l/a\nl/b",
        ];
        for text in bad {
            assert_eq!(Lowers::parse(text).unwrap_err().kind(), Kind::Corrupt, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn only_names_that_we_make_are_temporary() {
        let hex = "0123456789abcdef0123456789";
        assert!(is_temporary(format!("{STAGE}{hex}").as_bytes()) && is_temporary(format!("{TRASH}{hex}").as_bytes()));
        for foreign in
            [".trash-can", ".trash-", ".stage-0123456789ABCDEF0123456789", ".trash-0123456789abcdef01234567890", hex]
        {
            assert!(!is_temporary(foreign.as_bytes()), "{foreign}");
        }
    }

    #[test]
    fn new_links_have_the_form_that_the_c_module_writes() {
        let link = LinkId::random().unwrap();
        assert!(
            link.as_str().len() == 26 && link.as_str().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        );
        assert_eq!(LinkId::parse(link.as_str().as_bytes()).unwrap(), link);
    }
}
