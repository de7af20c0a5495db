//! The contents of the metadata files: JSON as the C module writes it, byte for byte.
//!
//! Members whose value is zero, false or empty are left out; a missing member means just that. Members that are not known
//! are ignored. The C module ignores ours (`parent`, `read_only`, `incomplete`) and drops them when it rewrites a
//! file.

use super::ids::DeviceId;
use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value};
use std::fmt::Write;

/// A device: a layer, or the base image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    /// The layer's id, or `base`.
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

    fn end(&mut self) -> Vec<u8> {
        self.0.push_str("\n}\n");
        std::mem::take(&mut self.0).into_bytes()
    }
}

impl Device {
    /// Parses the file `name`.
    pub(super) fn parse(name: &str, content: &[u8]) -> Result<Device> {
        let members = Members::parse(content)?;
        let hash = members.text("hash")?;
        Ok(Device {
            hash: if hash.is_empty() { name.to_owned() } else { hash },
            device_id: members.device_id()?,
            size: members.number("size")?,
            transaction_id: members.number("transaction_id")?,
            initialized: members.flag("initialized")?,
            deleted: members.flag("deleted")?,
            parent: members.text("parent")?,
            read_only: members.flag("read_only")?,
            incomplete: members.flag("incomplete")?,
        })
    }

    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = Text::new();
        text.member("hash", &self.hash.as_str().into())
            .member("device_id", &self.device_id.number().into())
            .member("size", &self.size.into())
            .member("transaction_id", &self.transaction_id.into())
            .member("initialized", &self.initialized.into())
            .member("deleted", &self.deleted.into())
            .member("parent", &self.parent.as_str().into())
            .member("read_only", &self.read_only.into())
            .member("incomplete", &self.incomplete.into());
        text.end()
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

    pub(super) fn text(&self) -> Vec<u8> {
        Text::new()
            .member("open_transaction_id", &self.open_transaction_id.into())
            .member("device_hash", &self.device_hash.as_str().into())
            .member("device_id", &self.device_id.number().into())
            .end()
    }
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
        assert_eq!(String::from_utf8(device.text()).unwrap(), layer);

        let base = "{\n    \"hash\": \"base\",\n    \"device_id\": 1,\n    \"size\": 10737418240,\n    \
            \"transaction_id\": 1,\n    \"initialized\": true\n}\n";
        let device = Device::parse(BASE, base.as_bytes()).unwrap();
        assert!(device.initialized && !device.deleted);
        assert_eq!(device.text(), base.as_bytes());

        let set = "{\n    \"next_device_id\": 7,\n    \"BaseDeviceFilesystem\": \"ext4\",\n    \
            \"BaseDeviceUUID\": \"4fa22307-0c88-4fa4-8f16-a9459e9cbc4a\"\n}\n";
        assert_eq!(DeviceSet::parse(set.as_bytes()).unwrap().text(), set.as_bytes());

        let open =
            format!("{{\n    \"open_transaction_id\": 8,\n    \"device_hash\": \"{HASH}\",\n    \"device_id\": 6\n}}\n");
        let transaction = Transaction::parse(open.as_bytes()).unwrap();
        assert_eq!((transaction.open_transaction_id, transaction.device_hash.as_str()), (8, HASH));
        assert_eq!(transaction.text(), open.as_bytes());
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
        let device = Device { parent, read_only: true, incomplete: true, ..Device::default() };
        assert_eq!(Device::parse("", &device.text()).unwrap(), device);
        assert_eq!(DeviceSet::default().text(), b"{\n}\n");
    }

    #[test]
    fn damage_is_told() {
        for bad in
            ["", "{", "[]", "{}x", "{\"device_id\": -1}", "{\"device_id\": 16777216}", "{\"size\": \"1\"}", "{\"hash\": 1}"]
        {
            assert_eq!(Device::parse("x", bad.as_bytes()).unwrap_err().kind(), Kind::Corrupt, "{bad}");
        }
        assert!(DeviceSet::parse(b"\0\0").is_err() && Transaction::parse(b"").is_err());
    }
}
