//! The commands, each a function that is given the store.

mod change;
mod check;
mod diff;
mod list;
mod show;
mod status;
mod unpack;
mod usage;

use crate::Verdict;
use crate::arguments::Command;
use crate::mounts::{Mounted, Process, User, bytes};
use crate::output::{Output, Tone, shown, shown_bytes};
use crate::store::Store;
use graphdriver::driver::{Access, Condition, Finding, Listed, Severity};
use graphdriver::error::Result;
use graphdriver::id::LayerId;
use serde_json::{Value, json};

/// Does what the command line asks for.
pub fn run(command: &Command, store: &mut Store, output: &Output) -> Result<Verdict> {
    match command {
        Command::List { size, by_size } => list::run(store, output, *size, *by_size),
        Command::Show { id, size } => show::run(store, output, &parsed(id)?, *size),
        Command::Check { repair } => check::run(store, output, *repair),
        Command::Usage { id: None } => usage::of_all(store, output),
        Command::Usage { id: Some(id) } => usage::of_one(store, output, &parsed(id)?),
        Command::Status => status::run(store, output),
        Command::Mount { id, mount_options, label } => {
            change::mount(store, output, &parsed(id)?, mount_options, label.as_ref())
        }
        Command::Umount { id } => change::umount(store, output, &parsed(id)?),
        Command::Rm { id, force } => change::remove(store, output, &parsed(id)?, *force),
        Command::Unpack { id, file, new, parent, digest, diff_id } => {
            let digests = unpack::expected(digest.as_deref(), diff_id.as_deref())?;
            let parent = parent.as_deref().map(parsed).transpose()?;
            unpack::run(store, output, &parsed(id)?, file, &unpack::Wanted { new: *new, parent, digests })
        }
        Command::Diff { id, base, output: None, .. } => {
            let base = base.as_deref().map(parsed).transpose()?;
            diff::changes(store, output, &parsed(id)?, base)
        }
        Command::Diff { id, base, output: Some(file), compress } => {
            let base = base.as_deref().map(parsed).transpose()?;
            diff::archive(store, output, &parsed(id)?, base, file, *compress)
        }
    }
}

fn parsed(id: &str) -> Result<LayerId> {
    LayerId::parse(id.as_bytes())
}

/// Whether somebody has to see to the layer.
fn is_unusable(layer: &Listed) -> bool {
    matches!(layer.condition, Condition::Unusable(_))
}

fn access(layer: &Listed) -> Option<&'static str> {
    layer.access.map(|access| match access {
        Access::ReadOnly => "read-only",
        Access::ReadWrite => "read-write",
    })
}

/// Whether a layer can be used, in a word, and why not.
fn condition(layer: &Listed) -> (&'static str, Option<&str>) {
    match &layer.condition {
        Condition::Whole => ("whole", None),
        Condition::Busy => ("busy", None),
        Condition::Unusable(why) => ("unusable", Some(why)),
    }
}

/// The same for people.
fn state(layer: &Listed, output: &Output) -> String {
    match condition(layer) {
        (word @ "whole", _) => output.paint(Tone::Good, word),
        (word, None) => output.paint(Tone::Warning, word),
        (word, Some(why)) => output.paint(Tone::Bad, &format!("{word}: {}", shown(why))),
    }
}

/// What every listing tells of a layer.
fn layer_document(layer: &Listed) -> Value {
    let (state, why) = condition(layer);
    let parent = layer.parent.as_ref().map(LayerId::as_str);
    json!({"id": layer.id.as_str(), "parent": parent, "access": access(layer), "state": state, "why": why})
}

/// Whether somebody has to see to a finding.
fn is_open(finding: &Finding) -> bool {
    finding.severity >= Severity::Hand && !finding.mended
}

fn finding_document(finding: &Finding) -> Value {
    let severity = match finding.severity {
        Severity::Busy => "busy",
        Severity::Note => "note",
        Severity::Hand => "needs_hand",
        Severity::Loss => "loss",
    };
    let layer = finding.layer.as_ref().map(LayerId::as_str);
    json!({"layer": layer, "severity": severity, "what": finding.what, "remedy": finding.remedy, "mended": finding.mended})
}

/// A finding and its remedy, in two lines.
fn finding_text(finding: &Finding, output: &Output) -> String {
    let (tone, word) = match finding.severity {
        _ if finding.mended => (Tone::Good, "mended"),
        Severity::Busy => (Tone::Quiet, "busy"),
        Severity::Note => (Tone::Quiet, "note"),
        Severity::Hand => (Tone::Warning, "to do"),
        Severity::Loss => (Tone::Bad, "LOSS"),
    };
    let about = finding.layer.as_ref().map_or_else(|| "the store".to_owned(), |id| format!("layer '{id}'"));
    let word = output.paint(tone, &format!("{word:<6}"));
    let first = format!("{word}  {about}: {}\n", shown(&finding.what));
    if finding.mended { first } else { format!("{first}        {}\n", shown(&finding.remedy)) }
}

fn mounts_document(mounts: &[&Mounted], users: &[User]) -> (Value, Value) {
    let process = |process: &Process| json!({"pid": process.pid, "name": process.name});
    let mounts = mounts.iter().map(|mounted| {
        json!({"path": shown_bytes(bytes(&mounted.point)), "namespace_of": mounted.elsewhere.as_ref().map(process)})
    });
    let users = users.iter().map(|user| json!({"pid": user.process.pid, "name": user.process.name, "by": user.by}));
    (mounts.collect(), users.collect())
}

fn mount_text(mounted: &Mounted) -> String {
    let point = shown_bytes(bytes(&mounted.point));
    match &mounted.elsewhere {
        None => point,
        Some(process) => format!("{point} in the mount namespace of {}", process_text(process)),
    }
}

fn user_text(user: &User) -> String {
    format!("{} by its {}", process_text(&user.process), user.by.join(", "))
}

fn process_text(process: &Process) -> String {
    format!("process {} ({})", process.pid, shown(&process.name))
}
