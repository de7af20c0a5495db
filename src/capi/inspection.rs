//! Listing and checking a store, by requests that can grow.

use super::types::{
    GRAPHDRIVER_BEING_USED, GRAPHDRIVER_BUSY, GRAPHDRIVER_LOSS, GRAPHDRIVER_MEND, GRAPHDRIVER_NEEDS_HAND, GRAPHDRIVER_NOTE,
    GRAPHDRIVER_READ_ONLY, GRAPHDRIVER_READ_WRITE, GRAPHDRIVER_UNKNOWN, GRAPHDRIVER_UNUSABLE, GRAPHDRIVER_WHOLE,
};
use super::types::{graphdriver_check, graphdriver_finding, graphdriver_layer, graphdriver_list_layers};
use super::{GRAPH, guard, input, requests};
use crate::driver::{Access, Condition, Finding, Listed, Severity};
use crate::error::{Error, Kind, Result};
use std::ffi::{CString, c_char, c_int};
use std::path::Path;
use std::ptr;

/// Lists the layers of a store: id, parent, who may write into it, and whether it can be used, or why not.
///
/// @param request  not NULL; set size to sizeof(struct graphdriver_list_layers), each to what is called for every layer, and all
///                 else that is not needed to 0. What is said there to be received is written on success only.
/// @return 0, or -1 with errno and graphdriver_last_error() set.
///
/// Layers that come or go meanwhile may be told or not; one that is being worked on is told as such, and nobody is waited for. No
/// layer is held while each is called, which may call the library. A layer that is told is one that the caller knows of: its id is
/// not given again while it is there (see graphdriver_create_ro). With driver and root a store is read past its driver: none need be
/// initialised, any process may have the store, also on a read-only mount, and nothing is locked or written. Then what another
/// process works on cannot be told for certain, and with devicemapper only the metadata files are looked at. Thread-safe. errno:
/// EINVAL for a bad argument, ECANCELED if each ended it, ENOENT if there is no such store, E2BIG as for graphdriver_unpack, ENOTCONN
/// before graphdriver_init where no driver is named, else that of the system call that failed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_list_layers(request: *mut graphdriver_list_layers) -> c_int {
    guard("graphdriver_list_layers", -1, || {
        // SAFETY: the caller's promise.
        let asked = unsafe { requests::copied(request) }?;
        // SAFETY: the caller's promise.
        let past = unsafe { past(asked.driver, asked.root) }?;
        let each = requests::function(asked.each)?;
        let mut layers = 0;
        let mut tell = |layer: &Listed| {
            layers += 1;
            with_layer(layer, |layer| {
                // SAFETY: the caller's promise; the layer lives through the call.
                unsafe { each(asked.context, layer) }
            })
        };
        GRAPH.inspect(past, |store| store.layers(&mut tell))?;
        // SAFETY: it was read from a moment ago.
        unsafe { (*request).layers = layers };
        Ok(0)
    })
}

