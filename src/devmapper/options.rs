//! The storage options `dm.*`: text in, settings out.

use super::filesystem::Filesystem;
use crate::archive;
use crate::error::{Error, Kind, Result};
use crate::options::{percent, size};
use std::ffi::OsString;
use std::path::PathBuf;

/// Where the thin pool comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PoolSource {
    /// An existing pool: its device-mapper name.
    Device(String),
    /// Sparse files of our own.
    Loop(LoopFiles),
}

/// A pool on two sparse files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoopFiles {
    /// The directory of the two files.
    pub dir: PathBuf,
    /// Size of the data file, bytes.
    pub data: u64,
    /// Size of the metadata file, bytes.
    pub metadata: u64,
}

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// The pool.
    pub pool: PoolSource,
    /// `dm.fs`, if given: the filesystem of a new base device, and a check of an existing one.
    pub filesystem: Option<Filesystem>,
    /// `dm.min_free_space`, percent: below it no layer is created.
    pub min_free_space: u8,
    /// `dm.basesize` in bytes, if given.
    pub base_size: Option<u64>,
    /// `dm.mkfsarg`: each is one argument.
    pub mkfs_args: Vec<OsString>,
    /// `dm.mountopt`.
    pub mount_options: Option<OsString>,
    /// Bounds on what a layer archive may ask for.
    pub archive: archive::Limits,
}

/// The base device's size when `dm.basesize` is not given: 10 GiB, as with the C module and Docker.
pub(super) const DEFAULT_BASE_SIZE: u64 = 10 << 30;
/// `dm.min_free_space` when not given, percent.
const DEFAULT_MIN_FREE_SPACE: u8 = 10;
/// Docker's defaults of the two sizes. The files are sparse.
const DEFAULT_LOOP_DATA: u64 = 100 << 30;
const DEFAULT_LOOP_METADATA: u64 = 2 << 30;

fn refuse(sentence: String) -> Error {
    Error::new(Kind::Invalid, sentence.clone()).user(sentence)
}

/// A size that must not be 0.
fn positive_size(value: &str) -> Result<u64> {
    match size(value) {
        Ok(0) => Err(refuse("dm.basesize is lower than zero".to_owned())),
        Ok(bytes) => Ok(bytes),
        Err(e) => Err(e.user(format!("Invalid size: '{value}'"))),
    }
}

fn non_empty<'a>(value: &'a str, sentence: &str) -> Result<&'a str> {
    if value.is_empty() { Err(refuse(sentence.to_owned())) } else { Ok(value) }
}

