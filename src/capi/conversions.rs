//! What crosses the border, both ways and with memory from `malloc`, without the system calls of an export: these run under Miri
//! as well, which tells bad pointers, blocks that nobody frees and those that two free.

use super::types::{
    GRAPHDRIVER_DELETED, GRAPHDRIVER_LOSS, GRAPHDRIVER_READ_WRITE, GRAPHDRIVER_UNUSABLE, GRAPHDRIVER_WHOLE,
    driver_create_opts, driver_mount_opts, graphdriver_diff, graphdriver_unpack, json_map_string_string,
};
use super::{input, inspection, output, report, requests};
use crate::archive::Outcome;
use crate::digest::Digest;
use crate::driver::{Access, Change, Condition, Exported, Finding, Listed, Severity, Status};
use crate::error::{Error, Kind};
use crate::id::LayerId;
use crate::sys::cmem::{self, Block};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::{Read as _, Write as _};
use std::ptr;

const EINVAL: i32 = 22;

/// A string of the C caller's; `None` is NULL.
fn text(text: Option<&str>) -> *mut c_char {
    text.map_or(ptr::null_mut(), |text| output::text(text).unwrap())
}

fn array(elements: &[Option<&str>]) -> *mut *mut c_char {
    // SAFETY: there is none yet.
    let array = unsafe { cmem::grow(ptr::null_mut(), elements.len()) }.unwrap();
    for (i, element) in elements.iter().enumerate() {
        // SAFETY: so long was it made.
        unsafe { array.add(i).write(text(*element)) };
    }
    array
}

/// Something of the C caller's that it frees.
fn memory<T>(value: T) -> *mut T {
    let pointer: *mut T = Block::zeroed::<T>().unwrap().give();
    // SAFETY: as large as it is to be, and nobody else's.
    unsafe { pointer.write(value) };
    pointer
}

fn map(pairs: &[(Option<&str>, Option<&str>)]) -> *mut json_map_string_string {
    let (keys, values): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
    memory(json_map_string_string { keys: array(&keys), values: array(&values), len: pairs.len() })
}

fn shown<'a>(text: *const c_char) -> Option<&'a str> {
    // SAFETY: each is NULL or a string that outlives what the test does with it.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap())
}

/// # Safety
/// The map describes itself rightly.
unsafe fn pairs_of<'a>(map: *const json_map_string_string) -> Vec<(Option<&'a str>, Option<&'a str>)> {
    // SAFETY: the caller's promise.
    unsafe {
        let map = &*map;
        (0..map.len).map(|i| (shown(*map.keys.add(i)), shown(*map.values.add(i)))).collect()
    }
}

