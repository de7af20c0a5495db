//! An unpack ends when it is told to: wherever it is, whatever its source does. Needs root.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // C callbacks

mod archive_support;
mod common;

use archive_support::{Item, Scratch, file, options, tar};
use common::subject::{C, Subject};
use common::{Store, run};
use graphdriver::archive::Whiteouts;
use graphdriver::cancel::Cancel;
use graphdriver::capi;
use graphdriver::driver::{Access, Against, CreateOptions, Form, MountOptions, Unpack};
use graphdriver::error::{Error, Kind};
use graphdriver::graph::Graph;
use graphdriver::id::LayerId;
use std::ffi::{CString, c_char, c_void};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A source whose every read is the test's own; counts them.
struct Source<F: FnMut(usize, &mut [u8]) -> io::Result<usize>>(usize, F);

impl<F: FnMut(usize, &mut [u8]) -> io::Result<usize>> Read for Source<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0 += 1;
        (self.1)(self.0, into)
    }
}

/// Files without end.
fn endless(into: &mut [u8]) -> usize {
    let one = tar(&[file("d/f", "x")]);
    let files = one[..1024].repeat(4);
    let count = files.len().min(into.len());
    into[..count].copy_from_slice(&files[..count]);
    count
}

fn is_cancelled(error: &Error) -> bool {
    assert_eq!((error.kind(), error.errno()), (Kind::Cancelled, libc::ECANCELED), "{error:?}");
    true
}

#[test]
fn an_unpack_ends_with_the_read_in_which_it_was_cancelled() {
    let scratch = Scratch::new("cancel-read");
    let target = std::fs::File::open(&scratch.0).unwrap();
    for form in [Whiteouts::Overlay, Whiteouts::Delete] {
        for failing in [false, true] {
            let how = options(form);
            let cancel = how.cancel.clone();
            let mut source = Source(0, |turn, into: &mut [u8]| {
                if turn == 100 {
                    cancel.request();
                }
                // One that closes its source to be quick is told the same.
                if failing && turn == 100 { Err(io::Error::from_raw_os_error(libc::EBADF)) } else { Ok(endless(into)) }
            });
            let error = archive_support::unpack_from(&mut source, target.as_fd(), &how).unwrap_err();
            assert!(is_cancelled(&error) && source.0 == 100, "{}", source.0);
        }
    }
}

#[test]
fn nothing_is_read_or_placed_once_it_is_cancelled() {
    let scratch = Scratch::new("cancel-before");
    let target = std::fs::File::open(&scratch.0).unwrap();
    let how = options(Whiteouts::Overlay);
    how.cancel.request();
    let mut source = Source(0, |_, into: &mut [u8]| Ok(endless(into)));
    assert!(is_cancelled(&archive_support::unpack_from(&mut source, target.as_fd(), &how).unwrap_err()));
    assert_eq!((source.0, std::fs::read_dir(&scratch.0).unwrap().count()), (0, 0));
}

/// All that there is has been read long before it is placed: the thread that places is told too. It is kept from placing
/// anything meanwhile by a frozen filesystem.
#[test]
fn what_was_read_already_is_not_placed_any_more() {
    let store = Store::new();
    let dir = store.root().join("target");
    std::fs::create_dir(&dir).unwrap();
    let target = std::fs::File::open(&dir).unwrap();
    let freeze = |how: &str| run(Command::new("fsfreeze").arg(how).arg(store.root()));
    let how = options(Whiteouts::Overlay);
    let archive = tar(&(0..2000).map(|n| file(&format!("f{n}"), "")).collect::<Vec<Item>>());
    let mut rest = &archive[..archive.len() - 1024];
    let mut source = Source(0, |_, into: &mut [u8]| {
        if !rest.is_empty() {
            return rest.read(into);
        }
        how.cancel.request();
        freeze("--unfreeze");
        Ok(endless(into))
    });
    freeze("--freeze");
    assert!(is_cancelled(&archive_support::unpack_from(&mut source, target.as_fd(), &how).unwrap_err()));
    assert!(std::fs::read_dir(&dir).unwrap().count() <= 1);
}

fn id(text: &str) -> LayerId {
    LayerId::parse(text.as_bytes()).unwrap()
}

fn graph(root: &Path) -> Graph {
    let graph = Graph::new();
    graph.init("overlay", root, &["overlay2.sync=none"]).unwrap();
    for name in ["a", "b", "filled"] {
        graph.with(|driver| driver.create(&id(name), None, Access::ReadOnly, &mut CreateOptions::default())).unwrap();
    }
    graph.with(|driver| driver.apply_diff(&id("filled"), &mut &tar(&[file("there", "x")])[..], None)).unwrap();
    graph
}

/// A source that says when it is being read, and then waits to be told to go on.
fn blocking(reading: Sender<()>, go_on: Receiver<()>) -> impl Read {
    Source(0, move |_, into: &mut [u8]| {
        reading.send(()).unwrap();
        go_on.recv().unwrap();
        Ok(endless(into))
    })
}

fn unpack(graph: &Graph, name: &str, content: &mut dyn Read) -> graphdriver::error::Result<()> {
    graph.transfer(&id(name), |driver, cancel| driver.unpack(&id(name), Unpack { cancel, ..Unpack::of(content) }))
}

/// Where an export goes; the archive's first bytes cancel it.
struct Cancelling<'a>(&'a Graph, usize);

