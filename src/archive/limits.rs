//! The bounds of what one layer may ask for.

use crate::error::{Error, Kind, Result};

/// Bounds on one layer; going over one is an error that names it. Memory is bounded by these and not by the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of extension records (PAX records, GNU long names, sparse maps) of one entry, and of all global PAX records
    /// together. The default of 1 MiB is what Go's `archive/tar` (docker, containerd) allows one of them.
    pub extensions: usize,
    /// Extended attributes of one entry. The default is far beyond what anybody sets; the kernel lists 64 KiB of names.
    pub xattrs: usize,
    /// Bytes of a path or a link's text. The default is the longest path the kernel takes (`PATH_MAX` less the NUL).
    pub path: usize,
    /// Entries of the layer, extension records not counted. The deleting form remembers up to 24 bytes for each (what a
    /// whiteout must not delete, and which directories have nothing more to be deleted): with the default of 4 Mi entries less than 150 MiB, reached by hostile layers only.
    pub entries: u64,
    /// Names that symlinks make of the layer's paths, for each path on average, after [`FREE_NAMES`] of them: `lib/a` with a
    /// symlink from `lib` to `usr/lib` has two more. The default is many times what an image needs, and makes a path that leads
    /// through symlinks cost no more than some that do not.
    pub symlinks: u32,
    /// Bytes of the tar stream after decompression, whatever is in it.
    pub stream: u64,
    /// Bytes a decompressor may use for its window: zstd and xz layers state what they need. The default takes what
    /// `zstd -d` takes (128 MiB) without being asked to. The option [`MAX_WINDOW`] sets it.
    pub window: u64,
}

/// The option of every driver that sets [`Limits::window`].
pub const MAX_WINDOW: &str = "archive.max_window";
/// What may be asked for: the least is of use for what `zstd -3` makes, the most is the largest window that zstd has.
const WINDOWS: std::ops::RangeInclusive<u64> = 1 << 20..=2 << 30;

impl Limits {
    /// Sets the largest window, by an option.
    ///
    /// # Errors
    /// It is out of range.
    pub fn set_window(&mut self, bytes: u64) -> Result<()> {
        if !WINDOWS.contains(&bytes) {
            return Err(Error::new(Kind::Invalid, format!("{bytes} bytes are no window")).hint("use 1M to 2G"));
        }
        self.window = bytes;
        Ok(())
    }
}

/// Names that symlinks may make of the paths of one layer before [`Limits::symlinks`] counts: few paths may lead far.
pub(super) const FREE_NAMES: u64 = 1 << 16;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            extensions: 1 << 20,
            xattrs: 1 << 10,
            path: 4095,
            entries: 4 << 20,
            symlinks: 16,
            stream: 1 << 42,
            window: 128 << 20,
        }
    }
}
