//! Where layers are mounted, in this mount namespace and all others, and which processes use these mounts.

use crate::output::count;
use graphdriver::driver::Metadatum;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A filesystem as the kernel numbers it, `major:minor`. All mounts of a layer have the same.
type Device = String;

/// One mount of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where, as the processes of its namespace see it.
    pub point: PathBuf,
    /// A process of its mount namespace; `None` in this program's.
    pub elsewhere: Option<Process>,
    /// As open files name the mount.
    number: String,
}

/// A process that can be seen here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub name: String,
}

/// A process that keeps a mount busy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub process: Process,
    /// Its root or working directory, or the number of open files.
    pub by: Vec<String>,
}

/// What is mounted on this machine.
#[derive(Default)]
pub struct Mounts {
    by_device: BTreeMap<Device, Vec<Mounted>>,
    by_point: BTreeMap<PathBuf, Device>,
    /// What a filesystem is made of: overlayfs's upper directory, or a block device.
    by_part: BTreeMap<OsString, BTreeSet<Device>>,
    home: PathBuf,
    real_home: PathBuf,
}

impl Mounts {
    /// Those of all mount namespaces of processes that can be seen, for layers of this home.
    pub fn around(home: &Path) -> Mounts {
        let real_home = home.canonicalize().unwrap_or_else(|_| home.to_owned());
        let mut mounts = Mounts { home: home.to_owned(), real_home, ..Mounts::default() };
        let own = std::process::id();
        let mut namespaces = BTreeSet::new();
        for pid in std::iter::once(own).chain(pids()) {
            let Ok(namespace) = fs::read_link(in_proc(pid, "ns/mnt")) else { continue };
            if namespaces.insert(namespace) {
                let process = (pid != own).then(|| Process { pid, name: name_of(pid) });
                let table = fs::read(in_proc(pid, "mountinfo")).unwrap_or_default();
                for line in table.split(|byte| *byte == b'\n') {
                    let _ = mounts.take(line, process.as_ref());
                }
            }
        }
        mounts
    }

    /// Takes one line of `mountinfo`, if it is one; see `proc(5)`.
    fn take(&mut self, line: &[u8], elsewhere: Option<&Process>) -> Option<()> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        let (number, device, point) =
            (text(fields.first()?), text(fields.get(2)?), PathBuf::from(unescaped(fields.get(4)?)));
        let end = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
        let (source, options) = (fields.get(end + 2)?, fields.get(end + 3)?);
        let upper = options.split(|byte| *byte == b',').filter_map(|option| option.strip_prefix(b"upperdir="));
        for part in upper.chain([*source]) {
            self.by_part.entry(unescaped(part)).or_default().insert(device.clone());
        }
        if point != self.real_home && point.starts_with(&self.real_home) {
            self.by_point.insert(point.clone(), device.clone());
        }
        let mounted = Mounted { point, elsewhere: elsewhere.cloned(), number };
        self.by_device.entry(device).or_default().push(mounted);
        Some(())
    }

    /// The mounts of a layer with these parts.
    pub fn of(&self, parts: &[Metadatum]) -> Vec<&Mounted> {
        let devices = self.devices(parts);
        devices.iter().filter_map(|device| self.by_device.get(device)).flatten().collect()
    }

    /// The filesystems that a layer with these parts was mounted as: where it is to be mounted, or by what that is made of.
    fn devices(&self, parts: &[Metadatum]) -> BTreeSet<Device> {
        let part = |wanted: &str| parts.iter().find(|(name, _)| *name == wanted).map(|(_, value)| Path::new(value));
        let real =
            |path: &Path| path.strip_prefix(&self.home).map_or_else(|_| path.to_owned(), |below| self.real_home.join(below));
        let mut devices = BTreeSet::new();
        if let Some(merged) = part("MergedDir").map(real) {
            devices.extend(merged.ancestors().find_map(|point| self.by_point.get(point)).cloned());
        }
        let upper = part("UpperDir").map(|upper| [upper.to_owned(), real(upper)]).into_iter().flatten();
        let block = part("DeviceName").map(|name| Path::new("/dev/mapper").join(name));
        for made_of in upper.chain(block) {
            devices.extend(self.by_part.get(made_of.as_os_str()).into_iter().flatten().cloned());
        }
        devices
    }

    /// The processes that use a mount of a layer with these parts.
    pub fn users(&self, parts: &[Metadatum]) -> Vec<User> {
        let devices = self.devices(parts);
        let numbers: BTreeSet<&str> = self.of(parts).into_iter().map(|mounted| mounted.number.as_str()).collect();
        if devices.is_empty() {
            return Vec::new();
        }
        let users = pids().filter_map(|pid| {
            let is_on =
                |what: &str| fs::metadata(in_proc(pid, what)).is_ok_and(|found| devices.contains(&device(found.dev())));
            let links =
                [("root", "root directory"), ("cwd", "working directory")].into_iter().filter(|(link, _)| is_on(link));
            let mut by: Vec<String> = links.map(|(_, what)| what.to_owned()).collect();
            let open = open_files(pid, &numbers);
            by.extend((open > 0).then(|| count(open, "open file")));
            (!by.is_empty()).then(|| User { process: Process { pid, name: name_of(pid) }, by })
        });
        users.collect()
    }
}

