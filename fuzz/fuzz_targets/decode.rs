//! Any bytes through format recognition and decompression: nothing panics, nothing hangs, nothing grows.
#![no_main]

use graphdriver::archive::Limits;
use graphdriver::archive::decode::{Sink, run};
use libfuzzer_sys::fuzz_target;

/// Takes this many bytes and then stops listening, as the placing thread does when it fails.
struct Count(usize);

impl Sink for Count {
    fn buffer(&mut self) -> Option<Vec<u8>> {
        (self.0 > 0).then(|| vec![0; 4096])
    }

    fn pass(&mut self, bytes: Vec<u8>, length: usize) -> bool {
        assert!(length <= bytes.len());
        self.0 = self.0.saturating_sub(bytes.len());
        self.0 > 0
    }
}

/// Reads of uneven sizes, some of them of one byte.
struct Uneven<'a>(&'a [u8], usize);

impl std::io::Read for Uneven<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 * 5 % 97 + 1;
        let count = self.1.min(into.len()).min(self.0.len());
        into[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut limits = Limits::default();
    limits.window = 1 << 20;
    let _ = run(&mut Uneven(bytes, 0), &mut Count(1 << 20), &limits);
});
