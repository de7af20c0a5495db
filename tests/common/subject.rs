//! The public interface as one trait with two implementations: the Rust API, and the C ABI as a C program calls it. Scenarios
//! are written once and run through both.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // a C caller cannot be written without

use graphdriver::capi;
use graphdriver::driver::{Access, Condition, CreateOptions, Finding, Form, Listed, MountOptions, Severity};
use graphdriver::error::Result;
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, MutexGuard};

/// A failure as the caller sees it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub errno: i32,
    pub text: String,
}

pub type Outcome<T> = std::result::Result<T, Failure>;

pub trait Subject: Sync {
    /// Which interface it is, for another process to use the same.
    fn kind(&self) -> &'static str;
    fn init(&self, name: &str, storage_root: &Path, options: &[&str]) -> Outcome<()>;
    fn create(
        &self,
        id: &str,
        parent: Option<&str>,
        access: Access,
        storage: &[(&str, &str)],
    ) -> Outcome<Vec<(String, String)>>;
    fn remove(&self, id: &str) -> Outcome<()>;
    fn mount(&self, id: &str, options: &[&str]) -> Outcome<PathBuf>;
    fn umount(&self, id: &str) -> Outcome<()>;
    fn exists(&self, id: &str) -> bool;
    fn apply_from(&self, id: &str, source: &mut dyn Read) -> Outcome<i64>;
    fn diff(&self, id: &str, base: Option<&str>) -> Outcome<Vec<u8>>;
    fn metadata(&self, id: &str) -> Outcome<Vec<(String, String)>>;
    fn usage(&self, id: &str) -> Outcome<(u64, u64)>;
    fn repair(&self, id: &str, parent: Option<&str>) -> Outcome<()>;
    fn status(&self) -> Outcome<(String, String, String)>;
    fn cleanup(&self) -> Outcome<()>;

    /// What a check finds. Not over another process.
    fn check(&self, _mend: bool) -> Outcome<Vec<Finding>> {
        panic!("{} cannot check", self.kind())
    }
    /// The layers that there are. Not over another process.
    fn list(&self) -> Outcome<Vec<Listed>> {
        panic!("{} cannot list", self.kind())
    }

    fn apply(&self, id: &str, mut archive: &[u8]) -> Outcome<i64> {
        self.apply_from(id, &mut archive)
    }
    fn create_ro(&self, id: &str, parent: Option<&str>) -> Outcome<()> {
        self.create(id, parent, Access::ReadOnly, &[]).map(drop)
    }
    fn create_rw(&self, id: &str, parent: Option<&str>) -> Outcome<()> {
        self.create(id, parent, Access::ReadWrite, &[]).map(drop)
    }
}

/// The Rust API.
#[derive(Default)]
pub struct Rust(Graph);

fn seen<T>(result: Result<T>) -> Outcome<T> {
    result.map_err(|e| Failure { errno: e.errno(), text: e.message() })
}

fn parent_id(parent: Option<&str>) -> Result<Option<LayerId>> {
    parent.filter(|p| !p.is_empty()).map(|p| LayerId::parse(p.as_bytes())).transpose()
}

