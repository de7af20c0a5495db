//! The structs that cross the border, laid out as C lays them out. `build.rs` puts those that a C program may already have
//! from elsewhere (`json_map_string_string`, `io_read_wrapper`) into the header by hand; a test compares the layouts.
#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_int, c_void};

/// Reads up to `len` bytes into `buf`; returns how many, 0 at the end, or a negative number on failure.
pub type io_read_func_t = Option<unsafe extern "C" fn(context: *mut c_void, buf: *mut c_void, len: usize) -> isize>;
/// Closes what is read from. This library never calls it.
pub type io_close_func_t = Option<unsafe extern "C" fn(context: *mut c_void, err: *mut *mut c_char) -> c_int>;

/// Receives a line of the log; see graphdriver_set_log_callback.
pub type graphdriver_log_func_t = Option<extern "C" fn(level: c_int, line: *const c_char, user: *mut c_void)>;
/// Receives a sentence for the daemon's user; see graphdriver_set_error_callback.
pub type graphdriver_error_func_t = Option<extern "C" fn(message: *const c_char, user: *mut c_void)>;

/// Pairs of strings, each of its arrays `len` long and from `malloc`.
#[repr(C)]
pub struct json_map_string_string {
    /// Keys.
    pub keys: *mut *mut c_char,
    /// Values.
    pub values: *mut *mut c_char,
    /// Number of pairs.
    pub len: usize,
}

/// Where a layer archive is read from.
#[repr(C)]
pub struct io_read_wrapper {
    /// Handed to both functions.
    pub context: *mut c_void,
    /// Reads.
    pub read: io_read_func_t,
    /// Closes.
    pub close: io_close_func_t,
}

/// How a layer is to be made.
#[repr(C)]
pub struct driver_create_opts {
    /// SELinux label of the layer, or NULL.
    pub mount_label: *mut c_char,
    /// Storage options, or NULL. `graphdriver_create_rw` appends the defaults that it applies.
    pub storage_opt: *mut json_map_string_string,
}

/// How a layer is to be mounted.
#[repr(C)]
pub struct driver_mount_opts {
    /// SELinux label for all files of the mount, or NULL.
    pub mount_label: *mut c_char,
    /// Mount options; they replace the configured ones. NULL if there are none.
    pub options: *mut *mut c_char,
    /// Number of options.
    pub options_len: usize,
}

/// The driver's state. No member is NULL.
#[repr(C)]
pub struct graphdriver_status {
    /// The name that the driver was initialised with.
    pub driver_name: *mut c_char,
    /// The filesystem under the driver's home directory.
    pub backing_fs: *mut c_char,
    /// Lines `Name: value`, each ended by a newline.
    pub status: *mut c_char,
}

/// Told how far an unpack is: bytes read, and entries of the archive.
pub type graphdriver_progress_func_t = Option<unsafe extern "C" fn(context: *mut c_void, bytes: u64, entries: u64)>;
/// Writes up to `len` bytes from `buf`; returns how many, or a negative number on failure, with errno set.
pub type graphdriver_write_func_t =
    Option<unsafe extern "C" fn(context: *mut c_void, buf: *const c_void, len: usize) -> isize>;
/// Told of a change: GRAPHDRIVER_ADDED, GRAPHDRIVER_MODIFIED or GRAPHDRIVER_DELETED, and the path in the layer, beginning with a slash.
pub type graphdriver_change_func_t =
    Option<unsafe extern "C" fn(context: *mut c_void, change: c_int, path: *const c_char) -> c_int>;

/// An archive that is not compressed.
pub const GRAPHDRIVER_PLAIN: u32 = 0;
/// An archive in gzip's format.
pub const GRAPHDRIVER_GZIP: u32 = 1;
/// An archive in zstd's format.
pub const GRAPHDRIVER_ZSTD: u32 = 2;

/// Take no digests, which saves processor time: both are received as "".
pub const GRAPHDRIVER_WITHOUT_DIGESTS: u64 = 1;

