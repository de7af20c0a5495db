//! `check`: what does not fit together, and its repair.

use super::{finding_document, finding_text, is_open};
use crate::Verdict;
use crate::output::{Output, Tone, count};
use crate::store::Store;
use graphdriver::driver::{Finding, Severity};
use graphdriver::error::Result;
use serde_json::{Value, json};

/// Remedies speak of mending, which has another name here.
const MENDING: &str = "check --repair mends what it can without guessing; it needs the store for itself\n";

pub fn run(store: &mut Store, output: &Output, repair: bool) -> Result<Verdict> {
    if repair {
        store.drive()?;
    }
    let (layers, mut findings) = store.findings(repair)?;
    findings.sort_by_key(|finding| (finding.mended, std::cmp::Reverse(finding.severity)));
    let open = findings.iter().filter(|finding| is_open(finding)).count();
    let mended = findings.iter().filter(|finding| finding.mended).count();

    let mut text: String = findings.iter().map(|finding| finding_text(finding, output)).collect();
    text.push_str(&summary(layers, &findings, open, mended, output));
    if !repair && findings.iter().any(|finding| finding.severity > Severity::Busy) {
        text.push_str(MENDING);
    }
    let documents: Vec<Value> = findings.iter().map(finding_document).collect();
    let document = json!({
        "driver": store.driver, "home": store.shown_home(), "layers": layers, "findings": documents, "open": open, "mended": mended,
    });
    output.tell(&document, &text)?;
    Ok(Verdict::damaged_if(open > 0))
}

fn summary(layers: u64, findings: &[Finding], open: usize, mended: usize, output: &Output) -> String {
    let lost = findings.iter().filter(|finding| finding.severity == Severity::Loss && is_open(finding)).count();
    let verdict = match (open, lost) {
        (0, _) => output.paint(Tone::Good, "sound"),
        (open, 0) => output.paint(Tone::Warning, &format!("{open} to be seen to")),
        (open, lost) => output.paint(Tone::Bad, &format!("{open} to be seen to, {lost} of them with content lost")),
    };
    let (layers, found) = (count(layers, "layer"), count(findings.len() as u64, "finding"));
    format!("{layers}, {found}, {mended} mended: {verdict}\n")
}
