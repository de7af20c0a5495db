//! `status`: what the driver says of itself.

use crate::Verdict;
use crate::output::{Output, shown};
use crate::store::Store;
use graphdriver::error::Result;
use serde_json::{Map, Value, json};
use std::fmt::Write;

pub fn run(store: &mut Store, output: &Output) -> Result<Verdict> {
    let status = store.work(|driver| driver.status())?;
    let mut text = format!("Driver: {}\nHome: {}\n", status.driver_name, store.shown_home());
    let mut items = Map::new();
    for (name, value) in status.text.lines().filter_map(|line| line.split_once(": ")) {
        let _ = writeln!(text, "{name}: {}", shown(value));
        items.insert(name.to_owned(), json!(value));
    }
    let document = json!({
        "driver": status.driver_name, "home": store.shown_home(), "backing_filesystem": status.backing_fs, "status": Value::Object(items),
    });
    output.tell(&document, &text)?;
    Ok(Verdict::Sound)
}
