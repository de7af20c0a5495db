//! `diff`: what a layer changes, as a list or as an archive.

use crate::Verdict;
use crate::arguments::Compress;
use crate::output::{Output, Progress, failed, shown_bytes, size};
use crate::store::Store;
use graphdriver::driver::{Against, Change, Compression, Exported, Form};
use graphdriver::error::{Error, Kind, Result};
use graphdriver::id::LayerId;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::Path;

pub fn changes(store: &mut Store, output: &Output, id: &LayerId, base: Option<LayerId>) -> Result<Verdict> {
    let (mut text, mut documents) = (String::new(), Vec::<Value>::new());
    let against = Against::from(base);
    store.work(|driver| {
        driver.changes(id, &against, &mut |path, change| {
            let (letter, word) = match change {
                Change::Added => ('A', "added"),
                Change::Modified => ('M', "modified"),
                Change::Deleted => ('D', "deleted"),
            };
            let path = format!("/{}", shown_bytes(path));
            let _ = writeln!(text, "{letter} {path}");
            documents.push(json!({"change": word, "path": path}));
            Ok(())
        })
    })?;
    output.tell(&json!({"id": id.as_str(), "changes": documents}), &text)?;
    Ok(Verdict::Sound)
}

pub fn archive(
    store: &mut Store,
    output: &Output,
    id: &LayerId,
    base: Option<LayerId>,
    file: &Path,
    compress: Compress,
) -> Result<Verdict> {
    let compression = match compress {
        Compress::None => Compression::None,
        Compress::Gzip => Compression::Gzip(0),
        Compress::Zstd => Compression::Zstd(0),
    };
    let form = Form { compression, digests: true };
    let export = |store: &mut Store, to: &mut dyn Write| {
        let mut to = Counted { to, bytes: 0, progress: Progress::new() };
        store.work(|driver| driver.diff(id, &Against::from(base), form, &mut to))
    };
    if file.as_os_str() == "-" {
        if io::stdout().is_terminal() {
            return Err(
                Error::new(Kind::Invalid, "an archive is not written to a terminal").hint("name a file with --output")
            );
        }
        export(store, &mut io::stdout().lock())?;
        return Ok(Verdict::Sound);
    }
    store.drive()?;
    let what = || format!("'{}'", file.display());
    let mut made = File::create_new(file).map_err(|e| failed(&format!("make {}", what()), &e))?;
    let exported = export(store, &mut made).and_then(|exported| {
        made.sync_all().map_err(|e| failed(&format!("write {}", what()), &e))?;
        Ok(exported)
    });
    if exported.is_err() {
        // What there is of it is of no use.
        let _ = fs::remove_file(file);
    }
    tell(output, id, &exported?)
}

fn tell(output: &Output, id: &LayerId, exported: &Exported) -> Result<Verdict> {
    let (digest, diff_id) = exported.digests.map(|(written, archive)| (written.to_string(), archive.to_string())).unzip();
    let document = json!({
        "id": id.as_str(), "bytes": exported.bytes, "entries": exported.entries, "digest": digest, "diff_id": diff_id,
    });
    let shown = |digest: Option<String>| digest.unwrap_or_else(|| "not taken".to_owned());
    let (bytes, entries) = (size(exported.bytes), exported.entries);
    let text = format!(
        "layer    {id}\nwritten  {bytes} in {entries} entries\ndigest   {}\ndiff id  {}\n",
        shown(digest),
        shown(diff_id)
    );
    output.tell(&document, &text)?;
    Ok(Verdict::Sound)
}

/// Shows how much went through.
struct Counted<'a> {
    to: &'a mut dyn Write,
    bytes: u64,
    progress: Progress,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.bytes += written as u64;
        self.progress.tell(|| format!("{} written", size(self.bytes)));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