/// The ancestor has nothing there.
pub const GRAPHDRIVER_ADDED: c_int = 0;
/// Content or attributes differ; of a directory also: something in it changed.
pub const GRAPHDRIVER_MODIFIED: c_int = 1;
/// It is gone.
pub const GRAPHDRIVER_DELETED: c_int = 2;

/// What is to be unpacked, and what was. Later versions may append members.
#[repr(C)]
pub struct graphdriver_unpack {
    /// sizeof(struct graphdriver_unpack)
    pub size: usize,
    /// Handed to both functions.
    pub context: *mut c_void,
    /// Where the archive is read from; as for graphdriver_apply_diff. Not NULL.
    pub read: io_read_func_t,
    /// Told how far it is; NULL for none.
    pub progress: graphdriver_progress_func_t,
    /// The digest that the bytes read must have, as "sha256:<64 hexadecimal digits>"; NULL for any.
    pub expected_digest: *const c_char,
    /// The digest that the uncompressed archive must have; NULL for any.
    pub expected_diff_id: *const c_char,
    /// Most entries of the archive; 0 for the default of 4,194,304. Where none of these three is given, the driver's options decide.
    pub max_entries: u64,
    /// Most bytes, both of the archive as it is read and uncompressed; 0 for the default of 4 TiB.
    pub max_bytes: u64,
    /// Most bytes that a decompressor may use for its window; 0 for the default of 128 MiB.
    pub max_window: u64,
    /// 0, or GRAPHDRIVER_WITHOUT_DIGESTS, but not with an expected one.
    pub flags: u64,
    /// Receives the digest of the bytes read.
    pub digest: [c_char; 72],
    /// Receives the digest of the uncompressed archive.
    pub diff_id: [c_char; 72],
    /// Receives the number of bytes read.
    pub bytes: u64,
    /// Receives the number of entries.
    pub entries: u64,
    /// Receives the size of the layer; as for graphdriver_apply_diff.
    pub layer_size: u64,
}

/// What is to be exported, and what was. Later versions may append members.
#[repr(C)]
pub struct graphdriver_diff {
    /// sizeof(struct graphdriver_diff)
    pub size: usize,
    /// Handed to write.
    pub context: *mut c_void,
    /// Where the archive goes. Not NULL.
    pub write: graphdriver_write_func_t,
    /// The ancestor whose content is not to be in the archive; NULL or "" for the layer's parent.
    pub base: *const c_char,
    /// GRAPHDRIVER_PLAIN, GRAPHDRIVER_GZIP or GRAPHDRIVER_ZSTD.
    pub compression: u32,
    /// Compression level: gzip 1 to 9, zstd 1 to 22; 0 for the default.
    pub level: u32,
    /// 0, or GRAPHDRIVER_WITHOUT_DIGESTS.
    pub flags: u64,
    /// Receives the digest of what was written, as "sha256:<64 hexadecimal digits>".
    pub digest: [c_char; 72],
    /// Receives the digest of the uncompressed archive.
    pub diff_id: [c_char; 72],
    /// Receives the number of bytes written.
    pub bytes: u64,
    /// Receives the number of entries.
    pub entries: u64,
}

/// Told of a layer; see graphdriver_list_layers.
pub type graphdriver_layer_func_t =
    Option<unsafe extern "C" fn(context: *mut c_void, layer: *const graphdriver_layer) -> c_int>;
/// Told of a finding; see graphdriver_check.
pub type graphdriver_finding_func_t =
    Option<unsafe extern "C" fn(context: *mut c_void, finding: *const graphdriver_finding) -> c_int>;

/// Nobody noted who may write into the layer, or it could not be looked at.
pub const GRAPHDRIVER_UNKNOWN: u32 = 0;
/// A layer of an image.
pub const GRAPHDRIVER_READ_ONLY: u32 = 1;
/// A container's layer.
pub const GRAPHDRIVER_READ_WRITE: u32 = 2;

/// The layer can be used.
pub const GRAPHDRIVER_WHOLE: u32 = 0;
/// The layer is being worked on, and was not looked at.
pub const GRAPHDRIVER_BEING_USED: u32 = 1;
/// The layer cannot be used as it is.
pub const GRAPHDRIVER_UNUSABLE: u32 = 2;

