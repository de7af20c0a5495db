//! The eleven functions of the design document, with its signatures. The comments of this file become the header.

use super::input::{self, Content};
use super::types::{driver_create_opts, driver_mount_opts, graphdriver_status, io_read_wrapper, json_map_string_string};
use super::{GRAPH, guard, output};
use crate::driver::{Access, Unpack};
use crate::error::Result;
use std::ffi::{c_char, c_int};
use std::path::Path;
use std::ptr;

/// Initialises the graph driver of this process.
///
/// @param name              the driver: "overlay2", "overlay" (the same) or "devicemapper"; exact, not NULL
/// @param isulad_root       an absolute path, not NULL; the driver's home becomes <isulad_root>/storage/<name>
/// @param storage_opts      options "name=value" (README.md lists them), none of them NULL; may be NULL if there are none
/// @param storage_opts_len  the number of options
/// @return 0, or -1 with errno and graphdriver_last_error() set. After a failure the driver that was there before, if
///         any, goes on as it was, whatever the new one failed for.
///
/// All arguments are copied. May be called again at any time, from any thread but in no callback of this library (EBUSY); it
/// waits for calls under way, and calls made meanwhile fail with ENOTCONN. A driver that was there before is cleaned up, as far
/// as its mounted layers allow, if its home is another one. What a crash left half made or half deleted is deleted in the
/// background; this does not wait for it. errno: EINVAL for a bad argument or option, EOPNOTSUPP where kernel or filesystem
/// cannot do it, EBUSY if another process, or another copy of this library in this one, uses the home, which
/// graphdriver_last_error() names where it can be found, or if another thread is initialising or cleaning up, else that of the
/// system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_init(
    name: *const c_char,
    isulad_root: *const c_char,
    storage_opts: *mut *mut c_char,
    storage_opts_len: usize,
) -> c_int {
    guard("graphdriver_init", -1, || {
        // SAFETY: the caller's promise.
        unsafe {
            let root = Path::new(input::path(isulad_root, "isulad_root")?).join("storage");
            init(name, &root, storage_opts, storage_opts_len)
        }
    })
}

/// # Safety
/// As for [`graphdriver_init`].
pub(super) unsafe fn init(name: *const c_char, storage_root: &Path, options: *mut *mut c_char, len: usize) -> Result<c_int> {
    // SAFETY: the caller's promise.
    let (name, options) = unsafe { (input::text(name, "the driver name")?, input::texts(options, len, "storage_opts")?) };
    GRAPH.init(name, storage_root, &options).map(|()| 0)
}

/// Makes a read-write layer, for a container.
///
/// @param id           1 to 255 bytes, the first a letter or digit, the others letters, digits, '_', '.' or '-'; not NULL
/// @param parent       the layer it is stacked upon; NULL or "" for none
/// @param create_opts  not NULL. Storage options: "size" (bytes, with a unit if wanted: "10G"; 0 for the configured default)
///                     and, for overlay2, "inodes". Where a configured default is applied, "size" is appended to the
///                     caller's map, which is allocated if it is NULL; its memory is the caller's to free.
/// @return 0: the layer is there, also after a power cut (but with overlay2.sync=none); -1 with errno and
///         graphdriver_last_error() set: all is as it was before.
///
/// An id is taken as long as anybody may want what has it. Only a proven leftover of a crash, which is not mounted, is replaced,
/// with a line in the log: a layer whose first unpacking did not finish; one that was never made whole and holds nothing; a
/// read-only one without layers on top that was there before this process used the home, and that this process has never found,
/// described, mounted, filled or stacked upon; with devicemapper also any that is incomplete or of which the pool has no device. It
/// is deleted when the new layer has taken its place, and stays if that fails. What is no layer is left alone.
///
/// Thread-safe. errno: EINVAL for a bad argument or option or an id that is its own parent, ENOENT if the parent does not exist,
/// EUCLEAN if it is incomplete or damaged, EEXIST if the id is taken, EOPNOTSUPP if the filesystem cannot limit sizes, EPERM if
/// the process may not, E2BIG if too many layers lie below, ENOSPC if there is no room, EBUSY in a callback if the layer or its
/// parent is being worked on, ENOTCONN before graphdriver_init, else that of the system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_create_rw(
    id: *const c_char,
    parent: *const c_char,
    create_opts: *mut driver_create_opts,
) -> c_int {
    guard("graphdriver_create_rw", -1, || {
        // SAFETY: the caller's promise.
        let (id, parent, mut options) =
            unsafe { (input::layer_id(id)?, input::parent(parent)?, input::create_options(create_opts)?) };
        let given = options.storage_opt.len();
        GRAPH.with(|driver| driver.create(&id, parent.as_ref(), Access::ReadWrite, &mut options))?;
        // SAFETY: the caller's promise; it is not NULL, or its conversion had failed.
        unsafe { output::append_storage_options(&mut *create_opts, &options.storage_opt[given..]) }.map(|()| 0)
    })
}

