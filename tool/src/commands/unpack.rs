//! `unpack`: a layer archive becomes a layer's content.

use crate::Verdict;
use crate::output::{Output, Progress, complain, failed, size};
use crate::store::Store;
use graphdriver::archive::{Digests, Outcome};
use graphdriver::digest::Digest;
use graphdriver::driver::{Access, CreateOptions, Driver, Unpack};
use graphdriver::error::Result;
use graphdriver::id::LayerId;
use serde_json::json;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What is asked for beside the content.
pub struct Wanted {
    pub new: bool,
    pub parent: Option<LayerId>,
    pub digests: Digests,
}

/// The digests that an archive has to have.
pub fn expected(read: Option<&str>, archive: Option<&str>) -> Result<Digests> {
    let parsed = |text: Option<&str>| text.map(|text| Digest::parse(text.as_bytes())).transpose();
    Ok(Digests { wanted: true, read: parsed(read)?, archive: parsed(archive)? })
}

pub fn run(store: &mut Store, output: &Output, id: &LayerId, file: &Path, wanted: &Wanted) -> Result<Verdict> {
    let mut content: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(file).map_err(|e| failed(&format!("open '{}'", file.display()), &e))?),
    };
    let (bytes, outcome) = store.work(|driver| {
        if wanted.new {
            driver.create(id, wanted.parent.as_ref(), Access::ReadOnly, &mut CreateOptions::default())?;
        }
        let unpacked = fill(driver, id, &mut *content, &wanted.digests);
        if unpacked.is_err() && wanted.new {
            driver.remove(id).unwrap_or_else(|e| complain(&e.message()));
        }
        unpacked
    })?;
    let digests = outcome.digests.map(|(read, archive)| (read.to_string(), archive.to_string()));
    let (digest, diff_id) = digests.unzip();
    let document = json!({
        "id": id.as_str(), "bytes": bytes, "entries": outcome.entries, "read": outcome.bytes, "digest": digest, "diff_id": diff_id,
    });
    let shown = |digest: Option<String>| digest.unwrap_or_else(|| "not taken".to_owned());
    let text = format!(
        "layer    {id}\nsize     {} in {} entries\ndigest   {}\ndiff id  {}\n",
        size(bytes),
        outcome.entries,
        shown(digest),
        shown(diff_id)
    );
    output.tell(&document, &text)?;
    Ok(Verdict::Sound)
}

/// Unpacks, and returns the size of the layer beside what the library tells.
fn fill(driver: &dyn Driver, id: &LayerId, content: &mut dyn Read, digests: &Digests) -> Result<(u64, Outcome)> {
    let (mut bytes, mut outcome) = (0, Outcome::default());
    let mut progress = Progress::new();
    let mut tell = |read: u64, entries: u64| progress.tell(|| format!("{} read, {entries} entries", size(read)));
    let request = Unpack {
        size: Some(&mut bytes),
        digests: digests.clone(),
        progress: Some(&mut tell),
        outcome: Some(&mut outcome),
        ..Unpack::of(content)
    };
    driver.unpack(id, request)?;
    Ok((bytes, outcome))
}
