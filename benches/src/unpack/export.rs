//! The way back: a tree exported, beside `tar -c` and `bsdtar -c` with the same compressor, with and without its files in memory.

use super::{Measured, choice, report, run_command};
use crate::figures::Figures;
use crate::ground::{Fresh, Scratch, shell};
use graphdriver::cancel::Cancel;
use graphdriver::driver::{Compression, Form};
use graphdriver::export::{self, How, Source, Tree};
use std::io::Write;
use std::path::Path;

/// The first argument that makes this program export one tree to its standard output: `ONE DIRECTORY FORMAT plain|digests`.
pub(crate) const ONE: &str = "export-one";

/// Standard output without the line buffer that Rust puts before it.
struct Stdout(std::fs::File);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn export_one(tree: &str, format: &str, how: &str) {
    let new = Tree::of(std::fs::File::open(tree).unwrap().into()).unwrap();
    let compression = match format {
        "tar.gz" => Compression::Gzip(6),
        "tar.zst" => Compression::Zstd(3),
        _ => Compression::None,
    };
    let mut out = Stdout(std::fs::OpenOptions::new().write(true).open("/dev/stdout").unwrap());
    let form = Form { compression, digests: how == "digests" };
    let source = Source { new, old: None, how: How::Marks, cancel: Cancel::default() };
    export::archive(&source, None, form, &mut out).unwrap();
}

/// All go through a pipe: GNU tar reads no file that it would write to /dev/null.
fn contestants(tree: &Path, format: &str) -> [(&'static str, Vec<String>); 4] {
    let (tree, me) = (tree.display(), std::env::current_exe().unwrap());
    let pack = match format {
        "tar.gz" => "| gzip -6n",
        "tar.zst" => "| zstd -q3",
        _ => "",
    };
    let line = |name, command: String| (name, vec!["sh".into(), "-c".into(), format!("{command} | cat >/dev/null")]);
    [
        line("libgraphdriver", format!("{} {ONE} {tree} {format} plain", me.display())),
        line("same, with digests", format!("{} {ONE} {tree} {format} digests", me.display())),
        line("GNU tar", format!("tar --format=pax --sort=name --numeric-owner --xattrs --acls -c -C {tree} . {pack}")),
        line("bsdtar", format!("bsdtar --format=pax --numeric-owner --xattrs --acls -c -f - -C {tree} . {pack}")),
    ]
}

/// One table: the tree of `archive` on a filesystem, exported in a format.
pub(crate) fn table(
    figures: &mut Figures,
    [kind, format, filesystem]: [&str; 3],
    archive: &Path,
    scratch: &Scratch,
    rounds: usize,
) {
    let fresh = Fresh::new(filesystem, scratch);
    let target = &fresh.0;
    shell(&format!("tar --numeric-owner -xpf {} -C {} && sync -f {1}", archive.display(), target.display()));
    let states: &[&str] = if filesystem == "tmpfs" { &["warm"] } else { &["warm", "cold"] };
    for state in choice("UNPACK_STATES", states) {
        let all = contestants(target, format);
        let mut measured: Vec<Measured> = all.iter().map(|_| Measured::default()).collect();
        for round in 0..=rounds {
            for ((_, command), measured) in all.iter().zip(&mut measured) {
                if state == "cold" {
                    shell("echo 3 > /proc/sys/vm/drop_caches");
                }
                let found = run_command(command);
                if round > 0 {
                    measured.add(found); // the first one only warms up
                }
            }
        }
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        let on = format!("{filesystem} {state}");
        report(figures, "Exporting", [kind, &format!("to {format}"), &on], &names, &measured);
    }
}
