//! The parsers of what stands in extension records, each alone: PAX records with their numbers, times and encodings, and ACLs.
#![no_main]

use graphdriver::archive::{acl, pax};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut taken = 0;
    let whole = pax::records(bytes, |keyword, value| {
        assert!(!keyword.contains(&b'='));
        taken += keyword.len() + value.len() + 3; // a blank, '=' and the newline; the length comes on top
        let _ = pax::number("n", value);
        if let Ok(time) = pax::time("t", value) {
            assert!(time.nanos < 1_000_000_000);
        }
        if let Some(decoded) = pax::base64(value) {
            assert!(decoded.len() <= value.len());
        }
        if let Some(decoded) = pax::percent(value) {
            assert!(decoded.len() <= value.len());
        }
        Ok(())
    });
    assert!(whole.is_err() || taken <= bytes.len());
    if let Some(value) = acl::from_text(bytes) {
        // What is made of a text is what the kernel takes: it can be taken apart again, and stays the same where no id moves.
        assert_eq!(acl::shifted(&value, |_, id| Some(id)).as_deref(), Some(&value[..]));
    }
    if let Some(moved) = acl::shifted(bytes, |_, id| id.checked_add(1)) {
        assert_eq!(moved.len(), bytes.len());
    }
});
