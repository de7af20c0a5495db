//! Project quota on real ext4 and XFS filesystems, under a kernel that has it. Run by `vm/test`.

use std::process::Command;

#[test]
fn the_kernel_has_project_quota() {
    let output = Command::new("modprobe").arg("quota_v2").output().expect("modprobe");
    assert!(output.status.success(), "{output:?}");
}