/// Makes a read-only layer, for an image.
///
/// @param id           as for graphdriver_create_rw
/// @param parent       as for graphdriver_create_rw
/// @param create_opts  not NULL; with overlay2, storage options are an error
/// @return as for graphdriver_create_rw
///
/// With overlay2 the layers of an image may all be made first and be filled in parallel. Thread-safe. errno as for
/// graphdriver_create_rw.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_create_ro(
    id: *const c_char,
    parent: *const c_char,
    create_opts: *const driver_create_opts,
) -> c_int {
    guard("graphdriver_create_ro", -1, || {
        // SAFETY: the caller's promise.
        let (id, parent, mut options) =
            unsafe { (input::layer_id(id)?, input::parent(parent)?, input::create_options(create_opts)?) };
        GRAPH.with(|driver| driver.create(&id, parent.as_ref(), Access::ReadOnly, &mut options)).map(|()| 0)
    })
}

/// Deletes a layer and all its content. Mounts of it are detached first. Layers stacked upon it become unusable.
///
/// @param id  the layer, not NULL
/// @return 0, also if there is no such layer: the id is free, also after a power cut (but with overlay2.sync=none). -1 with errno
///         and graphdriver_last_error() set: the layer is there with its content, though its mounts may be gone.
///
/// Files that cannot be deleted at once, because something is mounted on a directory of the layer elsewhere or its device is in
/// use, do not make it a failure: the log tells of them, and they are deleted in the background as soon as they can be.
///
/// Thread-safe. errno: EINVAL for a bad id and for what is no layer, EBUSY in a callback if the layer is being worked on, ENOTCONN
/// before graphdriver_init, else that of the system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_rm_layer(id: *const c_char) -> c_int {
    guard("graphdriver_rm_layer", -1, || {
        // SAFETY: the caller's promise.
        let id = unsafe { input::layer_id(id) }?;
        GRAPH.with(|driver| driver.remove(&id)).map(|()| 0)
    })
}

/// Mounts a layer upon its ancestors. A layer that is mounted already stays as it is.
///
/// @param id          the layer, not NULL
/// @param mount_opts  NULL for none
/// @return the path of the root filesystem, for the caller to free with free(3); NULL with errno and
///         graphdriver_last_error() set.
///
/// A read-only layer is mounted read-only, whatever the options say: what is written into an image would show in all containers
/// on top of it. What is missing of the layer and holds nothing of anybody's is made again, and so are the names of ancestors.
///
/// Thread-safe. errno: EINVAL for a bad argument, ENOENT if there is no such layer, EUCLEAN if something of it is missing or its
/// content or that of an ancestor is incomplete or gone, or (overlay2) if it was mounted "volatile" when the machine went down;
/// graphdriver_last_error() says what, and whether graphdriver_try_repair_lowers mends it or the layer has to be made anew. ENOSPC
/// if there is no room for the kernel's part of the layer, EROFS if home can only be read (a mount with "ro" works in both cases),
/// ENOSPC also if the mount table is full, EBUSY in a callback if the layer is being worked on, ENOTCONN before graphdriver_init,
/// else that of the system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_mount_layer(id: *const c_char, mount_opts: *const driver_mount_opts) -> *mut c_char {
    guard("graphdriver_mount_layer", ptr::null_mut(), || {
        // SAFETY: the caller's promise.
        let (id, options) = unsafe { (input::layer_id(id)?, input::mount_options(mount_opts)?) };
        output::text(GRAPH.with(|driver| driver.mount(&id, &options))?)
    })
}

