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