impl Subject for Rust {
    fn kind(&self) -> &'static str {
        "rust"
    }
    fn init(&self, name: &str, storage_root: &Path, options: &[&str]) -> Outcome<()> {
        seen(self.0.init(name, storage_root, options))
    }
    fn create(
        &self,
        id: &str,
        parent: Option<&str>,
        access: Access,
        storage: &[(&str, &str)],
    ) -> Outcome<Vec<(String, String)>> {
        let storage_opt = storage.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut options = CreateOptions { mount_label: None, storage_opt };
        seen(LayerId::parse(id.as_bytes()).and_then(|id| {
            let parent = parent_id(parent)?;
            self.0.with(|driver| driver.create(&id, parent.as_ref(), access, &mut options))
        }))?;
        Ok(options.storage_opt)
    }
    fn remove(&self, id: &str) -> Outcome<()> {
        seen(LayerId::parse(id.as_bytes()).and_then(|id| self.0.with(|driver| driver.remove(&id))))
    }
    fn mount(&self, id: &str, options: &[&str]) -> Outcome<PathBuf> {
        let options = MountOptions { mount_label: None, options: options.iter().map(Into::into).collect() };
        seen(LayerId::parse(id.as_bytes()).and_then(|id| self.0.with(|driver| driver.mount(&id, &options))))
    }
    fn umount(&self, id: &str) -> Outcome<()> {
        seen(LayerId::parse(id.as_bytes()).and_then(|id| self.0.with(|driver| driver.umount(&id))))
    }
    fn exists(&self, id: &str) -> bool {
        LayerId::parse(id.as_bytes()).and_then(|id| self.0.with(|driver| driver.exists(&id))).unwrap_or(false)
    }
    fn apply_from(&self, id: &str, source: &mut dyn Read) -> Outcome<i64> {
        seen(LayerId::parse(id.as_bytes()).and_then(|id| {
            self.0.with(|driver| {
                let mut size = 0;
                driver.apply_diff(&id, source, Some(&mut size))?;
                Ok(i64::try_from(size).unwrap())
            })
        }))
    }
    fn diff(&self, id: &str, base: Option<&str>) -> Outcome<Vec<u8>> {
        let mut bytes = Vec::new();
        seen(LayerId::parse(id.as_bytes()).and_then(|id| {
            let base = parent_id(base)?;
            self.0.with(|driver| driver.diff(&id, &base.into(), Form::default(), &mut bytes))
        }))?;
        Ok(bytes)
    }
    fn metadata(&self, id: &str) -> Outcome<Vec<(String, String)>> {
        let items = seen(LayerId::parse(id.as_bytes()).and_then(|id| self.0.with(|driver| driver.layer_metadata(&id))))?;
        Ok(items.into_iter().map(|(k, v)| (k.to_owned(), v.into_string().unwrap())).collect())
    }
    fn usage(&self, id: &str) -> Outcome<(u64, u64)> {
        let usage = seen(LayerId::parse(id.as_bytes()).and_then(|id| self.0.with(|driver| driver.layer_usage(&id))))?;
        Ok((usage.bytes, usage.inodes))
    }
    fn repair(&self, id: &str, parent: Option<&str>) -> Outcome<()> {
        seen(LayerId::parse(id.as_bytes()).and_then(|id| {
            let parent = parent_id(parent)?;
            self.0.with(|driver| driver.repair_lowers(&id, parent.as_ref()))
        }))
    }
    fn status(&self) -> Outcome<(String, String, String)> {
        let status = seen(self.0.with(|driver| driver.status()))?;
        Ok((status.driver_name, status.backing_fs, status.text))
    }
    fn cleanup(&self) -> Outcome<()> {
        seen(self.0.cleanup())
    }
    fn check(&self, mend: bool) -> Outcome<Vec<Finding>> {
        seen(findings(&self.0, None, mend))
    }
    fn list(&self) -> Outcome<Vec<Listed>> {
        seen(listed(&self.0, None))
    }
}

/// What a check finds, with the driver or past it.
pub fn findings(graph: &Graph, past: Option<(&str, &Path)>, mend: bool) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    graph.inspect(past, |store| {
        store.check(mend, &mut |finding| {
            found.push(finding.clone());
            Ok(())
        })
    })?;
    Ok(found)
}

/// The layers that there are, with the driver or past it.
pub fn listed(graph: &Graph, past: Option<(&str, &Path)>) -> Result<Vec<Listed>> {
    let mut found = Vec::new();
    graph.inspect(past, |store| {
        store.layers(&mut |layer| {
            found.push(layer.clone());
            Ok(())
        })
    })?;
    Ok(found)
}

/// The C ABI. There is one driver in a process, so there is one of these at a time.
pub struct C(#[allow(dead_code)] MutexGuard<'static, ()>);

impl C {
    pub fn new() -> C {
        static ONE: Mutex<()> = Mutex::new(());
        C(ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Drop for C {
    fn drop(&mut self) {
        // A test that failed may have left its driver.
        capi::graphdriver_cleanup();
    }
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn c_opt(text: Option<&str>) -> Option<CString> {
    text.map(c)
}

fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |t| t.as_ptr())
}

fn failure() -> Failure {
    let errno = nix::errno::Errno::last_raw();
    let text = unsafe { CStr::from_ptr(capi::graphdriver_last_error()) }.to_str().unwrap().to_owned();
    Failure { errno, text }
}

fn zero(rc: c_int) -> Outcome<()> {
    if rc == 0 { Ok(()) } else { Err(failure()) }
}

/// A copy of a C string that is freed as a C program would.
fn taken(text: *mut c_char) -> String {
    let copy = unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned();
    unsafe { libc::free(text.cast()) };
    copy
}

fn map_of(pairs: &[(&str, &str)]) -> *mut capi::json_map_string_string {
    unsafe {
        let map: *mut capi::json_map_string_string = libc::calloc(1, size_of::<capi::json_map_string_string>()).cast();
        if !pairs.is_empty() {
            (*map).keys = libc::calloc(pairs.len(), size_of::<*mut c_char>()).cast();
            (*map).values = libc::calloc(pairs.len(), size_of::<*mut c_char>()).cast();
        }
        for (i, (key, value)) in pairs.iter().enumerate() {
            *(*map).keys.add(i) = libc::strdup(c(key).as_ptr());
            *(*map).values.add(i) = libc::strdup(c(value).as_ptr());
        }
        (*map).len = pairs.len();
        map
    }
}

fn pairs_of(map: *const capi::json_map_string_string) -> Vec<(String, String)> {
    let text = |p: *mut c_char| unsafe { CStr::from_ptr(p) }.to_str().unwrap().to_owned();
    let Some(map) = (unsafe { map.as_ref() }) else { return Vec::new() };
    (0..map.len).map(|i| unsafe { (text(*map.keys.add(i)), text(*map.values.add(i))) }).collect()
}

/// Reads from what the context points to, as a C callback.
unsafe extern "C" fn read_source(context: *mut c_void, buf: *mut c_void, len: usize) -> isize {
    let source = unsafe { &mut *context.cast::<&mut dyn Read>() };
    let buffer = unsafe { std::slice::from_raw_parts_mut(buf.cast::<u8>(), len) };
    match source.read(buffer) {
        Ok(n) => isize::try_from(n).unwrap(),
        Err(e) => {
            nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)).set();
            -1
        }
    }
}

/// Collects what is written, as a C callback.
unsafe extern "C" fn write_vector(context: *mut c_void, buf: *const c_void, len: usize) -> isize {
    let bytes = unsafe { &mut *context.cast::<Vec<u8>>() };
    bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(buf.cast(), len) });
    isize::try_from(len).unwrap()
}

