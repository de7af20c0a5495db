//! Bytes as they come → the tar stream → entries → plan of operations: nothing panics, no operation names anything but one
//! component below a directory.
#![no_main]

use graphdriver::archive::decode::{self, Sink};
use graphdriver::archive::entry::{Entry, Reader, Type};
use graphdriver::archive::plan::{Operation, Place, plan};
use graphdriver::archive::{IdShift, Limits};
use libfuzzer_sys::fuzz_target;

fn check(place: &Place<'_>) {
    assert!(!place.name.is_empty() && place.name != b"." && place.name != b"..");
    assert!(!place.name.contains(&b'/') && !place.name.contains(&0));
    assert!(!place.parent.starts_with(b"/") && !place.parent.ends_with(b"/") && !place.parent.contains(&0));
}

/// Collects what is decoded, up to a bound.
struct Stream(Vec<u8>);

impl Sink for Stream {
    fn buffer(&mut self) -> Option<Vec<u8>> {
        (self.0.len() < 1 << 20).then(|| vec![0; 1 << 18])
    }

    fn pass(&mut self, bytes: Vec<u8>, length: usize) -> bool {
        self.0.extend_from_slice(&bytes[..length]);
        true
    }
}

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let mut stream = Stream(Vec::new());
    if decode::run(&mut &*bytes, &mut stream, &limits).is_err() {
        return;
    }
    let bytes = stream.0.as_slice();
    let shift = IdShift { uid: 100_000, gid: 100_000, size: 65_536 };
    for shift in [None, Some(&shift)] {
        let mut reader = Reader::new(bytes, &limits);
        let mut entry = Entry::default();
        while let Ok(true) = reader.next(&mut entry) {
            match plan(&entry, shift) {
                Err(_) => break,
                Ok(Operation::Hardlink(at, to)) => [at, to].iter().for_each(check),
                Ok(
                    Operation::Dir(at, _)
                    | Operation::File(at, _)
                    | Operation::Symlink(at, _, _)
                    | Operation::Node(at, _, _, _)
                    | Operation::Whiteout(at, _),
                ) => check(&at),
                Ok(Operation::Skip | Operation::Root(_) | Operation::Opaque(_)) => {}
            }
            let mut left: u64 = 0;
            while let Ok(chunk) = reader.data() {
                let length = chunk.len();
                if length == 0 || reader.consume(length).is_err() {
                    break;
                }
                left += length as u64;
            }
            assert!(left <= bytes.len() as u64);
            if entry.kind == Type::File {
                let extents = entry.extents.iter().flatten();
                assert!(extents.clone().all(|(offset, count)| offset + count <= entry.length));
            }
        }
    }
});
