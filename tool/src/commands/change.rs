//! `mount`, `umount` and `rm`: commands that change something and say little.

use super::show::{children, find};
use super::{mount_text, user_text};
use crate::Verdict;
use crate::mounts::{Mounts, bytes};
use crate::output::{Output, shown_bytes};
use crate::store::Store;
use graphdriver::driver::MountOptions;
use graphdriver::error::{Error, Kind, Result};
use graphdriver::id::LayerId;
use serde_json::json;
use std::ffi::OsString;

pub fn mount(
    store: &mut Store,
    output: &Output,
    id: &LayerId,
    options: &[OsString],
    label: Option<&OsString>,
) -> Result<Verdict> {
    let options = MountOptions { mount_label: label.cloned(), options: options.to_vec() };
    let path = store.work(|driver| driver.mount(id, &options))?;
    let path = shown_bytes(bytes(&path));
    output.tell(&json!({"id": id.as_str(), "path": path}), &format!("{path}\n"))?;
    Ok(Verdict::Sound)
}

pub fn umount(store: &mut Store, output: &Output, id: &LayerId) -> Result<Verdict> {
    store.drive()?;
    find(&store.layers()?, id)?;
    store.work(|driver| driver.umount(id))?;
    output.tell(&json!({"id": id.as_str()}), "")?;
    Ok(Verdict::Sound)
}

pub fn remove(store: &mut Store, output: &Output, id: &LayerId, force: bool) -> Result<Verdict> {
    store.drive()?;
    let layers = store.layers()?;
    find(&layers, id)?;
    if !force {
        let above = children(&layers, id);
        refuse_parent(id, &above)?;
        refuse_mounted(store, id)?;
    }
    store.work(|driver| driver.remove(id))?;
    output.tell(&json!({"id": id.as_str()}), "")?;
    Ok(Verdict::Sound)
}

/// Drivers leave it to their daemon to know what is still needed.
fn refuse_parent(id: &LayerId, above: &[&LayerId]) -> Result<()> {
    if above.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = above.iter().map(|id| format!("'{id}'")).collect();
    let what = format!("remove layer '{id}': stacked upon it are {}", names.join(", "));
    Err(Error::new(Kind::Busy, what)
        .hint("remove these first; --force removes the layer nevertheless, and they cannot be used then"))
}

fn refuse_mounted(store: &Store, id: &LayerId) -> Result<()> {
    let mounts = Mounts::around(&store.home());
    let parts = store.parts(id);
    let mounted: Vec<String> = mounts.of(&parts).into_iter().map(mount_text).collect();
    if mounted.is_empty() {
        return Ok(());
    }
    let users: Vec<String> = mounts.users(&parts).iter().map(user_text).collect();
    let used = if users.is_empty() { "nobody".to_owned() } else { users.join("; ") };
    let what = format!("remove layer '{id}': it is mounted on {}, and used by {used}", mounted.join("; "));
    Err(Error::new(Kind::Busy, what).hint("unmount it first, or use --force"))
}
