//! The contents of the metadata files: JSON as the C module writes it, byte for byte.
//!
//! Members whose value is zero, false or empty are left out; a missing member means just that. Members that are not known
//! are ignored. The C module ignores ours (`parent`, `read_only`, `unfilled`, `incomplete`) and drops them when it rewrites a
//! file.

use super::devices::DeviceId;
use crate::error::{Error, Kind, Result};
use crate::id::LayerId;
use serde_json::{Map, Value};
use std::fmt::Write;

/// A device: a layer, or the base image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    /// The layer's id ([`file_name`]), or `base`: the name of the file. While a layer is being built, or is being deleted after another took its
    /// place, the file has a name of the [stage](staged).
    pub hash: String,
    /// Its thin device in the pool.
    pub device_id: DeviceId,
    /// Bytes.
    pub size: u64,
    /// The transaction that made it.
    pub transaction_id: u64,
    /// Base only: it has a filesystem.
    pub initialized: bool,
    /// It was deleted while busy, and is to go as soon as it can.
    pub deleted: bool,
    /// The layer it was made from; empty for the base image. Ours.
    pub parent: String,
    /// It is a layer of an image. Ours.
    pub read_only: bool,
    /// A layer of an image into which nothing has been unpacked yet. Ours.
    pub unfilled: bool,
    /// Something that it needs was begun and has not ended: its content cannot be trusted. Ours.
    pub incomplete: bool,
}

/// `deviceset-metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceSet {
    pub next_device_id: u64,
    pub base_filesystem: String,
    pub base_uuid: String,
}

/// `transaction-metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Transaction {
    pub open_transaction_id: u64,
    pub device_hash: String,
    pub device_id: DeviceId,
}

/// Name of the base image's file, and its hash.
pub(super) const BASE: &str = "base";

/// Names of files that are about no layer. A layer of that id has a file name of its own, which no layer id can be.
const RESERVED: [&str; 3] = [BASE, "deviceset-metadata", "transaction-metadata"];
const ESCAPE: &str = "@";

/// The name of a layer's file, by which it goes in here.
pub(super) fn file_name(layer: &LayerId) -> String {
    let escape = if RESERVED.contains(&layer.as_str()) { ESCAPE } else { "" };
    format!("{escape}{layer}")
}

/// The id of the layer whose file has this name.
pub(super) fn layer_id(file_name: &str) -> &str {
    file_name.strip_prefix(ESCAPE).unwrap_or(file_name)
}

/// Whether a file in the metadata directory is about a device.
pub(super) fn is_device_file(name: &str) -> bool {
    let is_layer = || LayerId::parse(name.as_bytes()).is_ok_and(|id| file_name(&id) == name);
    name == BASE || in_stage(name) || name.strip_prefix(ESCAPE).is_some_and(|rest| RESERVED.contains(&rest)) || is_layer()
}

/// Begins the names of files whose device is not, or not any more, the layer of that name. No layer id begins like this.
const STAGE: &str = ".stage-";
/// A file name has at most 255 bytes, and so has a layer id.
const MAX_STAGED: usize = 255 - STAGE.len();

/// The file of a layer that is being built. Of two very long ids that differ only at their ends, one waits for the other.
pub(super) fn staged(layer: &str) -> String {
    let layer = layer.strip_prefix(STAGE).unwrap_or(layer);
    format!("{STAGE}{}", &layer[..layer.len().min(MAX_STAGED)])
}

/// Whether a name is of the stage.
pub(super) fn in_stage(name: &str) -> bool {
    name.starts_with(STAGE)
}

struct Members(Map<String, Value>);

impl Members {
    fn parse(content: &[u8]) -> Result<Members> {
        match serde_json::from_slice(content) {
            Ok(Value::Object(members)) => Ok(Members(members)),
            Ok(_) => Err(Error::new(Kind::Corrupt, "it is JSON but not an object")),
            Err(e) => Err(Error::new(Kind::Corrupt, format!("it is not JSON: {e}"))),
        }
    }