/// Compares all that a store says about itself, and tells what does not fit: with overlay2 short names, lists of parents, parts,
/// marks, quota projects and limits, mounts and what is left over; with devicemapper the metadata files, the pool's devices,
/// transactions, active devices and mounts. Each finding comes with how bad it is and what to do.
///
/// @param request  not NULL; set size to sizeof(struct graphdriver_check), each to what is called for every finding, and all else
///                 that is not needed to 0. What is said there to be received is written on success only.
/// @return 0, whatever was found, or -1 with errno and graphdriver_last_error() set.
///
/// Reads no content of layers. With GRAPHDRIVER_MEND, what can be made again without guessing is, as graphdriver_try_repair_lowers and
/// a start would, and what is left over goes to the thread that deletes it; nothing else is deleted. A finding that is not mended
/// says what is to be done. Other operations go on meanwhile, no layer is held while each is called, and one that is being
/// worked on is told as busy. As for a store past its driver, see graphdriver_list_layers; it cannot be mended (EINVAL).
/// Thread-safe. errno as for graphdriver_list_layers; EROFS for mending what can only be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn graphdriver_check(request: *mut graphdriver_check) -> c_int {
    guard("graphdriver_check", -1, || {
        // SAFETY: the caller's promise.
        let asked = unsafe { requests::copied(request) }?;
        // SAFETY: the caller's promise.
        let past = unsafe { past(asked.driver, asked.root) }?;
        let each = requests::function(asked.each)?;
        let mend = requests::flag(asked.flags, GRAPHDRIVER_MEND)?;
        let (mut findings, mut mended) = (0, 0);
        let mut tell = |finding: &Finding| {
            findings += u64::from(finding.severity > Severity::Busy);
            mended += u64::from(finding.mended);
            with_finding(finding, |finding| {
                // SAFETY: the caller's promise; the finding lives through the call.
                unsafe { each(asked.context, finding) }
            })
        };
        let layers = GRAPH.inspect(past, |store| store.check(mend, &mut tell))?;
        // SAFETY: it was read from a moment ago.
        let request = unsafe { &mut *request };
        (request.layers, request.findings, request.mended) = (layers, findings, mended);
        Ok(0)
    })
}

/// The store that is to be looked at past its driver.
///
/// # Safety
/// Both are NULL or C strings that nobody changes during the call.
unsafe fn past<'a>(driver: *const c_char, root: *const c_char) -> Result<Option<(&'a str, &'a Path)>> {
    match (driver.is_null(), root.is_null()) {
        (true, true) => Ok(None),
        (false, false) => {
            // SAFETY: see above.
            let (driver, root) = unsafe { (input::text(driver, "driver")?, input::path(root, "root")?) };
            Ok(Some((driver, Path::new(root))))
        }
        _ => Err(Error::new(Kind::Invalid, "driver and root are to be given both, or neither")),
    }
}

fn text(text: &str) -> Result<CString> {
    CString::new(text.replace('\0', "\\0")).map_err(|_| Error::new(Kind::Internal, "a NUL byte in a text"))
}

fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}

pub(super) fn with_layer(layer: &Listed, call: impl FnOnce(&graphdriver_layer) -> c_int) -> Result<()> {
    let id = text(layer.id.as_str())?;
    let parent = layer.parent.as_ref().map(|parent| text(parent.as_str())).transpose()?;
    let (state, why) = match &layer.condition {
        Condition::Whole => (GRAPHDRIVER_WHOLE, None),
        Condition::Busy => (GRAPHDRIVER_BEING_USED, None),
        Condition::Unusable(why) => (GRAPHDRIVER_UNUSABLE, Some(text(why)?)),
    };
    let access = match layer.access {
        None => GRAPHDRIVER_UNKNOWN,
        Some(Access::ReadOnly) => GRAPHDRIVER_READ_ONLY,
        Some(Access::ReadWrite) => GRAPHDRIVER_READ_WRITE,
    };
    let size = size_of::<graphdriver_layer>();
    let (id, parent, why) = (id.as_ptr(), pointer(&parent), pointer(&why));
    requests::answered(call(&graphdriver_layer { size, id, parent, access, state, why }))
}

pub(super) fn with_finding(finding: &Finding, call: impl FnOnce(&graphdriver_finding) -> c_int) -> Result<()> {
    let layer = finding.layer.as_ref().map(|layer| text(layer.as_str())).transpose()?;
    let (what, remedy) = (text(&finding.what)?, text(&finding.remedy)?);
    let severity = match finding.severity {
        Severity::Busy => GRAPHDRIVER_BUSY,
        Severity::Note => GRAPHDRIVER_NOTE,
        Severity::Hand => GRAPHDRIVER_NEEDS_HAND,
        Severity::Loss => GRAPHDRIVER_LOSS,
    };
    let (size, mended) = (size_of::<graphdriver_finding>(), u32::from(finding.mended));
    let (layer, what, remedy) = (pointer(&layer), what.as_ptr(), remedy.as_ptr());
    requests::answered(call(&graphdriver_finding { size, layer, severity, mended, what, remedy }))
}
