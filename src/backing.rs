//! Names of the filesystems that a driver's home can lie on.

/// Names of filesystems by their magic number (`statfs(2)`, `linux/magic.h`), as `isula info` shows them.
const FILESYSTEMS: [(u64, &str); 29] = [
    (0x6175_6673, "aufs"),
    (0x9123_683e, "btrfs"),
    (0x28cd_3d45, "cramfs"),
    (0xf15f, "ecryptfs"),
    (0xef53, "extfs"),
    (0xf2f5_2010, "f2fs"),
    (0x4750_4653, "gpfs"),
    (0x72b6, "jffs2"),
    (0x3153_464a, "jfs"),
    (0x6969, "nfs"),
    (0x794c_7630, "overlayfs"),
    (0x8584_58f6, "ramfs"),
    (0x5265_4973, "reiserfs"),
    (0x517b, "smb"),
    (0x7371_7368, "squashfs"),
    (0x0102_1994, "tmpfs"),
    (0, "unsupported"),
    (0xa501_fcf5, "vxfs"),
    (0x5846_5342, "xfs"),
    (0x2fc1_2fc1, "zfs"),
    (0x0102_1997, "9p"),
    (0xca45_1a4e, "bcachefs"),
    (0x00c3_6400, "ceph"),
    (0xff53_4d42, "cifs"),
    (0xe0f5_e1e2, "erofs"),
    (0x6573_5546, "fuse"),
    (0xfe53_4d42, "smb2"),
    (0x2405_1905, "ubifs"),
    (0x0033_5342, "hostfs"),
];

/// The name of a filesystem; its magic number in hexadecimal if it has none here.
pub(crate) fn filesystem_name(magic: u64) -> String {
    match FILESYSTEMS.iter().find(|(number, _)| *number == magic) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("{magic:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_filesystem_is_shown_by_its_number() {
        assert_eq!(filesystem_name(0xef53), "extfs");
        assert_eq!(filesystem_name(0xabcd_1234), "0xabcd1234");
    }
}
