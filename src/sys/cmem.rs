//! Memory that C callers free: everything here comes from libc's allocator, never from Rust's.

use crate::error::{Error, Result};
use crate::sys::fs::c_string;
use std::ffi::{OsStr, c_char, c_void};
use std::ptr::NonNull;

fn out_of_memory() -> Error {
    Error::sys("malloc", libc::ENOMEM)
}

/// A block of memory that is freed unless it is given away.
pub struct Block(NonNull<c_void>);

impl Block {
    /// Zeroed memory for one `T`.
    pub fn zeroed<T>() -> Result<Block> {
        // SAFETY: calloc has no preconditions.
        NonNull::new(unsafe { libc::calloc(1, size_of::<T>().max(1)) }).map(Block).ok_or_else(out_of_memory)
    }

    /// A NUL-terminated copy of a text.
    pub fn text(text: impl AsRef<OsStr>) -> Result<Block> {
        let text = c_string(text)?;
        let bytes = text.as_bytes_with_nul();
        // SAFETY: malloc has no preconditions.
        let block = NonNull::new(unsafe { libc::malloc(bytes.len()) }).map(Block).ok_or_else(out_of_memory)?;
        // SAFETY: a fresh block, as long as the text.
        unsafe { block.0.as_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(block)
    }

    /// The memory, now the receiver's to free.
    pub fn give<T>(self) -> *mut T {
        let pointer = self.0.as_ptr().cast();
        std::mem::forget(self);
        pointer
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it came from this allocator, and nobody else has it.
        unsafe { free(self.0.as_ptr()) }
    }
}

/// Makes an array of strings longer, to `len` elements; on failure it stays as it was.
///
/// # Safety
/// `array` is NULL or came from `malloc` and nobody else frees it.
pub unsafe fn grow(array: *mut *mut c_char, len: usize) -> Result<*mut *mut c_char> {
    let Some(bytes) = len.checked_mul(size_of::<*mut c_char>()) else { return Err(out_of_memory()) };
    // SAFETY: see above.
    let grown = unsafe { libc::realloc(array.cast(), bytes.max(1)) };
    if grown.is_null() { Err(out_of_memory()) } else { Ok(grown.cast()) }
}

/// `free(3)`.
///
/// # Safety
/// The pointer is NULL or came from `malloc` and is used by nobody any more.
pub unsafe fn free<T>(pointer: *mut T) {
    // SAFETY: see above.
    unsafe { libc::free(pointer.cast()) }
}

/// Sets the calling thread's `errno`.
pub fn set_errno(errno: i32) {
    nix::errno::Errno::set_raw(errno);
}

/// The calling thread's `errno`.
pub fn errno() -> i32 {
    nix::errno::Errno::last_raw()
}
