//! What the command line may say.

use clap::{Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

const EXIT_STATUS: &str = "\
Exit status: 0 all is well; 1 something is damaged and somebody has to see to it; 2 it could not be done, and why is on stderr.

list, show, check and usage only read, and work while a daemon has the store. All others need the store for themselves
(one process at a time may use it), and so does usage of devicemapper, whose pool counts what layers occupy.";

/// Looks at a store of container image layers, checks it and mends it.
#[derive(Parser)]
#[command(name = "graphdriver", version, after_help = EXIT_STATUS, disable_help_subcommand = true)]
#[command(next_help_heading = "For all commands")]
pub struct Arguments {
    /// The directory that the driver's home is in
    #[arg(long, global = true, value_name = "DIRECTORY", default_value = "/var/lib/isulad/storage")]
    pub root: PathBuf,
    /// overlay2, overlay or devicemapper; else the one whose home is there
    #[arg(long, global = true, value_name = "NAME")]
    pub driver: Option<String>,
    /// An option for the driver, as the daemon gives it; may be repeated
    #[arg(short, long = "option", global = true, value_name = "NAME=VALUE")]
    pub options: Vec<String>,
    /// Read by the driver, too: of devicemapper that shows the pool beside the files. Nobody else may have the store
    #[arg(long, global = true)]
    pub with_driver: bool,
    /// One JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Show the library's log on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// What is to be done.
#[derive(Subcommand)]
pub enum Command {
    /// All layers as a tree: who may write into them, whether they are mounted, whether they can be used
    List {
        /// With what each occupies; every file is looked at where no quota counts
        #[arg(long)]
        size: bool,
        /// The largest first, and not as a tree
        #[arg(long)]
        by_size: bool,
    },
    /// Everything about one layer: its parts, what is wrong with it, where it is mounted and who uses that
    Show {
        id: String,
        /// With what it occupies
        #[arg(long)]
        size: bool,
    },
    /// What does not fit together in the store, and what to do about it
    Check {
        /// Mend what can be mended without guessing; nothing that has content is deleted
        #[arg(long)]
        repair: bool,
    },
    /// What takes the space, the largest first
    Usage {
        /// This layer only
        id: Option<String>,
    },
    /// The driver's state
    Status,
    /// Mount a layer, and print where; it stays mounted
    Mount {
        id: String,
        /// A mount option; may be repeated
        #[arg(long = "mount-option", value_name = "WORD")]
        mount_options: Vec<OsString>,
        /// SELinux label for all files of the mount
        #[arg(long, value_name = "LABEL")]
        label: Option<OsString>,
    },
    /// Take one mount of a layer away
    Umount { id: String },
    /// Unpack a layer archive into a layer, and print its digests
    Unpack {
        id: String,
        /// The archive (tar; plain, gzip, zstd, xz or bzip2); - is stdin
        #[arg(default_value = "-")]
        file: PathBuf,
        /// Make the layer, for an image; it is removed again if that fails
        #[arg(long)]
        new: bool,
        /// The layer that the new one is stacked upon
        #[arg(long, value_name = "ID", requires = "new")]
        parent: Option<String>,
        /// What the digest of the archive has to be
        #[arg(long, value_name = "sha256:…")]
        digest: Option<String>,
        /// What the digest of the uncompressed archive has to be
        #[arg(long, value_name = "sha256:…")]
        diff_id: Option<String>,
    },
    /// List what a layer changes (A added, M modified, D deleted), or write it as a layer archive
    Diff {
        id: String,
        /// The ancestor to compare with; else the parent
        #[arg(long, value_name = "ID")]
        base: Option<String>,
        /// Write an archive to this new file; - is stdout
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[arg(long, value_enum, requires = "output", default_value = "none")]
        compress: Compress,
    },
    /// Remove a layer with its content
    Rm {
        id: String,
        /// Also if other layers are stacked upon it, or it is mounted
        #[arg(long)]
        force: bool,
    },
}

/// How an archive is compressed.
#[derive(Clone, Copy, ValueEnum)]
pub enum Compress {
    None,
    Gzip,
    Zstd,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_defined_soundly() {
        Arguments::command().debug_assert();
    }
}
