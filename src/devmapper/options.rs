//! The storage options `dm.*`: text in, settings out.

use super::filesystem::Filesystem;
use crate::archive;
use crate::error::{Error, Kind, Result};
use crate::log;
use crate::options::{boolean, percent, size};
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
    /// `dm.blkdiscard`: what a layer occupies is given back to what is below the pool before the layer is deleted.
    pub discard: bool,
    /// `dm.xfs_nospace_max_retries`.
    pub xfs_retries: Option<u32>,
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

/// Options by which Docker made a pool on its own, and what to do instead.
const MAKES_A_POOL: [(&str, &str); 9] = [
    ("dm.directlvm_device", LVM),
    ("dm.directlvm_device_force", LVM),
    ("dm.thinp_percent", LVM),
    ("dm.thinp_metapercent", LVM),
    ("dm.thinp_autoextend_threshold", AUTOEXTEND),
    ("dm.thinp_autoextend_percent", AUTOEXTEND),
    ("dm.datadev", LVM),
    ("dm.metadatadev", LVM),
    ("dm.blocksize", "give the pool its chunk size when you make it (lvcreate --chunksize)"),
];
const LVM: &str = "make the thin pool with lvcreate --type thin-pool, and name it with dm.thinpooldev";
const AUTOEXTEND: &str = "set thin_pool_autoextend_threshold and thin_pool_autoextend_percent in lvm.conf";

fn refuse(sentence: String) -> Error {
    Error::new(Kind::Invalid, sentence.clone()).user(sentence)
}

/// A size that must not be 0.
fn positive_size(name: &str, value: &str) -> Result<u64> {
    match size(value) {
        Ok(0) => Err(refuse(format!("{name} is lower than zero"))),
        Ok(bytes) => Ok(bytes),
        Err(e) => Err(e.user(format!("Invalid size: '{value}'"))),
    }
}

fn non_empty<'a>(value: &'a str, sentence: &str) -> Result<&'a str> {
    if value.is_empty() { Err(refuse(sentence.to_owned())) } else { Ok(value) }
}

fn flag(name: &str, value: &str) -> Result<bool> {
    boolean(value).map_err(|e| e.user(format!("Invalid {name}: '{value}'")))
}

fn number(name: &str, value: &str) -> Result<u32> {
    value.parse().map_err(|_| refuse(format!("Invalid {name}: '{value}'")))
}

/// Accepts what is always so, and refuses its opposite.
fn always(name: &str, value: &str) -> Result<()> {
    if flag(name, value)? {
        return Ok(());
    }
    let why = format!("{name}=false is not supported: busy devices are always removed and deleted later");
    Err(refuse(why).hint("leave the option out"))
}

/// What was read so far of where the pool comes from.
#[derive(Default)]
struct Source {
    pool: Option<String>,
    dir: Option<PathBuf>,
    data: Option<u64>,
    metadata: Option<u64>,
}

impl Source {
    fn decide(self) -> Result<PoolSource> {
        match (self.pool, self.dir) {
            (Some(pool), None) if self.data.or(self.metadata).is_none() => Ok(PoolSource::Device(pool)),
            (None, Some(dir)) => Ok(PoolSource::Loop(LoopFiles {
                dir,
                data: self.data.unwrap_or(DEFAULT_LOOP_DATA),
                metadata: self.metadata.unwrap_or(DEFAULT_LOOP_METADATA),
            })),
            (Some(_), _) => Err(refuse("devicemapper: dm.thinpooldev and dm.loopdata* exclude each other".to_owned())),
            (None, None) => Err(refuse("devicemapper: no thin pool: dm.thinpooldev is not set".to_owned())
                .hint("name an LVM thin pool with dm.thinpooldev, or a directory with dm.loopdata to try the driver")),
        }
    }
}

