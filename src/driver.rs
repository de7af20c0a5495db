//! What a graph driver is: the trait and its vocabulary.
//!
//! A *layer* is a directory tree. A read-only layer holds one layer of an image, filled once by [`Driver::unpack`]; a
//! read-write layer belongs to a container. Every layer but the first has a *parent*; mounting it shows its own content
//! stacked upon that of its ancestors.

use crate::archive::{Digests, Limits, Outcome, Progress};
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::id::LayerId;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;

pub use crate::tree::Usage;

/// Who may write into a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An image layer: filled once, then only read.
    ReadOnly,
    /// A container's layer.
    ReadWrite,
}

/// How a layer is to be made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// SELinux label; kept for the mount, which is given it again. Drivers ignore it at creation.
    pub mount_label: Option<OsString>,
    /// Storage options as the user gave them. A driver that fills in a default appends it here, so that the caller sees the
    /// limit that is in force.
    pub storage_opt: Vec<(String, String)>,
}

/// How a layer is to be mounted.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// SELinux label for every file of the mount (`context=`).
    pub mount_label: Option<OsString>,
    /// Mount option words; they replace the driver's configured ones.
    pub options: Vec<OsString>,
}

/// One item of a layer's metadata: its key, as users see it, and its value.
pub type Metadatum = (&'static str, OsString);

/// The driver's state, as shown by `isula info`.
#[derive(Clone, Debug)]
pub struct Status {
    /// The name it was initialised with.
    pub driver_name: String,
    /// The filesystem under the driver's home.
    pub backing_fs: String,
    /// Lines `Name: value`, each ended by a newline.
    pub text: String,
}

/// What is to be unpacked into a layer, and how.
pub struct Unpack<'a> {
    /// Where the archive is read from, on the calling thread.
    pub content: &'a mut dyn Read,
    /// Receives, if wanted, the size of the layer: the sum of the sizes, in bytes, of all that is not a directory, each inode once.
    pub size: Option<&'a mut u64>,
    /// Bounds on what the archive may ask for; `None` for those that the driver was configured with.
    pub limits: Option<Limits>,
    /// Ends the unpack early.
    pub cancel: Cancel,
    /// Which digests are taken, and what they have to be.
    pub digests: Digests,
    /// Told how far it is, on the calling thread.
    pub progress: Option<Progress<'a>>,
    /// Receives, if wanted, what was unpacked.
    pub outcome: Option<&'a mut Outcome>,
}

impl<'a> Unpack<'a> {
    /// Everything that `content` yields, within the default limits.
    pub fn of(content: &'a mut dyn Read) -> Unpack<'a> {
        Unpack {
            content,
            size: None,
            limits: None,
            cancel: Cancel::default(),
            digests: Digests::default(),
            progress: None,
            outcome: None,
        }
    }
}

/// How an exported archive is compressed; the numbers are levels as the programs of these names have them, 0 for the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952; 1 to 9.
    Gzip(u32),
    /// RFC 8878; 1 to 22.
    Zstd(u32),
}

/// The form of an exported archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// How it is compressed.
    pub compression: Compression,
    /// Take its digests in the same pass.
    pub digests: bool,
}

/// What a layer is compared with to tell what it changes.
#[derive(Clone, Debug, Default)]
pub struct Against {
    /// An ancestor; `None` for the parent.
    pub base: Option<LayerId>,
    /// Ends the operation early.
    pub cancel: Cancel,
}

/// With nobody who would cancel it.
impl From<Option<LayerId>> for Against {
    fn from(base: Option<LayerId>) -> Against {
        Against { base, cancel: Cancel::default() }
    }
}

/// What an export wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Of the bytes that were written, and of the uncompressed archive (the layer's diff id), if they were wanted.
    pub digests: Option<(Digest, Digest)>,
    /// Bytes that were written.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
}

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The ancestor has nothing there.
    Added,
    /// Content, owner, mode, times or attributes differ; for a directory also: something below it changed.
    Modified,
    /// It is gone, with all that was below it.
    Deleted,
}

/// What a listing of layers tells of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: LayerId,
    /// The layer it is stacked upon; `None` for a base layer, and where that is not known.
    pub parent: Option<LayerId>,
    /// Who may write into it; `None` where nobody noted that (layers of the C module), or it could not be looked at.
    pub access: Option<Access>,
    /// Whether it can be used.
    pub condition: Condition,
}

