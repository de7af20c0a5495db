//! What was measured: rows of labels and numbers, printed as they come and written as JSON at the end.

use serde_json::{Map, Value, json};
use std::path::Path;

/// One line of a table: what it is about, and what was measured.
pub(crate) struct Row {
    section: &'static str,
    pub(crate) table: &'static str,
    labels: Vec<(&'static str, String)>,
    numbers: Vec<(&'static str, f64)>,
}

impl Row {
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.numbers.iter().find(|(number, _)| *number == name).map(|(_, value)| *value)
    }
}

#[derive(Default)]
pub(crate) struct Figures {
    /// Which section measures now.
    pub(crate) section: &'static str,
    pub(crate) rows: Vec<Row>,
}

impl Figures {
    /// Takes a row, and prints it as one of a Markdown table, whose head is printed where a table begins.
    pub(crate) fn add<const L: usize, const N: usize>(
        &mut self,
        table: &'static str,
        labels: [(&'static str, String); L],
        numbers: [(&'static str, f64); N],
    ) {
        if self.rows.last().is_none_or(|row| row.table != table) {
            let names: Vec<&str> = labels.iter().map(|(n, _)| *n).chain(numbers.iter().map(|(n, _)| *n)).collect();
            println!("\n### {table}\n\n| {} |", names.join(" | "));
            println!("|{}{}", "---|".repeat(L), "---:|".repeat(N));
        }
        let cells: Vec<String> =
            labels.iter().map(|(_, text)| text.clone()).chain(numbers.iter().map(|(_, n)| shown(*n))).collect();
        println!("| {} |", cells.join(" | "));
        self.rows.push(Row { section: self.section, table, labels: labels.into(), numbers: numbers.into() });
    }

    /// Writes all that a section has measured, with what it was measured on, into the place that the section has in the file.
    pub(crate) fn write(&self, path: &Path, section: &str, machine: &[(&str, String)]) {
        let rows = self.rows.iter().filter(|row| row.section == section).map(row_as_json).collect();
        let machine: Map<String, Value> = machine.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let known = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let mut sections: Map<String, Value> = known.unwrap_or_default();
        sections.insert(section.to_owned(), json!({ "machine": machine, "rows": Value::Array(rows) }));
        // A line for each row.
        let text = serde_json::to_string(&sections)
            .unwrap()
            .replace("},{", "},\n{")
            .replace(":[{", ":[\n{")
            .replace("]},", "]},\n");
        std::fs::write(path, text + "\n").unwrap();
    }
}

fn row_as_json(row: &Row) -> Value {
    let mut members = Map::new();
    members.insert("table".into(), json!(row.table));
    members.extend(row.labels.iter().map(|(name, text)| ((*name).to_owned(), json!(text))));
    members.extend(row.numbers.iter().map(|(name, n)| ((*name).to_owned(), json!(n))));
    Value::Object(members)
}

/// Three digits that count.
fn shown(n: f64) -> String {
    match n {
        n if n.is_nan() => "-".to_owned(),
        n if n == 0.0 || n.abs() >= 100.0 => format!("{n:.0}"),
        n if n.abs() >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

/// The middle one of several times.
pub(crate) fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