/// How many files of these mounts a process has open.
fn open_files(pid: u32, mounts: &BTreeSet<&str>) -> u64 {
    let Ok(entries) = fs::read_dir(in_proc(pid, "fdinfo")) else { return 0 };
    let texts = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let is_there =
        |text: &String| text.lines().any(|line| line.strip_prefix("mnt_id:").is_some_and(|id| mounts.contains(id.trim())));
    texts.filter(is_there).count() as u64
}

fn in_proc(pid: u32, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

/// All processes, in the order of their numbers.
fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids: BTreeSet<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.into_iter()
}

fn name_of(pid: u32) -> String {
    let name = fs::read(in_proc(pid, "comm")).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
}

/// `st_dev` as `mountinfo` writes it; see `makedev(3)`.
fn device(number: u64) -> Device {
    let major = (number >> 8 & 0xfff) | (number >> 32 & 0xffff_f000);
    let minor = (number & 0xff) | (number >> 12 & 0xffff_ff00);
    format!("{major}:{minor}")
}

/// A field of `mountinfo`, in which blanks and their like are three octal digits.
fn unescaped(field: &[u8]) -> OsString {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(text)
}

/// The bytes of a path, for who shows it.
pub fn bytes(path: &impl AsRef<OsStr>) -> &[u8] {
    path.as_ref().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(id: &str) -> Vec<Metadatum> {
        vec![("MergedDir", format!("/s/h/{id}/merged").into()), ("UpperDir", format!("/s/h/{id}/diff").into())]
    }

    #[test]
    fn a_layer_is_found_by_its_place_and_by_what_it_is_made_of() {
        let mut mounts = Mounts { home: "/s/h".into(), real_home: "/real/h".into(), ..Mounts::default() };
        let container = Process { pid: 7, name: "sh".to_owned() };
        for (line, process) in [
            ("30 1 8:1 / /real/h rw - ext4 /dev/sda1 rw", None),
            ("31 30 0:50 / /real/h/a/merged rw shared:1 - overlay overlay rw,lowerdir+=/x,upperdir=/s/h/a/diff", None),
            ("32 30 0:51 / / rw - overlay overlay rw,upperdir=/s/h/b/diff,workdir=/s/h/b/work", Some(&container)),
            ("33 30 0:50 / /a\\040b rw - overlay overlay rw,upperdir=/s/h/a/diff", Some(&container)),
        ] {
            mounts.take(line.as_bytes(), process).unwrap();
        }
        let points = |id| {
            mounts.of(&parts(id)).iter().map(|m| (m.point.to_str().unwrap(), m.elsewhere.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(points("a"), [("/real/h/a/merged", false), ("/a b", true)]);
        assert_eq!(points("b"), [("/", true)]);
        assert_eq!(points("c"), []);
        assert_eq!(mounts.take(b"", None), None);
    }

    #[test]
    fn devices_are_numbered_as_the_mount_table_does() {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let proc = table.lines().find(|line| line.split(' ').nth(4) == Some("/proc")).unwrap();
        let number = fs::metadata("/proc").unwrap().dev();
        assert_eq!(device(number), proc.split(' ').nth(2).unwrap());
        assert_eq!(device(0x0000_1000_0aa0_0bcc), "4107:43724");
    }
}