/// Whether a layer can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It can: nothing that it needs is missing.
    Whole,
    /// It is being worked on, and was not looked at.
    Busy,
    /// It cannot as it is, and why.
    Unusable(String),
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong as far as is known: it is being worked on, and was not looked at.
    Busy,
    /// Nothing is lost and nobody has to do anything: it is harmless, or mended by itself when that is needed.
    Note,
    /// Nothing is lost, but somebody has to do something.
    Hand,
    /// Content is lost, or cannot be trusted.
    Loss,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The layer it is about; `None` for the store as a whole.
    pub layer: Option<LayerId>,
    /// How bad it is, before it was mended.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// This check has mended it, or handed it to those who do.
    pub mended: bool,
}

/// Something that is wrong with a layer, or with the store as a whole, as it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// The layer cannot be used as it is.
    pub blocks: bool,
    /// The driver mends it without being told anything.
    pub mendable: bool,
}

impl Flaw {
    /// One that keeps nobody from using the layer, and that the driver does not mend.
    #[must_use]
    pub fn new(severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Flaw {
        let (what, remedy) = (what.into(), remedy.into());
        Flaw { severity, what, remedy, blocks: false, mendable: false }
    }

    /// What cannot be asked is a flaw as well.
    #[must_use]
    pub fn unreadable(error: &Error) -> Flaw {
        let what = format!("it cannot be looked at: {}", error.message());
        Flaw::new(Severity::Hand, what, "see the kernel's log for errors of the disk, and check the filesystem").blocking()
    }

    /// Keeps everybody from using the layer.
    #[must_use]
    pub fn blocking(self) -> Flaw {
        Flaw { blocks: true, ..self }
    }

    /// The driver can mend it.
    #[must_use]
    pub fn mendable(self) -> Flaw {
        Flaw { mendable: true, ..self }
    }

    /// As it is told.
    #[must_use]
    pub fn told(self, layer: Option<&LayerId>, mended: bool) -> Finding {
        let Flaw { severity, what, remedy, .. } = self;
        Finding { layer: layer.cloned(), severity, what, remedy, mended }
    }
}

impl Finding {
    /// A layer, or a name that might be one's, that somebody is working on.
    #[must_use]
    pub fn busy(layer: LayerId) -> Finding {
        let (what, remedy) = ("it is being worked on, and was not looked at".to_owned(), "check again later".to_owned());
        Finding { layer: Some(layer), severity: Severity::Busy, what, remedy, mended: false }
    }
}

/// Receives the layers of a listing. Its error ends the listing.
pub type EachLayer<'a> = &'a mut dyn FnMut(&Listed) -> Result<()>;
/// Receives the findings of a check. Its error ends the check.
pub type EachFinding<'a> = &'a mut dyn FnMut(&Finding) -> Result<()>;

/// A store that can be looked at: by its driver, or past it while another process has it. Other operations go on meanwhile, and no
/// layer is held while a callback runs.
pub trait Inspect {
    /// Calls `each`, on the calling thread, for every layer, in the order of their ids.
    ///
    /// # Errors
    /// The store as a whole cannot be read; that of `each`.
    fn layers(&self, each: EachLayer<'_>) -> Result<()>;

    /// Compares all that the store says about itself, and calls `each` for whatever does not fit. Returns how many layers there are.
    /// With `mend`, what can be made again without guessing is, and nothing that has content is deleted.
    ///
    /// # Errors
    /// As for [`Inspect::layers`]; [`Kind::Invalid`](crate::error::Kind::Invalid) for mending past the driver.
    fn check(&self, mend: bool, each: EachFinding<'_>) -> Result<u64>;

    /// Where the layer's parts are, as far as they can be told: who gets no metadata may delete the layer.
    ///
    /// # Errors
    /// The layer does not exist.
    fn layer_metadata(&self, id: &LayerId) -> Result<Vec<Metadatum>>;

    /// What the layer itself, without its parents, occupies.
    ///
    /// # Errors
    /// The layer does not exist or cannot be read; [`Kind::Unsupported`](crate::error::Kind::Unsupported) past a driver that alone
    /// can tell.
    fn layer_usage(&self, id: &LayerId) -> Result<Usage>;
}

/// A graph driver. All operations may be called from any thread at any time; operations on different layers do not wait for
/// each other longer than the kernel makes them.
pub trait Driver: Inspect + Send + Sync {
    /// Makes a layer on top of `parent`, or an empty one.
    ///
    /// # Errors
    /// The parent does not exist or is incomplete, the id is taken by something that is not proven to be a leftover, an option is
    /// unknown or cannot be kept. Everything is as it was then.
    fn create(&self, id: &LayerId, parent: Option<&LayerId>, access: Access, options: &mut CreateOptions) -> Result<()>;

    /// Deletes a layer with its content; mounts of it are detached first. A layer that does not exist is a success, and so is one
    /// of which something can be deleted later only: its id is free, and the driver does the rest in the background.
    ///
    /// # Errors
    /// What has the id is no layer, or could not be taken away; it is there as it was.
    fn remove(&self, id: &LayerId) -> Result<()>;

    /// Mounts a layer and returns where its root directory is: a read-only layer read-only. A mounted layer stays as it is.
    ///
    /// # Errors
    /// The layer does not exist, it or an ancestor is damaged or incomplete, the kernel refuses, or has mounted it otherwise than
    /// was asked for.
    fn mount(&self, id: &LayerId, options: &MountOptions) -> Result<PathBuf>;

    /// Takes one mount of the layer away. One that is not mounted, or does not exist, is a success.
    ///
    /// # Errors
    /// The kernel refuses.
    fn umount(&self, id: &LayerId) -> Result<()>;

    /// Whether removing the layer could lose anything: false only for what is absent or whose first unpack is not finished. Damage
    /// is told by [`Driver::mount`]; a caller may delete what does not exist. Nothing is written.
    ///
    /// # Errors
    /// It could not be found out.
    fn exists(&self, id: &LayerId) -> Result<bool>;

    /// Unpacks a layer archive (see [`crate::archive`]) into the layer.
    ///
    /// # Errors
    /// The archive is malformed, exceeds a limit, or could not be written whole, or the unpack was cancelled. If nothing was changed
    /// yet, the layer is as it was; else it is empty as before, or marked unusable.
    fn unpack(&self, id: &LayerId, request: Unpack<'_>) -> Result<()>;

    /// [`Driver::unpack`] of what most callers ask for.
    ///
    /// # Errors
    /// As there.
    fn apply_diff(&self, id: &LayerId, content: &mut dyn Read, size: Option<&mut u64>) -> Result<()> {
        self.unpack(id, Unpack { size, ..Unpack::of(content) })
    }

    /// Writes what the layer changes against its parent, or against another ancestor, as a layer archive (see
    /// [`crate::export`]). `to` is written to on the calling thread. The same layer becomes the same archive.
    ///
    /// # Errors
    /// There is no such layer or ancestor, a file changed while it was read ([`crate::error::Kind::Busy`]), `to` fails, it was
    /// cancelled.
    fn diff(&self, id: &LayerId, against: &Against, form: Form, to: &mut dyn Write) -> Result<Exported>;

    /// Calls `each`, on the calling thread, for every path that the layer changes against its parent or another ancestor: the
    /// path within the layer, without a slash in front, empty for the root; a directory before what is in it.
    ///
    /// # Errors
    /// As for [`Driver::diff`]; that of `each`, which ends it.
    fn changes(&self, id: &LayerId, against: &Against, each: &mut dyn FnMut(&[u8], Change) -> Result<()>) -> Result<()>;

    /// The sum of the sizes, in bytes, of all that the layer adds or modifies and that is not a directory, each inode once.
    ///
    /// # Errors
    /// As for [`Driver::diff`].
    fn diff_size(&self, id: &LayerId, against: &Against) -> Result<u64>;

    /// Makes a layer usable again that has lost anything but content: what links it to its parents, or directories that hold nothing.
    /// What is still known of its parents counts for more than `parent`.
    ///
    /// # Errors
    /// The parent is needed and does not exist, is not the layer's, or something is missing that cannot be made again. Everything is
    /// as it was then.
    fn repair_lowers(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<()>;

    /// The driver's state.
    ///
    /// # Errors
    /// The backing store does not answer.
    fn status(&self) -> Result<Status>;

    /// Stops what the driver does in the background: another one is about to be opened on its home, and may fail. No operation is
    /// under way, and none comes until [`Driver::resume`].
    fn pause(&self);

    /// Takes up again what was stopped by [`Driver::pause`]: there is no other one.
    fn resume(&self);

    /// Releases what the driver holds, and nothing that another one holds. Layers that are mounted stay mounted.
    ///
    /// # Errors
    /// Something is still in use; the driver stays usable.
    fn cleanup(&self) -> Result<()>;
}
