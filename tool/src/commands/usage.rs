//! `usage`: what takes the space.

use crate::Verdict;
use crate::output::{Output, failed, shown, size};
use crate::store::Store;
use graphdriver::driver::Usage;
use graphdriver::error::{Kind, Result};
use graphdriver::id::LayerId;
use graphdriver::tree;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::fs::{self, DirEntry, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A layer, and what it occupies if that can be told.
type Row = (LayerId, Result<Usage>);

pub fn of_one(store: &mut Store, output: &Output, id: &LayerId) -> Result<Verdict> {
    let usage = store.usage(id)?;
    output.tell(&document(Some(id), Some(usage)), &line(Some(usage), id.as_str()))?;
    Ok(Verdict::Sound)
}

pub fn of_all(store: &mut Store, output: &Output) -> Result<Verdict> {
    let mut rows = measured(store)?;
    rows.sort_by_key(|(_, usage)| Reverse(usage.as_ref().map_or(0, |usage| usage.bytes)));
    let total = rows.iter().filter_map(|(_, usage)| usage.as_ref().ok()).fold(Usage::default(), sum);
    let beside = beside(&store.home(), &rows)?;

    let mut text = format!("{:>10}  {:>10}  LAYER\n", "SIZE", "INODES");
    for (id, usage) in &rows {
        let name = usage.as_ref().map_or_else(|e| format!("{id}: {}", shown(&e.message())), |_| id.to_string());
        text.push_str(&line(usage.as_ref().ok().copied(), &name));
    }
    text.push_str(&line(Some(total), &format!("all {} layers", rows.len())));
    text.push_str(&line(Some(beside), "beside the layers"));
    let layers: Vec<Value> = rows.iter().map(|(id, usage)| document(Some(id), usage.as_ref().ok().copied())).collect();
    let total = document(None, Some(total));
    let beside = document(None, Some(beside));
    let whole =
        json!({"driver": store.driver, "home": store.shown_home(), "layers": layers, "total": total, "beside": beside});
    output.tell(&whole, &text)?;
    Ok(Verdict::damaged_if(rows.iter().any(|(_, usage)| usage.is_err())))
}

/// All layers but those that went meanwhile.
fn measured(store: &mut Store) -> Result<Vec<Row>> {
    let layers = store.layers()?;
    let ids: Vec<&LayerId> = layers.iter().map(|layer| &layer.id).collect();
    let rows = ids.iter().map(|id| (*id).clone()).zip(store.usages(&ids)?);
    let has_gone = |usage: &Result<Usage>| usage.as_ref().is_err_and(|e| e.kind() == Kind::NotFound);
    Ok(rows.filter(|(_, usage)| !has_gone(usage)).collect())
}

/// What is in home and of no layer: what waits for its deletion, the files that tell about layers, the pool's if it is in files here.
fn beside(home: &Path, rows: &[Row]) -> Result<Usage> {
    let mut usage = Usage::default();
    for entry in fs::read_dir(home).map_err(|e| failed("read home", &e))?.flatten() {
        let name = entry.file_name();
        if !rows.iter().any(|(id, _)| name == id.as_str()) {
            usage = sum(usage, &occupied(&entry).unwrap_or_default());
        }
    }
    Ok(usage)
}

fn occupied(entry: &DirEntry) -> Option<Usage> {
    let found = entry.metadata().ok()?;
    if found.is_dir() {
        return tree::usage(File::open(entry.path()).ok()?.as_fd()).ok();
    }
    Some(Usage { bytes: found.blocks() * 512, inodes: 1 })
}

fn sum(a: Usage, b: &Usage) -> Usage {
    Usage { bytes: a.bytes.saturating_add(b.bytes), inodes: a.inodes.saturating_add(b.inodes) }
}

fn line(usage: Option<Usage>, name: &str) -> String {
    let (bytes, inodes) =
        usage.map_or_else(|| ("?".to_owned(), "?".to_owned()), |usage| (size(usage.bytes), usage.inodes.to_string()));
    format!("{bytes:>10}  {inodes:>10}  {name}\n")
}

fn document(id: Option<&LayerId>, usage: Option<Usage>) -> Value {
    let mut document = json!({"bytes": usage.map(|usage| usage.bytes), "inodes": usage.map(|usage| usage.inodes)});
    if let Some(id) = id {
        document["id"] = json!(id.as_str());
    }
    document
}