/// Takes one mount of a layer away. Programs that still use it keep what they have open.
///
/// @param id  the layer, not NULL
/// @return 0, also if it is not mounted or there is no such layer; -1 with errno and graphdriver_last_error() set.
///
/// Thread-safe. errno: EINVAL for a bad id, EBUSY in a callback if the layer is being worked on, ENOTCONN before
/// graphdriver_init, else that of the system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_umount_layer(id: *const c_char) -> c_int {
    guard("graphdriver_umount_layer", -1, || {
        // SAFETY: the caller's promise.
        let id = unsafe { input::layer_id(id) }?;
        GRAPH.with(|driver| driver.umount(&id)).map(|()| 0)
    })
}

/// Tells whether a layer is there: whether removing it could lose anything. It is not if there is no such layer, or if its first
/// unpacking is under way or did not finish. A damaged layer is there, and so is one with content into which a later unpacking
/// did not finish: graphdriver_mount_layer tells what is wrong with it, graphdriver_try_repair_lowers mends what can be mended.
///
/// @param id  the layer, not NULL
/// @return true or false, with errno 0; false with errno and graphdriver_last_error() set if it cannot be found out: nothing
///         must be deleted for that.
///
/// Writes nothing. Thread-safe. errno: EINVAL for a bad id, EBUSY in a callback if the layer is being worked on, ENOTCONN before
/// graphdriver_init, else that of the system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_layer_exists(id: *const c_char) -> bool {
    guard("graphdriver_layer_exists", false, || {
        // SAFETY: the caller's promise.
        let id = unsafe { input::layer_id(id) }?;
        GRAPH.with(|driver| driver.exists(&id))
    })
}

/// Unpacks a layer archive into a layer: tar, plain or compressed with gzip, zstd, xz or bzip2.
///
/// @param id          the layer, not NULL
/// @param content     where the archive is read from, not NULL. read is called on the calling thread, with any length, until
///                    it returns 0 or fails, after EINTR again; on success always until it returned 0, whatever follows the
///                    archive. close is never called.
/// @param layer_size  if not NULL, receives on success the size of the layer in bytes: all that is not a directory, each
///                    inode once
/// @return 0: the content is there, also after a power cut (but with overlay2.sync=none); -1 with errno and
///         graphdriver_last_error() set. A failure before the first change, such as that of a source that is no archive, leaves
///         any layer as it was. After that a layer of overlay2 that was empty and not mounted is as before; any other is
///         incomplete: it keeps what it has, and is not mounted, filled or stacked upon until it is removed and made anew.
///
/// Owners, modes, times and names are as the archive states them, or it is a failure. Attributes are user.* (but user.overlay.*),
/// security.capability and POSIX ACLs; any other, and what the filesystem cannot store, is left out with one line in the log for
/// each reason. Directories that the archive implies without an entry of their own look like the ones below that they are merged
/// with, or are root's with mode 0755. Nothing outside the layer is touched, whatever the archive holds. Thread-safe.
///
/// errno: EINVAL for a bad argument, EBADMSG for a bad archive, also one with an entry that cannot be where it says, E2BIG where
/// it exceeds a limit, ENOENT if there is no such layer, EUCLEAN if its content is incomplete or doubtful (it was mounted volatile
/// when the machine went down), ENOSPC or EDQUOT if it does not fit, EFBIG for a file beyond RLIMIT_FSIZE or what the filesystem
/// takes, ENAMETOOLONG for a name beyond what it takes, EIO if the read function fails without an errno or returns more than it
/// was asked for, ECANCELED after graphdriver_cancel, EBUSY in a callback if the layer is being worked on, and with devicemapper
/// if it is an image's and mounted, ENOTCONN before graphdriver_init, else that of the read function or system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_apply_diff(
    id: *const c_char,
    content: *const io_read_wrapper,
    layer_size: *mut i64,
) -> c_int {
    guard("graphdriver_apply_diff", -1, || {
        // SAFETY: the caller's promise. Only members that every version of the struct has are read.
        unsafe {
            let content = input::given(content, "content")?;
            unpack(id, Content::new(content.context, content.read)?, layer_size)
        }
    })
}