impl Subject for C {
    fn kind(&self) -> &'static str {
        "C"
    }
    fn init(&self, name: &str, storage_root: &Path, options: &[&str]) -> Outcome<()> {
        let (name, root) = (c(name), c(storage_root.to_str().unwrap()));
        let options: Vec<CString> = options.iter().map(|o| c(o)).collect();
        let mut pointers: Vec<*mut c_char> = options.iter().map(|o| o.as_ptr().cast_mut()).collect();
        zero(unsafe { capi::graphdriver_init_at(name.as_ptr(), root.as_ptr(), pointers.as_mut_ptr(), pointers.len()) })
    }
    fn create(
        &self,
        id: &str,
        parent: Option<&str>,
        access: Access,
        storage: &[(&str, &str)],
    ) -> Outcome<Vec<(String, String)>> {
        let (id, parent) = (c(id), c_opt(parent));
        // Without storage options, a NULL map: the library must allocate one if it has something to say.
        let storage_opt = if storage.is_empty() { ptr::null_mut() } else { map_of(storage) };
        let mut options = capi::driver_create_opts { mount_label: ptr::null_mut(), storage_opt };
        let rc = unsafe {
            match access {
                Access::ReadWrite => capi::graphdriver_create_rw(id.as_ptr(), pointer(&parent), &raw mut options),
                Access::ReadOnly => capi::graphdriver_create_ro(id.as_ptr(), pointer(&parent), &raw const options),
            }
        };
        let outcome = zero(rc).map(|()| pairs_of(options.storage_opt));
        unsafe { capi::graphdriver_free_map(options.storage_opt) };
        outcome
    }
    fn remove(&self, id: &str) -> Outcome<()> {
        zero(unsafe { capi::graphdriver_rm_layer(c(id).as_ptr()) })
    }
    fn mount(&self, id: &str, options: &[&str]) -> Outcome<PathBuf> {
        let words: Vec<CString> = options.iter().map(|o| c(o)).collect();
        let mut pointers: Vec<*mut c_char> = words.iter().map(|o| o.as_ptr().cast_mut()).collect();
        let options = capi::driver_mount_opts {
            mount_label: ptr::null_mut(),
            options: pointers.as_mut_ptr(),
            options_len: pointers.len(),
        };
        let path = unsafe { capi::graphdriver_mount_layer(c(id).as_ptr(), &raw const options) };
        if path.is_null() { Err(failure()) } else { Ok(taken(path).into()) }
    }
    fn umount(&self, id: &str) -> Outcome<()> {
        zero(unsafe { capi::graphdriver_umount_layer(c(id).as_ptr()) })
    }
    fn exists(&self, id: &str) -> bool {
        unsafe { capi::graphdriver_layer_exists(c(id).as_ptr()) }
    }
    fn apply_from(&self, id: &str, mut source: &mut dyn Read) -> Outcome<i64> {
        let context: *mut &mut dyn Read = &raw mut source;
        let content = capi::io_read_wrapper { context: context.cast(), read: Some(read_source), close: None };
        let mut size = -1;
        zero(unsafe { capi::graphdriver_apply_diff(c(id).as_ptr(), &raw const content, &raw mut size) })
            .inspect_err(|_| assert_eq!(size, -1, "written on failure"))?;
        Ok(size)
    }
    fn diff(&self, id: &str, base: Option<&str>) -> Outcome<Vec<u8>> {
        let (mut bytes, base) = (Vec::<u8>::new(), c_opt(base));
        let mut request: capi::graphdriver_diff = unsafe { std::mem::zeroed() };
        request.size = size_of::<capi::graphdriver_diff>();
        request.context = (&raw mut bytes).cast();
        request.write = Some(write_vector);
        request.base = pointer(&base);
        zero(unsafe { capi::graphdriver_diff(c(id).as_ptr(), &raw mut request) })?;
        assert_eq!(request.bytes, bytes.len() as u64);
        Ok(bytes)
    }
    fn metadata(&self, id: &str) -> Outcome<Vec<(String, String)>> {
        let map = map_of(&[]);
        let outcome = zero(unsafe { capi::graphdriver_get_layer_metadata(c(id).as_ptr(), map) }).map(|()| pairs_of(map));
        unsafe { capi::graphdriver_free_map(map) };
        outcome
    }
    fn usage(&self, id: &str) -> Outcome<(u64, u64)> {
        let (mut bytes, mut inodes) = (0, 0);
        zero(unsafe { capi::graphdriver_get_layer_usage(c(id).as_ptr(), &raw mut bytes, &raw mut inodes) })?;
        Ok((bytes, inodes))
    }
    fn repair(&self, id: &str, parent: Option<&str>) -> Outcome<()> {
        let parent = c_opt(parent);
        zero(unsafe { capi::graphdriver_try_repair_lowers(c(id).as_ptr(), pointer(&parent)) })
    }
    fn status(&self) -> Outcome<(String, String, String)> {
        let status = capi::graphdriver_get_status();
        let Some(members) = (unsafe { status.as_ref() }) else { return Err(failure()) };
        let text = |p: *mut c_char| unsafe { CStr::from_ptr(p) }.to_str().unwrap().to_owned();
        let copy = (text(members.driver_name), text(members.backing_fs), text(members.status));
        unsafe { capi::free_graphdriver_status(status) };
        Ok(copy)
    }
    fn cleanup(&self) -> Outcome<()> {
        zero(capi::graphdriver_cleanup())
    }
    fn check(&self, mend: bool) -> Outcome<Vec<Finding>> {
        let mut found = Vec::<Finding>::new();
        let mut request: capi::graphdriver_check = unsafe { std::mem::zeroed() };
        request.size = size_of::<capi::graphdriver_check>();
        request.context = (&raw mut found).cast();
        request.each = Some(note_finding);
        request.flags = if mend { capi::GRAPHDRIVER_MEND } else { 0 };
        zero(unsafe { capi::graphdriver_check(&raw mut request) })?;
        assert_eq!(request.mended, found.iter().filter(|finding| finding.mended).count() as u64);
        Ok(found)
    }
    fn list(&self) -> Outcome<Vec<Listed>> {
        let mut found = Vec::<Listed>::new();
        let mut request: capi::graphdriver_list_layers = unsafe { std::mem::zeroed() };
        request.size = size_of::<capi::graphdriver_list_layers>();
        request.context = (&raw mut found).cast();
        request.each = Some(note_layer);
        zero(unsafe { capi::graphdriver_list_layers(&raw mut request) })?;
        assert_eq!(request.layers, found.len() as u64);
        Ok(found)
    }
}