/// Nothing is known to be wrong: it is being worked on, and was not looked at.
pub const GRAPHDRIVER_BUSY: u32 = 0;
/// Nothing is lost and nobody has to do anything: it is harmless, or mended by the library when that is needed.
pub const GRAPHDRIVER_NOTE: u32 = 1;
/// Nothing is lost, but somebody has to do something.
pub const GRAPHDRIVER_NEEDS_HAND: u32 = 2;
/// Content is lost, or cannot be trusted.
pub const GRAPHDRIVER_LOSS: u32 = 3;

/// Make again what can be without guessing, and hand what is left over to the thread that deletes it.
pub const GRAPHDRIVER_MEND: u64 = 1;

/// A layer, as it is told. Later versions may append members. All is valid until the callback returns.
#[repr(C)]
pub struct graphdriver_layer {
    /// sizeof(struct graphdriver_layer) of the library: what is beyond that is not there.
    pub size: usize,
    /// Its id.
    pub id: *const c_char,
    /// The layer that it is stacked upon; NULL if it has none, or that is not known.
    pub parent: *const c_char,
    /// GRAPHDRIVER_READ_ONLY, GRAPHDRIVER_READ_WRITE or GRAPHDRIVER_UNKNOWN.
    pub access: u32,
    /// GRAPHDRIVER_WHOLE, GRAPHDRIVER_BEING_USED or GRAPHDRIVER_UNUSABLE.
    pub state: u32,
    /// Why it cannot be used; NULL if it can, or is being worked on.
    pub why: *const c_char,
}

/// What a check found, as it is told. Later versions may append members. All is valid until the callback returns.
#[repr(C)]
pub struct graphdriver_finding {
    /// sizeof(struct graphdriver_finding) of the library: what is beyond that is not there.
    pub size: usize,
    /// The layer; NULL for the store as a whole.
    pub layer: *const c_char,
    /// GRAPHDRIVER_BUSY, GRAPHDRIVER_NOTE, GRAPHDRIVER_NEEDS_HAND or GRAPHDRIVER_LOSS, as it was before it was mended.
    pub severity: u32,
    /// 1 if this check has mended it, or handed it to those who do; else 0.
    pub mended: u32,
    /// What is wrong, in a sentence.
    pub what: *const c_char,
    /// What to do about it, in a sentence.
    pub remedy: *const c_char,
}

/// Which layers are to be listed, and how many there were. Later versions may append members.
#[repr(C)]
pub struct graphdriver_list_layers {
    /// sizeof(struct graphdriver_list_layers)
    pub size: usize,
    /// Handed to each.
    pub context: *mut c_void,
    /// Called for every layer, in the order of their ids. It returns 0, or something else to end the listing. Not NULL.
    pub each: graphdriver_layer_func_t,
    /// NULL for the store of the initialised driver; else the name of the driver whose store is to be read past it.
    pub driver: *const c_char,
    /// With driver: the directory that holds the driver's home, as for graphdriver_init_at. Else NULL.
    pub root: *const c_char,
    /// Receives the number of layers that were told.
    pub layers: u64,
}

/// What is to be checked, and what came of it. Later versions may append members.
#[repr(C)]
pub struct graphdriver_check {
    /// sizeof(struct graphdriver_check)
    pub size: usize,
    /// Handed to each.
    pub context: *mut c_void,
    /// Called for every finding. It returns 0, or something else to end the check. Not NULL.
    pub each: graphdriver_finding_func_t,
    /// As in graphdriver_list_layers.
    pub driver: *const c_char,
    /// As in graphdriver_list_layers.
    pub root: *const c_char,
    /// 0 or GRAPHDRIVER_MEND.
    pub flags: u64,
    /// Receives the number of layers that were looked at.
    pub layers: u64,
    /// Receives the number of findings, without those of severity GRAPHDRIVER_BUSY.
    pub findings: u64,
    /// Receives how many of these were mended.
    pub mended: u64,
}
