//! `show`: everything about one layer.

use super::{
    access, finding_document, finding_text, is_open, is_unusable, layer_document, mount_text, mounts_document, state,
    user_text,
};
use crate::Verdict;
use crate::mounts::{Mounts, bytes};
use crate::output::{Output, shown_bytes, size};
use crate::store::Store;
use graphdriver::driver::{Finding, Listed};
use graphdriver::error::{Error, Kind, Result};
use graphdriver::id::LayerId;
use serde_json::{Map, Value, json};
use std::fmt::Write;

pub fn run(store: &mut Store, output: &Output, id: &LayerId, sizes: bool) -> Result<Verdict> {
    let layers = store.layers()?;
    let layer = find(&layers, id)?;
    let parts = store.parts(id);
    let mounts = Mounts::around(&store.home());
    let (mounted, users) = (mounts.of(&parts), mounts.users(&parts));
    let (_, mut findings) = store.findings(false)?;
    findings.retain(|finding| finding.layer.as_ref() == Some(id));
    let usage = if sizes { Some(store.usage(id)?) } else { None };
    let (below, above) = (ancestors(&layers, layer), children(&layers, id));

    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<11} {value}");
    };
    line("layer", id.as_str());
    line("parents", &names(&below, "none"));
    line("children", &names(&above, "none"));
    line("access", access(layer).unwrap_or("not known"));
    line("state", &state(layer, output));
    if let Some(usage) = usage {
        line("size", &format!("{} in {} inodes", size(usage.bytes), usage.inodes));
    }
    for (name, value) in &parts {
        line(name, &shown_bytes(bytes(value)));
    }
    mounted.iter().for_each(|mounted| line("mounted", &mount_text(mounted)));
    users.iter().for_each(|user| line("used", &user_text(user)));
    findings.iter().for_each(|finding| text.push_str(&finding_text(finding, output)));

    let mut document = layer_document(layer);
    let parts: Map<String, Value> =
        parts.iter().map(|(name, value)| ((*name).to_owned(), json!(shown_bytes(bytes(value))))).collect();
    document["ancestors"] = below.iter().map(|id| id.as_str()).collect();
    document["children"] = above.iter().map(|id| id.as_str()).collect();
    document["bytes"] = json!(usage.map(|usage| usage.bytes));
    document["inodes"] = json!(usage.map(|usage| usage.inodes));
    document["parts"] = Value::Object(parts);
    (document["mounts"], document["users"]) = mounts_document(&mounted, &users);
    document["findings"] = findings.iter().map(finding_document).collect();
    output.tell(&document, &text)?;
    Ok(verdict(layer, &findings))
}

fn verdict(layer: &Listed, findings: &[Finding]) -> Verdict {
    Verdict::damaged_if(is_unusable(layer) || findings.iter().any(is_open))
}

/// The layer of this id.
pub fn find<'a>(layers: &'a [Listed], id: &LayerId) -> Result<&'a Listed> {
    let found = layers.iter().find(|layer| layer.id == *id);
    found.ok_or_else(|| Error::new(Kind::NotFound, format!("layer '{id}' does not exist")))
}

/// The layers that are stacked immediately upon this one.
pub fn children<'a>(layers: &'a [Listed], id: &LayerId) -> Vec<&'a LayerId> {
    layers.iter().filter(|layer| layer.parent.as_ref() == Some(id)).map(|layer| &layer.id).collect()
}

/// The layers below, nearest first; of a ring, each once.
fn ancestors<'a>(layers: &'a [Listed], layer: &'a Listed) -> Vec<&'a LayerId> {
    let mut chain = Vec::new();
    let mut next = layer.parent.as_ref();
    while let Some(id) = next.filter(|id| !chain.contains(id)) {
        chain.push(id);
        next = layers.iter().find(|layer| layer.id == *id).and_then(|layer| layer.parent.as_ref());
    }
    chain
}

fn names(ids: &[&LayerId], none: &str) -> String {
    let names: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}