impl Options {
    /// Parses the options; a later one wins, but `dm.mkfsarg` adds up.
    pub(super) fn parse(options: &[&str]) -> Result<Options> {
        let (mut pool, mut dir, mut data, mut metadata) = (None, None, None, None);
        let mut parsed = Options {
            pool: PoolSource::Device(String::new()),
            filesystem: None,
            min_free_space: DEFAULT_MIN_FREE_SPACE,
            base_size: None,
            mkfs_args: Vec::new(),
            mount_options: None,
            archive: archive::Limits::default(),
        };
        for option in options {
            let unparsable = || refuse(format!("Unable to parse key/value option: '{option}'"));
            let (name, value) = option.split_once('=').ok_or_else(unparsable)?;
            match name {
                "dm.thinpooldev" => {
                    let bare = value.strip_prefix("/dev/mapper/").unwrap_or(value);
                    pool = Some(non_empty(bare, "Invalid thinpool device, it must not be empty")?.to_owned());
                }
                "dm.fs" => {
                    let unsupported = || refuse(format!("Invalid filesystem: '{value}': not supported"));
                    parsed.filesystem = Some(Filesystem::parse(value).ok_or_else(unsupported)?);
                }
                "dm.min_free_space" => {
                    let invalid = |e: Error| e.user(format!("Invalid min free space: '{value}'"));
                    parsed.min_free_space = percent(value).map_err(invalid)?;
                }
                "dm.basesize" => parsed.base_size = Some(positive_size(value)?),
                "dm.mkfsarg" => parsed.mkfs_args.push(non_empty(value, "Invalid dm.mkfsarg, it must not be empty")?.into()),
                "dm.mountopt" | "devicemapper.mountopt" => {
                    parsed.mount_options = Some(non_empty(value, "Invalid dm.mountopt, it must not be empty")?.into());
                }
                "dm.loopdata" => {
                    dir = Some(PathBuf::from(non_empty(value, "Invalid dm.loopdata, it must name a directory")?));
                }
                archive::MAX_WINDOW => {
                    let set = size(value).and_then(|bytes| parsed.archive.set_window(bytes));
                    set.map_err(|e| e.user(format!("Invalid {name}: '{value}'")))?;
                }
                "dm.loopdatasize" => data = Some(positive_size(value)?),
                "dm.loopmetadatasize" => metadata = Some(positive_size(value)?),
                _ => return Err(refuse(format!("devicemapper: unknown option: '{name}'"))),
            }
        }
        parsed.pool = match (pool, dir) {
            (Some(pool), None) if data.or(metadata).is_none() => PoolSource::Device(pool),
            (None, Some(dir)) => PoolSource::Loop(LoopFiles {
                dir,
                data: data.unwrap_or(DEFAULT_LOOP_DATA),
                metadata: metadata.unwrap_or(DEFAULT_LOOP_METADATA),
            }),
            (Some(_), _) => {
                return Err(refuse("devicemapper: dm.thinpooldev and dm.loopdata* exclude each other".to_owned()));
            }
            (None, None) => {
                let why = "devicemapper: no thin pool: dm.thinpooldev is not set";
                return Err(refuse(why.to_owned())
                    .hint("name an LVM thin pool with dm.thinpooldev, or a directory with dm.loopdata to try the driver"));
            }
        };
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_set() {
        let options = Options::parse(&[
            "dm.thinpooldev=/dev/mapper/isulad-thinpool",
            "dm.fs=xfs",
            "dm.min_free_space=5%",
            "dm.basesize=12G",
            "dm.mkfsarg=-b 1024",
            "dm.mkfsarg=-I 128",
            "dm.mountopt=discard",
            "devicemapper.mountopt=nodiscard,noatime",
            "archive.max_window=1G",
        ])
        .unwrap();
        assert_eq!(options.pool, PoolSource::Device("isulad-thinpool".to_owned()));
        assert_eq!(options.filesystem, Some(Filesystem::Xfs));
        assert_eq!((options.min_free_space, options.base_size), (5, Some(12 << 30)));
        assert_eq!(options.archive.window, 1 << 30);
        assert_eq!(options.mkfs_args, ["-b 1024", "-I 128"]);
        assert_eq!(options.mount_options, Some("nodiscard,noatime".into()));
    }

    #[test]
    fn a_loop_pool_needs_only_a_directory() {
        let options = Options::parse(&["dm.loopdata=/x", "dm.loopdatasize=1G"]).unwrap();
        let files = LoopFiles { dir: "/x".into(), data: 1 << 30, metadata: 2 << 30 };
        assert_eq!(options.pool, PoolSource::Loop(files));
        assert_eq!((options.min_free_space, options.base_size, options.filesystem), (10, None, None));
    }

    #[test]
    fn refusals_have_the_sentence_that_users_know() {
        for (option, sentence) in [
            ("dm.thinpooldev=", "Invalid thinpool device, it must not be empty"),
            ("dm.thinpooldev=/dev/mapper/", "Invalid thinpool device, it must not be empty"),
            ("dm.fs=btrfs", "Invalid filesystem: 'btrfs': not supported"),
            ("dm.min_free_space=100%", "Invalid min free space: '100%'"),
            ("dm.min_free_space=5%5%", "Invalid min free space: '5%5%'"),
            ("archive.max_window=1B", "Invalid archive.max_window: '1B'"),
            ("dm.basesize=0", "dm.basesize is lower than zero"),
            ("dm.basesize=big", "Invalid size: 'big'"),
            ("DM.fs=ext4", "devicemapper: unknown option: 'DM.fs'"),
            ("dm.fs", "Unable to parse key/value option: 'dm.fs'"),
        ] {
            let error = Options::parse(&["dm.thinpooldev=p", option]).unwrap_err();
            assert_eq!(error.user_message(), Some(sentence), "{option}");
            assert_eq!(error.kind(), Kind::Invalid);
        }
        assert!(Options::parse(&[]).is_err());
        assert!(Options::parse(&["dm.thinpooldev=p", "dm.loopdata=/x"]).is_err());
        assert!(Options::parse(&["dm.thinpooldev=p", "dm.loopdatasize=1G"]).is_err());
    }
}