fn owned(text: *const c_char) -> Option<String> {
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned())
}

fn owned_id(text: *const c_char) -> Option<LayerId> {
    owned(text).map(|id| LayerId::parse(id.as_bytes()).unwrap())
}

/// Collects findings, as a C callback.
unsafe extern "C" fn note_finding(context: *mut c_void, finding: *const capi::graphdriver_finding) -> c_int {
    let (all, finding) = unsafe { (&mut *context.cast::<Vec<Finding>>(), &*finding) };
    assert_eq!(finding.size, size_of::<capi::graphdriver_finding>());
    let severity = [Severity::Busy, Severity::Note, Severity::Hand, Severity::Loss][finding.severity as usize];
    let (what, remedy) = (owned(finding.what).unwrap(), owned(finding.remedy).unwrap());
    all.push(Finding { layer: owned_id(finding.layer), severity, what, remedy, mended: finding.mended == 1 });
    0
}

/// Collects layers, as a C callback.
unsafe extern "C" fn note_layer(context: *mut c_void, layer: *const capi::graphdriver_layer) -> c_int {
    let (all, layer) = unsafe { (&mut *context.cast::<Vec<Listed>>(), &*layer) };
    let access = [None, Some(Access::ReadOnly), Some(Access::ReadWrite)][layer.access as usize];
    let condition = match layer.state {
        capi::GRAPHDRIVER_WHOLE => Condition::Whole,
        capi::GRAPHDRIVER_BEING_USED => Condition::Busy,
        _ => Condition::Unusable(owned(layer.why).unwrap()),
    };
    all.push(Listed { id: owned_id(layer.id).unwrap(), parent: owned_id(layer.parent), access, condition });
    0
}
