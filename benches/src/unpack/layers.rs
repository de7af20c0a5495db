//! The layers that are unpacked, made once and kept under `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian packages whose files make the operating system tree (about 17,000 entries and 600 MB).
const PACKAGES: &str = "coreutils bash perl-modules-5.36 libpython3.11-stdlib python3.11-doc gcc-12 g++-12 cpp-12 \
    libstdc++-12-dev linux-libc-dev locales tzdata git vim-runtime libllvm14 libicu72 systemd libc6 libc6-dev util-linux \
    openssl libperl5.36 vim-common manpages-dev iso-codes";

/// Everything in them is as old as this, and ordered by name: the same packages give the same archive.
const TAR: &str = "tar --format=gnu --sort=name --mtime=@1600000000 --numeric-owner --owner=0 --group=0";

pub(crate) const KINDS: [&str; 3] = ["os", "small", "big"];
pub(crate) const FORMATS: [&str; 3] = ["tar", "tar.gz", "tar.zst"];

fn shell(dir: &Path, script: &str) {
    let status = Command::new("sh").args(["-ec", script]).current_dir(dir).status().unwrap();
    assert!(status.success(), "{script}");
}

/// xorshift64*: the same bytes from the same seed everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Bytes that compress to about a third, as programs do.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(length + 64);
        while out.len() < length {
            let word = self.next();
            if word.is_multiple_of(3) || out.len() < 1024 {
                out.extend(word.to_le_bytes().map(|byte| byte & 0x3f));
            } else {
                let (back, count) = (8 + (word >> 8) as usize % 1000, 4 + (word >> 32) as usize % 40);
                let from = out.len() - back;
                for at in from..from + count.min(back) {
                    out.push(out[at]);
                }
            }
        }
        out.truncate(length);
        out
    }
}

fn make(kind: &str, dir: &Path) {
    let tree = dir.join("tree");
    let _ = std::fs::remove_dir_all(&tree);
    std::fs::create_dir_all(&tree).unwrap();
    match kind {
        "os" => {
            shell(dir, &format!("mkdir -p debs && cd debs && apt-get download -qq {PACKAGES}"));
            shell(dir, "for deb in debs/*.deb; do dpkg-deb -x $deb tree; done");
        }
        "small" => {
            let mut random = Random(1);
            for n in 0..50_000 {
                let sub = tree.join(format!("{:03}", n / 100));
                if n % 100 == 0 {
                    std::fs::create_dir(&sub).unwrap();
                }
                std::fs::write(sub.join(format!("file-{n}")), random.bytes(1024)).unwrap();
            }
        }
        _ => {
            for n in 1..=4 {
                std::fs::write(tree.join(n.to_string()), Random(n).bytes(256 << 20)).unwrap();
            }
        }
    }
    shell(dir, &format!("{TAR} -cf {kind}.part -C tree . && rm -rf tree && mv {kind}.part {kind}.tar"));
}

/// The archive of a kind in a format.
pub(crate) fn layer(kind: &str, format: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bench-layers");
    std::fs::create_dir_all(&dir).unwrap();
    let (plain, path) = (dir.join(format!("{kind}.tar")), dir.join(format!("{kind}.{format}")));
    if !plain.exists() {
        make(kind, &dir);
    }
    if !path.exists() {
        let command = if format == "tar.gz" { "gzip -6 -n" } else { "zstd -3 -q" };
        shell(&dir, &format!("{command} -c {kind}.tar > {kind}.part && mv {kind}.part {kind}.{format}"));
    }
    path
}