    fn take<T: Default>(&self, name: &str, of: impl Fn(&Value) -> Option<T>) -> Result<T> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(T::default()),
            Some(value) => of(value).ok_or_else(|| Error::new(Kind::Corrupt, format!("member '{name}' is {value}"))),
        }
    }

    fn text(&self, name: &str) -> Result<String> {
        self.take(name, |value| value.as_str().map(str::to_owned))
    }

    fn number(&self, name: &str) -> Result<u64> {
        self.take(name, Value::as_u64)
    }

    fn flag(&self, name: &str) -> Result<bool> {
        self.take(name, Value::as_bool)
    }

    fn device_id(&self) -> Result<DeviceId> {
        DeviceId::try_from(self.number("device_id")?)
    }
}

const END: &str = "\n}\n";

/// Lengthens a text that ends as all of these do with blanks before the end, to this length at least.
pub(super) fn padded(text: &[u8], length: usize) -> Vec<u8> {
    let (body, end) = text.split_at(text.len().saturating_sub(END.len()));
    let blanks = vec![b' '; length.saturating_sub(text.len())];
    [body, &blanks, end].concat()
}

/// Builds the text, leaving out what is zero.
struct Text(String);

impl Text {
    fn new() -> Text {
        Text(String::from("{"))
    }

    fn member(&mut self, name: &str, value: &Value) -> &mut Text {
        let zero = matches!(value, Value::Bool(false)) || value.as_u64() == Some(0) || value.as_str() == Some("");
        if zero { self } else { self.present(name, value) }
    }

    /// A member that is there whatever its value.
    fn present(&mut self, name: &str, value: &Value) -> &mut Text {
        let comma = if self.0.len() > 1 { "," } else { "" };
        let _ = write!(self.0, "{comma}\n    \"{name}\": {value}");
        self
    }

    /// Adds blanks, so that the whole will have at least this length.
    fn pad(&mut self, length: usize) {
        let missing = length.saturating_sub(self.0.len() + END.len());
        self.0.extend(std::iter::repeat_n(' ', missing));
    }

    fn end(&mut self) -> Vec<u8> {
        self.0.push_str(END);
        std::mem::take(&mut self.0).into_bytes()
    }
}

impl Device {
    /// Stands for that of a layer whose record is lost or damaged.
    pub(super) fn unknown(name: &str) -> Device {
        Device { hash: name.to_owned(), ..Device::default() }
    }

    /// Parses the file `name`.
    pub(super) fn parse(name: &str, content: &[u8]) -> Result<Device> {
        let members = Members::parse(content)?;
        let hash = members.text("hash")?;
        // A copy under another name must not make two layers of one device: deleting one would destroy the other.
        let is_own = hash.is_empty() || hash == name || (in_stage(name) && staged(&hash) == name);
        if !is_own {
            return Err(Error::new(Kind::Corrupt, format!("it is about '{}'", hash.escape_debug())));
        }
        let (device_id, size) = (members.device_id()?, members.number("size")?);
        if device_id == DeviceId::default() || size == 0 {
            return Err(Error::new(Kind::Corrupt, "it names no device: device_id or size is missing"));
        }
        Ok(Device {
            hash: name.to_owned(),
            device_id,
            size,
            transaction_id: members.number("transaction_id")?,
            initialized: members.flag("initialized")?,
            deleted: members.flag("deleted")?,
            parent: members.text("parent")?,
            read_only: members.flag("read_only")?,
            unfilled: members.flag("unfilled")?,
            incomplete: members.flag("incomplete")?,
        })
    }

    /// The content of the file of the layer `layer`, which it may have while the file's name is another.
    pub(super) fn text(&self, layer: &str) -> Vec<u8> {
        let mut text = Text::new();
        text.member("hash", &layer.into())
            .member("device_id", &self.device_id.number().into())
            .member("size", &self.size.into())
            .member("transaction_id", &self.transaction_id.into())
            .member("initialized", &self.initialized.into())
            .member("deleted", &self.deleted.into())
            .member("parent", &self.parent.as_str().into())
            .member("read_only", &self.read_only.into())
            .member("unfilled", &self.unfilled.into())
            .member("incomplete", &self.incomplete.into());
        text.end()
    }