/// # Safety
/// As for [`graphdriver_apply_diff`].
pub(super) unsafe fn unpack(id: *const c_char, mut content: Content, layer_size: *mut i64) -> Result<c_int> {
    // SAFETY: the caller's promise.
    let id = unsafe { input::layer_id(id) }?;
    let mut size = 0;
    let wanted = (!layer_size.is_null()).then_some(&mut size);
    GRAPH.transfer(&id, |driver, cancel| driver.unpack(&id, Unpack { size: wanted, cancel, ..Unpack::of(&mut content) }))?;
    if !layer_size.is_null() {
        // SAFETY: the caller's promise. What it points to may be uninitialised.
        unsafe { layer_size.write(i64::try_from(size).unwrap_or(i64::MAX)) };
    }
    Ok(0)
}

/// Tells where the parts of a layer are.
///
/// @param id        the layer, not NULL
/// @param map_info  not NULL; each item replaces the value of its key or is appended. overlay2: WorkDir, MergedDir, UpperDir and,
///                  if the layer has parents, LowerDir. devicemapper: DeviceId, DeviceSize, DeviceName, MergedDir. The map's
///                  memory is the caller's to free (graphdriver_free_map or graphdriver_clear_map).
/// @return 0, or -1 with errno and graphdriver_last_error() set; the map is unchanged then.
///
/// Of a damaged overlay2 layer it gives what it can: LowerDir is left out where the list of parents cannot be read, and the log says
/// why. Thread-safe. errno: EINVAL for a bad argument, ENOENT if there is no such layer, EUCLEAN (devicemapper) if it is damaged,
/// EBUSY in a callback if the layer is being worked on, ENOTCONN before graphdriver_init, else that of the system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_get_layer_metadata(id: *const c_char, map_info: *mut json_map_string_string) -> c_int {
    guard("graphdriver_get_layer_metadata", -1, || {
        // SAFETY: the caller's promise.
        let id = unsafe { input::layer_id(id) }?;
        // SAFETY: the caller's promise.
        unsafe { input::given(map_info, "map_info") }?;
        let items = GRAPH.with(|driver| driver.layer_metadata(&id))?;
        // SAFETY: the caller's promise; it is not NULL.
        unsafe { output::set_pairs(&mut *map_info, &items) }.map(|()| 0)
    })
}

/// Tells the driver's state.
///
/// @return a status for the caller to free with free_graphdriver_status, no member of it NULL; NULL with errno and
///         graphdriver_last_error() set.
///
/// Thread-safe. errno: ENOTCONN before graphdriver_init, else that of the system call that failed.
#[unsafe(no_mangle)]
pub extern "C" fn graphdriver_get_status() -> *mut graphdriver_status {
    guard("graphdriver_get_status", ptr::null_mut(), || output::status(&GRAPH.with(|driver| driver.status())?))
}

/// Releases what the driver holds: its background thread ends, and other processes may use the home. overlay2 also takes away the
/// bind mount of home on itself, if that is its own or was left by a process before it. Mounted layers stay mounted.
///
/// @return 0, or -1 with errno and graphdriver_last_error() set; the driver stays usable then.
///
/// Thread-safe; waits for calls under way, which graphdriver_cancel(NULL) makes shorter. Calls made afterwards fail with ENOTCONN
/// until the next graphdriver_init. errno: EBUSY if layers that are mounted below keep home from being unmounted, another thread
/// is initialising or cleaning up, or in a callback of this library; ENOTCONN before graphdriver_init.
#[unsafe(no_mangle)]
pub extern "C" fn graphdriver_cleanup() -> c_int {
    guard("graphdriver_cleanup", -1, || GRAPH.cleanup().map(|()| 0))
}
