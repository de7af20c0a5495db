//! What a home of overlay2 holds, as text that does not depend on random names. No driver is asked. Of devicemapper nothing is told:
//! on the disk there are numbers of devices, which differ with the order of what was done.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // getxattr, setxattr

use super::ground::Ground;
use super::operations::tree;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;

/// What each layer is, by id; and names in `l/` that lead nowhere.
pub type Disk = BTreeMap<String, String>;

const MARKS: &[&str] = &["trusted.graphdriver.access", "trusted.graphdriver.unfinished"];

pub fn disk(ground: &Ground) -> Disk {
    let home = &ground.home();
    if ground.driver == "devicemapper" || !home.exists() {
        return Disk::new(); // an operation made nothing
    }
    let mounted = &ground.mounted();
    let entries = |dir: &Path| super::common::names(dir).into_iter().filter(|name| !name.starts_with('.'));
    let target = |link: &String| std::fs::read_link(home.join("l").join(link)).unwrap_or_default().display().to_string();
    let links: Vec<(String, String)> = match home.join("l").is_dir() {
        true => entries(&home.join("l")).map(|link| (link.clone(), target(&link))).collect(),
        false => Vec::new(),
    };
    let layers = || entries(home).filter(|name| !["l", "backingFsBlockDev"].contains(&name.as_str()));
    let own = |id: &String| Some((std::fs::read_to_string(home.join(id).join("link")).ok()?, format!("its own, {id}")));
    // Names that are in `l/` first; a layer may lack its own there.
    let known: Vec<(String, String)> = links.iter().cloned().chain(layers().filter_map(|id| own(&id))).collect();
    let mut disk: Disk = layers().map(|id| (id.clone(), layer(home, &id, &known, mounted))).collect();
    for (_, target) in links {
        if !home.join("l").join(&target).exists() {
            disk.insert(format!("a link to {target}"), "leads nowhere".to_owned());
        }
    }
    disk
}

fn layer(home: &Path, id: &str, links: &[(String, String)], mounted: &[String]) -> String {
    let dir = home.join(id);
    let below = |entry: &str| tree(&dir.join(entry));
    let mut parts: Vec<String> = Vec::new();
    for name in super::common::names(&dir) {
        let part = match name.as_str() {
            "merged" => "merged".to_owned(), // what is mounted there is in the others
            "work" => "work".to_owned(),     // the kernel's
            _ if dir.join(&name).is_dir() => format!("{name}({})", below(&name)),
            _ => format!("{name}={}", super::common::text(&dir.join(&name))),
        };
        parts.push(part);
    }
    let marks = MARKS.iter().filter_map(|mark| Some(format!("{mark}={}", attribute(&dir, mark)?)));
    parts.extend(marks);
    parts.extend(attribute(&dir.join("diff"), "trusted.overlay.opaque").map(|_| "opaque".to_owned()));
    parts.extend(mounted.iter().find(|name| *name == id).map(|_| "mounted".to_owned()));
    let text = parts.join(" ");
    without_lost_names(&links.iter().fold(text, |text, (link, target)| text.replace(link.as_str(), target)))
}

/// Names of layers that are no more differ from run to run.
fn without_lost_names(text: &str) -> String {
    let is_name = |word: &str| word.len() == 26 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let known = |part: &str| part.split(':').next().is_some_and(|word| is_name(word.split(' ').next().unwrap()));
    let mut parts = text.split("l/");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push_str("l/");
        shown.push_str(if known(part) { &part[26..] } else { part });
    }
    shown
}

pub fn attribute(path: &Path, name: &str) -> Option<String> {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let name = CString::new(name).unwrap();
    let mut value = [0_u8; 64];
    let n = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(n).ok().map(|n| String::from_utf8_lossy(&value[..n]).into_owned())
}

pub fn set_attribute(path: &Path, name: &str, value: &str) {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let name = CString::new(name).unwrap();
    let rc = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}
