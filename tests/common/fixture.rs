//! Stores as real hosts hold them, described in `tests/fixtures`: git keeps neither empty directories nor modes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Makes what a description lists below `root`, which must exist. A line is kind, mode, path, and the text of a file or the
/// target of a symlink; see `tests/fixtures/overlay-host.txt`.
pub fn lay_out(description: &str, root: &Path) {
    for line in description.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.splitn(4, ' ');
        let (kind, mode) = (words.next().unwrap(), u32::from_str_radix(words.next().unwrap(), 8).unwrap());
        let path = root.join(words.next().unwrap());
        let text = words.next().unwrap_or_default();
        match kind {
            "d" => fs::create_dir(&path).unwrap(),
            "f" => fs::write(&path, text.replace("\\n", "\n")).unwrap(),
            "l" => symlink(text, &path).unwrap(),
            kind => panic!("a fixture has no '{kind}'"),
        }
        if kind != "l" {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}
