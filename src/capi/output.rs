//! Rust values into C memory. Everything is allocated before anything of the caller's is changed.

use super::types::{driver_create_opts, driver_mount_opts, graphdriver_status, json_map_string_string};
use crate::driver::Status;
use crate::error::{Error, Kind, Result};
use crate::sys::cmem::{self, Block};
use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;

/// A copy of a text for C to free.
pub(super) fn text(text: impl AsRef<OsStr>) -> Result<*mut c_char> {
    Ok(Block::text(text)?.give())
}

/// A status for C to free with `free_graphdriver_status`.
pub(super) fn status(status: &Status) -> Result<*mut graphdriver_status> {
    let memory = Block::zeroed::<graphdriver_status>()?;
    let (name, fs, text) = (Block::text(&status.driver_name)?, Block::text(&status.backing_fs)?, Block::text(&status.text)?);
    let pointer: *mut graphdriver_status = memory.give();
    let value = graphdriver_status { driver_name: name.give(), backing_fs: fs.give(), status: text.give() };
    // SAFETY: fresh memory of the right size and alignment (calloc's suits every type).
    unsafe { pointer.write(value) };
    Ok(pointer)
}

/// Sets pairs in a map of the caller's: the value of a key that is there is replaced, others are appended.
///
/// # Safety
/// `map` describes itself rightly, its memory came from `malloc`, and nobody else uses it during the call.
pub(super) unsafe fn set_pairs(
    map: &mut json_map_string_string,
    pairs: &[(impl AsRef<OsStr>, impl AsRef<OsStr>)],
) -> Result<()> {
    if map.len > 0 && (map.keys.is_null() || map.values.is_null()) {
        return Err(Error::new(Kind::Invalid, format!("a map of {} items without keys or values", map.len)));
    }
    let made: Result<Vec<(Block, Block)>> = pairs.iter().map(|(k, v)| Ok((Block::text(k)?, Block::text(v)?))).collect();
    let (made, most) = (made?, map.len.saturating_add(pairs.len()));
    // SAFETY: see above. A longer array with the same `len` is the same map.
    unsafe {
        map.keys = cmem::grow(map.keys, most)?;
        map.values = cmem::grow(map.values, most)?;
    }
    for ((key_text, _), (key, value)) in pairs.iter().zip(made) {
        // SAFETY: `len` elements are initialised, and there is room for one more per pair.
        unsafe {
            match (0..map.len).find(|&i| is_text(*map.keys.add(i), key_text.as_ref())) {
                Some(i) => {
                    cmem::free(*map.values.add(i));
                    *map.values.add(i) = value.give();
                }
                None => {
                    *map.keys.add(map.len) = key.give();
                    *map.values.add(map.len) = value.give();
                    map.len += 1;
                }
            }
        }
    }
    Ok(())
}

/// # Safety
/// `pointer` is NULL or a C string.
unsafe fn is_text(pointer: *const c_char, text: &OsStr) -> bool {
    // SAFETY: see above.
    !pointer.is_null() && unsafe { CStr::from_ptr(pointer) }.to_bytes() == text.as_bytes()
}

/// Appends pairs to the storage options of the caller, who may have none yet.
///
/// # Safety
/// As for [`set_pairs`], for the map in `options`.
pub(super) unsafe fn append_storage_options(options: &mut driver_create_opts, pairs: &[(String, String)]) -> Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    // SAFETY: see above.
    if let Some(map) = unsafe { options.storage_opt.as_mut() } {
        // SAFETY: see above.
        return unsafe { set_pairs(map, pairs) };
    }
    let memory = Block::zeroed::<json_map_string_string>()?;
    let map: *mut json_map_string_string = memory.give();
    // SAFETY: zeroed memory is an empty map, and it is ours alone.
    let filled = unsafe { set_pairs(&mut *map, pairs) };
    match filled {
        Ok(()) => options.storage_opt = map,
        // SAFETY: nobody else has seen it.
        Err(_) => unsafe { free_map(map) },
    }
    filled
}

/// # Safety
/// `map` is NULL or came from `malloc`, with its members, and is used by nobody any more.
pub(super) unsafe fn free_map(map: *mut json_map_string_string) {
    // SAFETY: see above.
    unsafe {
        clear_map(map);
        cmem::free(map);
    }
}

/// # Safety
/// `map` is NULL or its members came from `malloc` and are used by nobody any more.
pub(super) unsafe fn clear_map(map: *mut json_map_string_string) {
    // SAFETY: see above.
    let Some(map) = (unsafe { map.as_mut() }) else { return };
    for array in [&mut map.keys, &mut map.values] {
        // SAFETY: see above.
        unsafe { free_texts(*array, map.len) };
        *array = std::ptr::null_mut();
    }
    map.len = 0;
}

/// # Safety
/// `array` is NULL or has `len` strings, all from `malloc` and used by nobody any more.
unsafe fn free_texts(array: *mut *mut c_char, len: usize) {
    if array.is_null() {
        return;
    }
    // SAFETY: see above.
    unsafe {
        for i in 0..len {
            cmem::free(*array.add(i));
        }
        cmem::free(array);
    }
}

/// # Safety
/// As for [`free_map`].
pub(super) unsafe fn free_status(status: *mut graphdriver_status) {
    if status.is_null() {
        return;
    }
    // SAFETY: see above.
    unsafe {
        for member in [(*status).driver_name, (*status).backing_fs, (*status).status] {
            cmem::free(member);
        }
        cmem::free(status);
    }
}

/// # Safety
/// As for [`free_map`].
pub(super) unsafe fn free_create_options(options: *mut driver_create_opts) {
    if options.is_null() {
        return;
    }
    // SAFETY: see above.
    unsafe {
        cmem::free((*options).mount_label);
        free_map((*options).storage_opt);
        cmem::free(options);
    }
}

/// # Safety
/// As for [`free_map`].
pub(super) unsafe fn free_mount_options(options: *mut driver_mount_opts) {
    if options.is_null() {
        return;
    }
    // SAFETY: see above.
    unsafe {
        cmem::free((*options).mount_label);
        free_texts((*options).options, (*options).options_len);
        cmem::free(options);
    }
}