    /// Whether the layer was never told to be whole, and removing it would lose nothing.
    pub(super) fn is_void(&self) -> bool {
        self.deleted || (self.incomplete && self.unfilled)
    }
}

impl DeviceSet {
    pub(super) fn parse(content: &[u8]) -> Result<DeviceSet> {
        let members = Members::parse(content)?;
        Ok(DeviceSet {
            next_device_id: members.number("next_device_id")?,
            base_filesystem: members.text("BaseDeviceFilesystem")?,
            base_uuid: members.text("BaseDeviceUUID")?,
        })
    }

    pub(super) fn text(&self) -> Vec<u8> {
        Text::new()
            .member("next_device_id", &self.next_device_id.into())
            .member("BaseDeviceFilesystem", &self.base_filesystem.as_str().into())
            .member("BaseDeviceUUID", &self.base_uuid.as_str().into())
            .end()
    }
}

impl Transaction {
    pub(super) fn parse(content: &[u8]) -> Result<Transaction> {
        let members = Members::parse(content)?;
        let hash = members.text("device_hash")?;
        Ok(Transaction {
            open_transaction_id: members.number("open_transaction_id")?,
            device_hash: if hash.is_empty() { BASE.to_owned() } else { hash },
            device_id: members.device_id()?,
        })
    }