impl Write for Cancelling<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 += 1;
        assert_eq!(self.0.cancel(Some(&id("filled"))), 1);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_export_ends_behind_the_write_that_cancels_it() {
    let store = Store::new();
    let graph = graph(&store.root());
    let files: Vec<Item> = (0..2000).map(|n| file(&format!("f{n}"), "x")).collect();
    unpack(&graph, "filled", &mut &tar(&files)[..]).unwrap();
    for digests in [false, true] {
        let mut to = Cancelling(&graph, 0);
        let form = Form { digests, ..Form::default() };
        let done = graph.transfer(&id("filled"), |driver, cancel| {
            driver.diff(&id("filled"), &Against { base: None, cancel }, form, &mut to)
        });
        assert!(is_cancelled(&done.unwrap_err()));
        assert_eq!((to.1, graph.cancel(None)), (1, 0));
    }
    graph.cleanup().unwrap();
}

#[test]
fn layers_are_cancelled_one_by_one_or_all_while_their_sources_block() {
    let store = Store::new();
    let graph = graph(&store.root());
    assert_eq!((graph.cancel(Some(&id("a"))), graph.cancel(None)), (0, 0));
    std::thread::scope(|scope| {
        let start = |name: &'static str| {
            let ((reading, read), (go, go_on)) = (channel(), channel());
            let graph = &graph;
            let unpack = scope.spawn(move || unpack(graph, name, &mut blocking(reading, go_on)));
            read.recv().unwrap();
            // The other end of what the source says: it would fail if nobody listened.
            (unpack, go, read)
        };
        let (a, b, filled) = (start("a"), start("b"), start("filled"));
        assert_eq!((graph.cancel(Some(&id("a"))), graph.cancel(Some(&id("never")))), (1, 0));
        a.1.send(()).unwrap();
        assert!(is_cancelled(&a.0.join().unwrap().unwrap_err()));
        // The others go on until they are told as well.
        b.1.send(()).unwrap();
        b.2.recv().unwrap();
        assert_eq!(graph.cancel(None), 2);
        for (unpack, go, _) in [b, filled] {
            go.send(()).unwrap();
            assert!(is_cancelled(&unpack.join().unwrap().unwrap_err()));
        }
    });
    assert_eq!(graph.cancel(None), 0);
    // Nothing of the archives had come: a layer that was empty can be filled, and another one is as it was.
    let mount = |name| graph.with(|driver| driver.mount(&id(name), &MountOptions::default()));
    for name in ["a", "b"] {
        assert_eq!(std::fs::read_dir(store.root().join("overlay").join(name).join("diff")).unwrap().count(), 0);
        graph.with(|driver| driver.apply_diff(&id(name), &mut &tar(&[file("f", "x")])[..], None)).unwrap();
        graph.with(|driver| driver.exists(&id(name))).map(|there| assert!(there)).unwrap();
        assert!(mount(name).unwrap().join("f").exists());
        graph.with(|driver| driver.umount(&id(name))).unwrap();
    }
    mount("filled").unwrap();
    graph.with(|driver| driver.umount(&id("filled"))).unwrap();
    graph.cleanup().unwrap();
}

#[test]
fn a_cancelled_request_of_the_callers_own_ends_too() {
    let store = Store::new();
    let graph = graph(&store.root());
    let cancel = Cancel::default();
    cancel.request();
    let mut source = Source(0, |_, into: &mut [u8]| Ok(endless(into)));
    let request = Unpack { cancel: cancel.clone(), ..Unpack::of(&mut source) };
    assert!(is_cancelled(&graph.with(|driver| driver.unpack(&id("a"), request)).unwrap_err()));
    let against = Against { base: None, cancel };
    let told = graph.with(|driver| driver.changes(&id("filled"), &against, &mut |_, _| panic!("told of a change")));
    assert!(is_cancelled(&told.unwrap_err()));
    assert!(is_cancelled(&graph.with(|driver| driver.diff_size(&id("filled"), &against)).unwrap_err()));
    graph.cleanup().unwrap();
}

/// A callback that cancels its own unpack, the `context`th time it is called.
unsafe extern "C" fn cancelling(context: *mut c_void, buffer: *mut c_void, length: usize) -> isize {
    let left = unsafe { &mut *context.cast::<usize>() };
    *left = left.checked_sub(1).expect("read was called again");
    if *left == 0 {
        assert_eq!(unsafe { capi::graphdriver_cancel(c"other".as_ptr()) }, 0);
        assert_eq!(unsafe { capi::graphdriver_cancel(c"layer".as_ptr()) }, 1);
    }
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    isize::try_from(endless(buffer)).unwrap()
}

#[test]
fn through_c_from_the_read_function_itself() {
    let (subject, store) = (C::new(), Store::new());
    subject.init("overlay", &store.root(), &["overlay2.sync=none"]).unwrap();
    subject.create_ro("layer", None).unwrap();
    let mut left = 50_usize;
    let context: *mut usize = &raw mut left;
    let content = capi::io_read_wrapper { context: context.cast(), read: Some(cancelling), close: None };
    let rc = unsafe { capi::graphdriver_apply_diff(c"layer".as_ptr(), &raw const content, ptr::null_mut()) };
    assert_eq!((rc, nix::errno::Errno::last_raw(), left), (-1, libc::ECANCELED, 0));
    let bad = CString::new("../x").unwrap();
    let cancel = |id: *const c_char| unsafe { capi::graphdriver_cancel(id) };
    assert_eq!((cancel(ptr::null()), cancel(bad.as_ptr())), (0, -1));
    assert_eq!(nix::errno::Errno::last_raw(), libc::EINVAL);
    subject.apply("layer", &tar(&[file("f", "x")])).unwrap();
    subject.remove("layer").unwrap();
    subject.cleanup().unwrap();
}