#[test]
fn options_of_a_creation_are_copied_and_a_missing_text_is_an_empty_one() {
    let storage_opt = map(&[(Some("size"), Some("1G")), (Some("quota"), None), (None, Some("x"))]);
    let options = memory(driver_create_opts { mount_label: text(Some("label")), storage_opt });
    // SAFETY: as made above, and freed once.
    let read = unsafe { input::create_options(options) };
    // SAFETY: as above.
    unsafe { output::free_create_options(options) };
    let read = read.unwrap();
    assert_eq!(read.mount_label.unwrap(), "label");
    let pairs = [("size", "1G"), ("quota", ""), ("", "x")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(read.storage_opt, pairs);
}

#[test]
fn an_array_that_is_missing_is_refused_by_its_name_and_an_empty_one_is_none() {
    let mut map = json_map_string_string { keys: ptr::null_mut(), values: ptr::null_mut(), len: 0 };
    for (len, expected) in [(0, None), (1, Some("storage_opt->keys is NULL"))] {
        map.len = len;
        let options = driver_create_opts { mount_label: ptr::null_mut(), storage_opt: &raw mut map };
        // SAFETY: what is NULL is to be refused.
        let read = unsafe { input::create_options(&raw const options) };
        assert_eq!(read.err().map(|error| error.message()).as_deref(), expected);
    }
    // SAFETY: as above.
    let missing = unsafe { input::create_options(ptr::null()) }.err().unwrap();
    assert_eq!((missing.errno(), missing.message().as_str()), (EINVAL, "create_opts is NULL"));
}

#[test]
fn options_of_a_mount_are_copied_and_each_has_a_text() {
    for (words, expected) in
        [(vec![Some("ro"), Some("nodev")], Ok(2)), (vec![Some("ro"), None], Err("a mount option is NULL"))]
    {
        let options =
            memory(driver_mount_opts { mount_label: text(None), options: array(&words), options_len: words.len() });
        // SAFETY: as made above, and freed once.
        let read = unsafe { input::mount_options(options) };
        // SAFETY: as above.
        unsafe { output::free_mount_options(options) };
        let read = read.map(|read| read.options.len()).map_err(|error| error.message());
        assert_eq!(read, expected.map_err(str::to_owned));
    }
    // SAFETY: NULL stands for none.
    assert!(unsafe { input::mount_options(ptr::null()) }.unwrap().options.is_empty());
}

#[test]
fn pairs_replace_and_append_and_what_cannot_be_done_changes_nothing() {
    let map = map(&[(Some("a"), Some("1")), (None, None)]);
    // SAFETY: as made above, and freed once.
    unsafe {
        output::set_pairs(&mut *map, &[("b", "2"), ("a", "3"), ("c", "")]).unwrap();
        let expected = [(Some("a"), Some("3")), (None, None), (Some("b"), Some("2")), (Some("c"), Some(""))];
        assert_eq!(pairs_of(map), expected);
        output::set_pairs(&mut *map, &[("d", "4"), ("a", "no\0text")]).unwrap_err();
        assert_eq!(pairs_of(map), expected);
        output::free_map(map);
        let mut bad = json_map_string_string { keys: ptr::null_mut(), values: ptr::null_mut(), len: 1 };
        assert_eq!(output::set_pairs(&mut bad, &[("a", "1")]).unwrap_err().errno(), EINVAL);
    }
}

#[test]
fn storage_options_are_appended_also_where_there_are_none_yet() {
    let options = memory(driver_create_opts { mount_label: ptr::null_mut(), storage_opt: ptr::null_mut() });
    let pair = |key: &str, value: &str| [(key.to_owned(), value.to_owned())];
    // SAFETY: as made above, and freed once.
    unsafe {
        output::append_storage_options(&mut *options, &[]).unwrap();
        assert!((*options).storage_opt.is_null());
        output::append_storage_options(&mut *options, &pair("size", "no\0text")).unwrap_err();
        assert!((*options).storage_opt.is_null());
        output::append_storage_options(&mut *options, &pair("size", "1G")).unwrap();
        output::append_storage_options(&mut *options, &pair("fs", "ext4")).unwrap();
        assert_eq!(pairs_of((*options).storage_opt), [(Some("size"), Some("1G")), (Some("fs"), Some("ext4"))]);
        output::free_create_options(options);
        output::free_create_options(ptr::null_mut());
        output::free_mount_options(ptr::null_mut());
        output::free_status(ptr::null_mut());
        output::free_map(ptr::null_mut());
    }
}

#[test]
fn a_status_is_given_away_whole_or_not_at_all() {
    let mut status = Status { driver_name: "overlay2".into(), backing_fs: "xfs".into(), text: "a: b\n".into() };
    let given = output::status(&status).unwrap();
    // SAFETY: it was made a moment ago, and is freed once.
    unsafe {
        assert_eq!(shown((*given).driver_name), Some("overlay2"));
        assert_eq!((shown((*given).backing_fs), shown((*given).status)), (Some("xfs"), Some("a: b\n")));
        output::free_status(given);
    }
    status.text = "no\0text".into();
    output::status(&status).unwrap_err();
}

/// Answers with the numbers that its context holds, one a call; a negative one is the error.
unsafe extern "C" fn scripted_read(context: *mut c_void, buffer: *mut c_void, len: usize) -> isize {
    // SAFETY: the test's own list, which nobody else uses meanwhile.
    let answer = unsafe { &mut *context.cast::<Vec<isize>>() }.remove(0);
    if answer < 0 {
        cmem::set_errno(i32::try_from(-answer - 1).unwrap());
        return -1;
    }
    // SAFETY: no more than there is room for.
    unsafe { ptr::write_bytes(buffer.cast::<u8>(), b'x', answer.cast_unsigned().min(len)) };
    answer
}

unsafe extern "C" fn scripted_write(context: *mut c_void, bytes: *const c_void, len: usize) -> isize {
    // SAFETY: as many as there are.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
    let mut seen = bytes.to_vec();
    // SAFETY: as above; it may write as much as there is room for in the copy.
    unsafe { scripted_read(context, seen.as_mut_ptr().cast(), len) }
}

#[test]
fn a_callback_that_answers_nonsense_or_an_error_is_an_error() {
    let answers: Vec<isize> = vec![5, 0, 9, -1, -1 - 28];
    let script = Box::into_raw(Box::new(answers.clone()));
    // SAFETY: what the function takes.
    let mut content = unsafe { input::Content::new(script.cast(), Some(scripted_read)) }.unwrap();
    let mut buffer = [0; 8];
    assert_eq!(content.read(&mut buffer).unwrap(), 5);
    assert_eq!(&buffer, b"xxxxx\0\0\0");
    assert_eq!(content.read(&mut buffer).unwrap(), 0);
    let mut failures = Vec::new();
    failures.extend((0..3).map(|_| content.read(&mut buffer).unwrap_err()));
    // SAFETY: as above.
    unsafe { *script = answers };
    // SAFETY: as above.
    let mut outlet = unsafe { requests::Outlet::new(script.cast(), Some(scripted_write)) }.unwrap();
    assert_eq!((outlet.write(&buffer).unwrap(), outlet.write(&buffer).unwrap()), (5, 0));
    failures.extend((0..3).map(|_| outlet.write(&buffer).unwrap_err()));
    // SAFETY: made above; both are through with it.
    drop(unsafe { Box::from_raw(script) });
    assert_eq!(failures.iter().map(std::io::Error::raw_os_error).collect::<Vec<_>>(), [None, None, Some(28)].repeat(2));
    // SAFETY: nothing is called.
    assert!(unsafe {
        input::Content::new(ptr::null_mut(), None).is_err() && requests::Outlet::new(ptr::null_mut(), None).is_err()
    });
}

/// A request of a program that was built for a newer header.
#[repr(C)]
struct Newer<T> {
    request: T,
    more: [u8; 16],
}

/// A request with all else 0, of a caller for which it has so many bytes.
fn newer<T>(size: usize) -> *mut Newer<T> {
    let pointer: *mut Newer<T> = Block::zeroed::<Newer<T>>().unwrap().give();
    // SAFETY: the size stands first in every request.
    unsafe { pointer.cast::<usize>().write(size) };
    pointer
}

#[test]
fn a_request_may_be_longer_if_what_is_unknown_is_not_set() {
    let known = size_of::<graphdriver_unpack>();
    let request = newer::<graphdriver_unpack>(known + 16);
    let digest = Digest::parse(format!("sha256:{}", "0f".repeat(32)).as_bytes()).unwrap();
    let outcome = Outcome { entries: 3, bytes: 4, digests: Some((digest, digest)), ..Outcome::default() };
    // SAFETY: as made above, and freed once.
    unsafe {
        let asked = requests::unpack(request.cast()).unwrap();
        assert!(asked.read.is_none() && requests::limits(&asked).is_none());
        requests::unpacked(request.cast(), &outcome, 5);
        let written = &(*request).request;
        assert_eq!((written.bytes, written.entries, written.layer_size), (4, 3, 5));
        assert_eq!(shown(written.digest.as_ptr()), Some(digest.to_string().as_str()));
        assert_eq!(shown(written.diff_id.as_ptr()), Some(digest.to_string().as_str()));
        assert_eq!((*request).more, [0; 16]);
        for (size, more, errno) in [(known - 1, 0, EINVAL), (0, 0, EINVAL), (known + 16, 1, 7), (known, 1, 0)] {
            (*request).request.size = size;
            (*request).more[15] = more;
            assert_eq!(requests::unpack(request.cast()).map_or_else(|error| error.errno(), |_| 0), errno, "{size} {more}");
        }
        cmem::free(request);
        assert_eq!(requests::diff(ptr::null()).err().unwrap().errno(), EINVAL);
    }
}

#[test]
fn what_was_exported_is_told_without_digests_as_well() {
    let request = newer::<graphdriver_diff>(size_of::<graphdriver_diff>());
    // SAFETY: as made above, and freed once.
    unsafe {
        let asked = requests::diff(request.cast()).unwrap();
        assert_eq!(requests::form(&asked).unwrap(), crate::driver::Form { digests: true, ..Default::default() });
        requests::exported(request.cast(), &Exported { digests: None, bytes: 6, entries: 7 });
        let written = &(*request).request;
        assert_eq!((written.bytes, written.entries, shown(written.digest.as_ptr())), (6, 7, Some("")));
        cmem::free(request);
    }
}

#[test]
fn expected_digests_are_parsed_and_contradictions_refused() {
    let asked = newer::<graphdriver_unpack>(size_of::<graphdriver_unpack>());
    let good = text(Some(&format!("sha256:{}", "a".repeat(64))));
    let bad = text(Some("sha256:a"));
    // SAFETY: as made above, and freed once.
    unsafe {
        let request = &mut (*asked).request;
        assert!(requests::digests(request).unwrap().wanted);
        request.expected_diff_id = good;
        assert!(requests::digests(request).unwrap().archive.is_some());
        request.flags = 1;
        assert_eq!(requests::digests(request).unwrap_err().errno(), EINVAL);
        (request.flags, request.expected_digest) = (0, bad);
        assert_eq!(requests::digests(request).unwrap_err().errno(), EINVAL);
        cmem::free(good);
        cmem::free(bad);
        cmem::free(asked);
    }
}

/// Keeps what it is told in a list of its context's; ends the listing at the second.
unsafe extern "C" fn keep(context: *mut c_void, change: c_int, path: *const c_char) -> c_int {
    // SAFETY: the test's own list, which nobody else uses meanwhile.
    let list = unsafe { &mut *context.cast::<Vec<(c_int, String)>>() };
    list.push((change, shown(path).unwrap().to_owned()));
    c_int::from(list.len() == 2)
}

#[test]
fn changes_are_told_until_the_host_has_enough() {
    let list = Box::into_raw(Box::new(Vec::<(c_int, String)>::new()));
    // SAFETY: what the function takes.
    let tell = |path: &[u8]| unsafe { requests::tell(keep, list.cast(), path, Change::Deleted) };
    tell(b"a").unwrap();
    assert_eq!(tell(b"a/b").unwrap_err().errno(), 125);
    tell(b"\0").unwrap_err();
    // SAFETY: made above.
    let list = unsafe { Box::from_raw(list) };
    assert_eq!(*list, [(GRAPHDRIVER_DELETED, "/a".to_owned()), (GRAPHDRIVER_DELETED, "/a/b".to_owned())]);
}

#[test]
fn layers_and_findings_are_told_with_texts_that_live_through_the_call() {
    let id = |text: &str| LayerId::parse(text.as_bytes()).unwrap();
    let unusable = Condition::Unusable("a\0b".into());
    let mut layer = Listed { id: id("a"), parent: Some(id("p")), access: Some(Access::ReadWrite), condition: unusable };
    inspection::with_layer(&layer, |told| {
        assert_eq!((shown(told.id), shown(told.parent), shown(told.why)), (Some("a"), Some("p"), Some("a\\0b")));
        assert_eq!((told.access, told.state), (GRAPHDRIVER_READ_WRITE, GRAPHDRIVER_UNUSABLE));
        0
    })
    .unwrap();
    (layer.parent, layer.condition) = (None, Condition::Whole);
    let ended = inspection::with_layer(&layer, |told| {
        assert_eq!((told.parent.is_null(), told.why.is_null(), told.state), (true, true, GRAPHDRIVER_WHOLE));
        1
    });
    assert_eq!(ended.unwrap_err().errno(), 125);
    let finding = Finding { layer: None, severity: Severity::Loss, what: "w".into(), remedy: "r".into(), mended: true };
    inspection::with_finding(&finding, |told| {
        assert_eq!((shown(told.layer), shown(told.what), shown(told.remedy)), (None, Some("w"), Some("r")));
        assert_eq!((told.severity, told.mended), (GRAPHDRIVER_LOSS, 1));
        0
    })
    .unwrap();
}

/// Fails in the callback of a failure, as a host does that asks something from there.
extern "C" fn fail_again(message: *const c_char, user: *mut c_void) {
    // SAFETY: the test's own, and only this thread's.
    unsafe { *user.cast::<String>() += shown(message).unwrap() };
    report::set_error_callback(None, ptr::null_mut());
    report::failed("inner", &Error::new(Kind::Busy, "of the callback"));
}

#[test]
fn the_last_error_is_the_callers_own_whatever_its_callback_does() {
    report::failed("outer", &Error::new(Kind::Busy, "the first\0"));
    assert!(shown(report::last()).unwrap().contains("the first\\0"));
    let told = Box::into_raw(Box::new(String::new()));
    report::set_error_callback(Some(fail_again), told.cast());
    report::failed("outer", &Error::new(Kind::Busy, "the second").user("a sentence"));
    // SAFETY: made above; the callback has taken itself away.
    let told = unsafe { Box::from_raw(told) };
    assert_eq!(*told, "a sentence");
    assert_eq!(shown(report::last()), Some("a sentence"));
}