    /// Always of the length [`Transaction::LENGTH`], so that one transaction can be written over another in place: blanks, which
    /// JSON allows, are before the end.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = Text::new();
        text.member("open_transaction_id", &self.open_transaction_id.into())
            .member("device_hash", &self.device_hash.as_str().into())
            .member("device_id", &self.device_id.number().into());
        text.pad(Transaction::LENGTH);
        text.end()
    }

    /// One sector, which a disk writes whole or not at all. The longest name leaves more than a third of it free.
    pub(super) const LENGTH: usize = 512;
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "068615102be4457b22d40c9702e4bd316dd50ae85467b0378a419b23b60ba73d";

    #[test]
    fn files_of_a_real_host_are_read_and_written_alike() {
        let layer = format!(
            "{{\n    \"hash\": \"{HASH}\",\n    \"device_id\": 6,\n    \"size\": 10737418240,\n    \"transaction_id\": 8\n}}\n"
        );
        let device = Device::parse(HASH, layer.as_bytes()).unwrap();
        assert_eq!((device.device_id.number(), device.size, device.transaction_id), (6, 10 << 30, 8));
        assert_eq!(String::from_utf8(device.text(HASH)).unwrap(), layer);

        let base = "{\n    \"hash\": \"base\",\n    \"device_id\": 1,\n    \"size\": 10737418240,\n    \
            \"transaction_id\": 1,\n    \"initialized\": true\n}\n";
        let device = Device::parse(BASE, base.as_bytes()).unwrap();
        assert!(device.initialized && !device.deleted);
        assert_eq!(device.text(BASE), base.as_bytes());

        let set = "{\n    \"next_device_id\": 7,\n    \"BaseDeviceFilesystem\": \"ext4\",\n    \
            \"BaseDeviceUUID\": \"4fa22307-0c88-4fa4-8f16-a9459e9cbc4a\"\n}\n";
        assert_eq!(DeviceSet::parse(set.as_bytes()).unwrap().text(), set.as_bytes());

        let open =
            format!("{{\n    \"open_transaction_id\": 8,\n    \"device_hash\": \"{HASH}\",\n    \"device_id\": 6\n}}\n");
        let transaction = Transaction::parse(open.as_bytes()).unwrap();
        assert_eq!((transaction.open_transaction_id, transaction.device_hash.as_str()), (8, HASH));
        let text = String::from_utf8(transaction.text()).unwrap();
        assert_eq!((text.len(), text.replace("  \n}", "\n}").len() < 512), (512, true));
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        assert_eq!(words, open.split_ascii_whitespace().collect::<Vec<_>>());
        assert_eq!(Transaction::parse(text.as_bytes()).unwrap(), transaction);
    }

    #[test]
    fn files_of_the_older_engine_are_read() {
        let go = br#"{"device_id":3,"size":10737418240,"transaction_id":4,"initialized":false,"deleted":true,"x":[1]}"#;
        let device = Device::parse("abc", go).unwrap();
        assert_eq!((device.hash.as_str(), device.device_id.number(), device.deleted), ("abc", 3, true));
        assert_eq!(Transaction::parse(br#"{"open_transaction_id":1,"device_id":1}"#).unwrap().device_hash, BASE);
    }

    #[test]
    fn our_own_members_survive() {
        let parent = "p\"\\".to_owned();
        let device_id = DeviceId::try_from(1).unwrap();
        let (read_only, unfilled, incomplete) = (true, true, true);
        let device = Device {
            hash: "l1".to_owned(),
            device_id,
            size: 1,
            parent,
            read_only,
            unfilled,
            incomplete,
            ..Device::default()
        };
        assert_eq!(Device::parse("l1", &device.text("l1")).unwrap(), device);
        assert_eq!(Device::parse("l1", &padded(&device.text("l1"), 1000)).unwrap(), device);
        assert_eq!(padded(&device.text("l1"), 1000).len(), 1000);
        assert_eq!(padded(b"", 0), b"");
        assert_eq!(DeviceSet::default().text(), b"{\n}\n");
    }

    #[test]
    fn a_file_on_the_stage_is_about_the_layer_to_be() {
        for layer in ["l1".to_owned(), "x".repeat(255)] {
            let name = staged(&layer);
            assert!(name.len() <= 255 && in_stage(&name) && !in_stage(&layer));
            let device =
                Device { hash: name.clone(), device_id: DeviceId::try_from(1).unwrap(), size: 1, ..Device::default() };
            assert_eq!(Device::parse(&name, &device.text(&layer)).unwrap(), device);
            assert_eq!(Device::parse(&layer, &device.text(&layer)).unwrap().hash, layer);
            assert!(Device::parse("other", &device.text(&layer)).is_err());
        }
    }

    #[test]
    fn every_id_has_a_file_of_its_own() {
        let file = |id: &str| file_name(&LayerId::parse(id.as_bytes()).unwrap());
        assert_eq!((file("l1"), file("base"), file("mnt")), ("l1".to_owned(), "@base".to_owned(), "mnt".to_owned()));
        assert_eq!((layer_id("@base"), layer_id("l1")), ("base", "l1"));
        for name in ["base", "@base", "@transaction-metadata", "l1", ".stage-l1"] {
            assert!(is_device_file(name), "{name}");
        }
        for name in ["transaction-metadata", "deviceset-metadata", "@l1", ".hidden", "a~"] {
            assert!(!is_device_file(name), "{name}");
        }
    }

    #[test]
    fn the_longest_transaction_fits() {
        let longest = Transaction {
            open_transaction_id: u64::MAX,
            device_hash: "x".repeat(255),
            device_id: DeviceId::try_from(0xff_ffff).unwrap(),
        };
        assert_eq!(longest.text().len(), Transaction::LENGTH);
        assert_eq!(Transaction::parse(&longest.text()).unwrap(), longest);
    }

    #[test]
    fn damage_is_told() {
        for bad in [
            "",
            "{",
            "[]",
            "{}",
            "{}x",
            "{\"device_id\": 1}",
            "{\"size\": 1}",
            "{\"device_id\": -1}",
            "{\"device_id\": 16777216}",
            "{\"size\": \"1\"}",
            "{\"hash\": 1}",
            "{\"hash\": \"y\", \"device_id\": 1, \"size\": 1}",
        ] {
            assert_eq!(Device::parse("x", bad.as_bytes()).unwrap_err().kind(), Kind::Corrupt, "{bad}");
        }
        assert!(DeviceSet::parse(b"\0\0").is_err() && Transaction::parse(b"").is_err());
    }
}