impl Options {
    /// Parses the options; a later one wins, which the log says of mount options, but `dm.mkfsarg` adds up.
    pub(super) fn parse(options: &[&str]) -> Result<Options> {
        let (mut source, mut discard) = (Source::default(), None);
        let mut parsed = Options {
            pool: PoolSource::Device(String::new()),
            filesystem: None,
            min_free_space: DEFAULT_MIN_FREE_SPACE,
            base_size: None,
            mkfs_args: Vec::new(),
            mount_options: None,
            discard: false,
            xfs_retries: None,
            archive: archive::Limits::default(),
        };
        for option in options {
            let unparsable = || refuse(format!("Unable to parse key/value option: '{option}'"));
            let (name, value) = option.split_once('=').ok_or_else(unparsable)?;
            match name {
                "dm.thinpooldev" => {
                    let bare = value.strip_prefix("/dev/mapper/").unwrap_or(value);
                    source.pool = Some(non_empty(bare, "Invalid thinpool device, it must not be empty")?.to_owned());
                }
                "dm.fs" => {
                    let unsupported = || refuse(format!("Invalid filesystem: '{value}': not supported"));
                    parsed.filesystem = Some(Filesystem::parse(value).ok_or_else(unsupported)?);
                }
                "dm.min_free_space" => {
                    let invalid = |e: Error| e.user(format!("Invalid min free space: '{value}'"));
                    parsed.min_free_space = percent(value).map_err(invalid)?;
                }
                "dm.basesize" => parsed.base_size = Some(positive_size(name, value)?),
                "dm.mkfsarg" => parsed.mkfs_args.push(non_empty(value, "Invalid dm.mkfsarg, it must not be empty")?.into()),
                "dm.mountopt" | "devicemapper.mountopt" => {
                    let value = non_empty(value, "Invalid dm.mountopt, it must not be empty")?;
                    if let Some(before) = parsed.mount_options.replace(value.into()) {
                        let before = before.to_string_lossy().into_owned();
                        log::warn!("devicemapper: {name}={value} takes the place of '{before}', given before it");
                    }
                }
                "dm.blkdiscard" => discard = Some(flag(name, value)?),
                "dm.xfs_nospace_max_retries" => parsed.xfs_retries = Some(number(name, value)?),
                "dm.use_deferred_removal" | "dm.use_deferred_deletion" => always(name, value)?,
                // Nothing depends on either: udev is waited for where it runs, and there is no libdevmapper to log.
                "dm.override_udev_sync_check" => drop(flag(name, value)?),
                "dm.libdm_log_level" => drop(number(name, value)?),
                "dm.loopdata" => {
                    source.dir = Some(PathBuf::from(non_empty(value, "Invalid dm.loopdata, it must name a directory")?));
                }
                archive::MAX_WINDOW => {
                    let set = size(value).and_then(|bytes| parsed.archive.set_window(bytes));
                    set.map_err(|e| e.user(format!("Invalid {name}: '{value}'")))?;
                }
                "dm.loopdatasize" => source.data = Some(positive_size(name, value)?),
                "dm.loopmetadatasize" => source.metadata = Some(positive_size(name, value)?),
                _ => return Err(unknown(name)),
            }
        }
        parsed.pool = source.decide()?;
        // By default where it is of use: the embedded pool's files would only ever grow.
        parsed.discard = discard.unwrap_or(matches!(parsed.pool, PoolSource::Loop(_)));
        Ok(parsed)
    }
}

fn unknown(name: &str) -> Error {
    match MAKES_A_POOL.iter().find(|(known, _)| *known == name) {
        Some((_, instead)) => {
            let sentence =
                format!("devicemapper: option '{name}' is not supported: this driver makes no pool of LVM's; {instead}");
            refuse(sentence)
        }
        None => refuse(format!("devicemapper: unknown option: '{name}'")),
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
    fn the_options_of_an_old_docker_are_known() {
        let options = Options::parse(&[
            "dm.thinpooldev=p",
            "dm.use_deferred_removal=true",
            "dm.use_deferred_deletion=1",
            "dm.override_udev_sync_check=true",
            "dm.libdm_log_level=4",
            "dm.xfs_nospace_max_retries=0",
            "dm.blkdiscard=true",
        ])
        .unwrap();
        assert_eq!((options.xfs_retries, options.discard), (Some(0), true));
        for never in ["dm.use_deferred_removal=false", "dm.use_deferred_deletion=0"] {
            let error = Options::parse(&["dm.thinpooldev=p", never]).unwrap_err();
            assert!(error.user_message().unwrap().contains("not supported"), "{never}: {error}");
        }
        for (name, _) in MAKES_A_POOL {
            let error = Options::parse(&["dm.thinpooldev=p", &format!("{name}=1")]).unwrap_err();
            let sentence = error.user_message().unwrap();
            assert!(sentence.contains(name) && sentence.contains("lvm") || sentence.contains("lvcreate"), "{sentence}");
        }
    }

    #[test]
    fn a_loop_pool_gives_its_space_back_unless_told_otherwise() {
        for (options, discard) in [
            (vec!["dm.thinpooldev=p"], false),
            (vec!["dm.loopdata=x"], true),
            (vec!["dm.blkdiscard=false", "dm.loopdata=x"], false),
        ] {
            assert_eq!(Options::parse(&options).unwrap().discard, discard, "{options:?}");
        }
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
            ("dm.loopdatasize=0", "dm.loopdatasize is lower than zero"),
            ("dm.loopmetadatasize=0", "dm.loopmetadatasize is lower than zero"),
            ("dm.blkdiscard=perhaps", "Invalid dm.blkdiscard: 'perhaps'"),
            ("dm.xfs_nospace_max_retries=-1", "Invalid dm.xfs_nospace_max_retries: '-1'"),
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
