//! `list`: the layers as a tree.

use super::{access, is_unusable, layer_document, state};
use crate::Verdict;
use crate::mounts::{Mounted, Mounts};
use crate::output::{Output, Tone, size};
use crate::store::Store;
use graphdriver::driver::{Listed, Usage};
use graphdriver::error::Result;
use graphdriver::id::LayerId;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A layer, and what the listing adds.
struct Row {
    layer: Listed,
    mounted: Option<&'static str>,
    /// Where it was asked for, and could be told.
    usage: Option<Usage>,
}

pub fn run(store: &mut Store, output: &Output, sizes: bool, by_size: bool) -> Result<Verdict> {
    let mut rows = rows(store, sizes || by_size)?;
    if by_size {
        rows.sort_by_key(|row| Reverse(row.usage.map(|usage| usage.bytes)));
    }
    let names =
        if by_size { rows.iter().map(|row| row.layer.id.to_string()).zip(&rows).collect() } else { tree(&rows, output) };
    let holder = store.holder();
    let mut text = table(&names, sizes || by_size, output);
    if let Some(pid) = holder {
        text.push_str(&format!("\nprocess {pid} has the store\n"));
    }
    let layers: Vec<Value> = rows.iter().map(document).collect();
    let document = json!({"driver": store.driver, "home": store.shown_home(), "held_by": holder, "layers": layers});
    output.tell(&document, &text)?;
    Ok(Verdict::damaged_if(rows.iter().any(|row| is_unusable(&row.layer))))
}

fn rows(store: &mut Store, sizes: bool) -> Result<Vec<Row>> {
    let layers = store.layers()?;
    let mounts = Mounts::around(&store.home());
    let ids: Vec<&LayerId> = if sizes { layers.iter().map(|layer| &layer.id).collect() } else { Vec::new() };
    let usages = store.usages(&ids)?;
    let usages = usages.into_iter().map(|usage| usage.ok()).chain(std::iter::repeat(None));
    let rows = layers.into_iter().zip(usages).map(|(layer, usage)| {
        let mounted = mounted(&mounts.of(&store.parts(&layer.id)));
        Row { layer, mounted, usage }
    });
    Ok(rows.collect())
}

fn mounted(mounts: &[&Mounted]) -> Option<&'static str> {
    match mounts {
        [] => None,
        mounts if mounts.iter().any(|mounted| mounted.elsewhere.is_none()) => Some("mounted"),
        _ => Some("mounted elsewhere"),
    }
}

fn document(row: &Row) -> Value {
    let mut document = layer_document(&row.layer);
    document["mounted"] = json!(row.mounted.is_some());
    document["bytes"] = json!(row.usage.map(|usage| usage.bytes));
    document["inodes"] = json!(row.usage.map(|usage| usage.inodes));
    document
}

/// The rows in the order of the tree, each with its id behind its branches.
fn tree<'a>(rows: &'a [Row], output: &Output) -> Vec<(String, &'a Row)> {
    let by_id: BTreeMap<&LayerId, &Row> = rows.iter().map(|row| (&row.layer.id, row)).collect();
    let mut children: BTreeMap<&LayerId, Vec<&LayerId>> = BTreeMap::new();
    let mut roots = Vec::new();
    for row in rows {
        match row.layer.parent.as_ref().filter(|parent| by_id.contains_key(parent)) {
            Some(parent) => children.entry(parent).or_default().push(&row.layer.id),
            None => roots.push(&row.layer.id),
        }
    }
    // Damage may have made a ring, which no root leads to.
    let (mut seen, mut ordered) = (BTreeSet::new(), Vec::new());
    for root in roots.into_iter().chain(by_id.keys().copied()) {
        let mut todo = vec![(root, String::new(), String::new())];
        while let Some((id, branch, below)) = todo.pop() {
            if !seen.insert(id) {
                continue;
            }
            ordered.push((format!("{branch}{id}"), by_id[id]));
            let [child, last, on, off] = output.branches();
            let of = children.get(id).map_or(&[][..], Vec::as_slice);
            for (rest, id) in of.iter().rev().enumerate() {
                let (own, next) = if rest == 0 { (last, off) } else { (child, on) };
                todo.push((id, format!("{below}{own}"), format!("{below}{next}")));
            }
        }
    }
    ordered
}

fn table(rows: &[(String, &Row)], sizes: bool, output: &Output) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).chain([5]).max().unwrap_or_default();
    let line = |name: &str, bytes: &str, access: &str, state: &str| {
        let bytes = if sizes { format!("  {bytes:>10}") } else { String::new() };
        format!("{name:<width$}{bytes}  {access:<10}  {state}\n")
    };
    let mut text = line("LAYER", "SIZE", "ACCESS", "STATE");
    for (name, row) in rows {
        let bytes = row.usage.map_or_else(|| "?".to_owned(), |usage| size(usage.bytes));
        let mut state = state(&row.layer, output);
        if let Some(mounted) = row.mounted {
            state = format!("{state}, {}", output.paint(Tone::Warning, mounted));
        }
        text.push_str(&line(name, &bytes, access(&row.layer).unwrap_or("?"), &state));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use graphdriver::driver::Condition;

    fn row(id: &str, parent: Option<&str>) -> Row {
        let parsed = |id: &str| LayerId::parse(id.as_bytes()).unwrap();
        let layer = Listed { id: parsed(id), parent: parent.map(parsed), access: None, condition: Condition::Whole };
        Row { layer, mounted: None, usage: None }
    }

    fn drawn(rows: &[Row]) -> Vec<String> {
        tree(rows, &Output::new(false))
            .into_iter()
            .map(|(name, _)| name.replace("├─", "|-").replace("└─", "`-").replace('│', "|"))
            .collect()
    }

    #[test]
    fn children_stand_below_their_parents() {
        let rows = [row("a", Some("b")), row("b", None), row("c", Some("b")), row("d", Some("a")), row("e", Some("gone"))];
        assert_eq!(drawn(&rows), ["b", "|- a", "|  `- d", "`- c", "e"]);
    }

    #[test]
    fn a_ring_is_shown_once() {
        assert_eq!(drawn(&[row("a", Some("b")), row("b", Some("a"))]), ["a", "`- b"]);
    }
}
