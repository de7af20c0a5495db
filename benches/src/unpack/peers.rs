//! What stores images and is packaged by Debian: it is given the same archive as the only layer of an OCI image.

use super::Contestant;
use crate::ground::shell;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Those that are installed and can read the format. All of them check the digest of the compressed and of the unpacked layer, as ours does in "same, with
/// digests".
pub(super) fn contestants(archive: &Path, format: &str, target: &Path) -> Vec<Contestant> {
    if format == "tar.zst" {
        return Vec::new(); // umoci 0.4 of Debian 12 cannot read it
    }
    let (image, target) = (image(archive, format), target.display());
    let image = image.display();
    let contestant = |name, command: String| {
        let command = command.split(' ').map(str::to_owned).collect();
        Contestant { name, command, floor: false, daemon: Default::default() }
    };
    let storage = format!("containers-storage:[overlay@{target}/root+{target}/run]layer:latest");
    let containerd = Contestant {
        daemon: [include_str!("containerd.sh"), include_str!("containerd-end.sh")]
            .map(|script| format!("image='{image}' target='{target}'\n{script}")),
        ..contestant("containerd", format!("sh {target}/unpack"))
    };
    let all = vec![
        containerd,
        contestant("umoci raw unpack", format!("umoci --log=error raw unpack --image {image}:layer {target}/rootfs")),
        // What podman, buildah and CRI-O pull with.
        contestant("containers-storage", format!("skopeo --insecure-policy copy -q oci:{image}:layer {storage}")),
    ];
    let programs = ["containerd", "umoci", "skopeo"];
    all.into_iter().zip(programs).filter(|(_, program)| is_installed(program)).map(|(contestant, _)| contestant).collect()
}

fn is_installed(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap();
    found.status.success()
}

/// The image in a directory beside the archive.
fn image(archive: &Path, format: &str) -> PathBuf {
    let image = PathBuf::from(format!("{}.oci", archive.display()));
    if image.exists() {
        return image;
    }
    let suffix = if format == "tar" { "tar" } else { "tar+gzip" };
    let plain =
        archive.with_file_name(format!("{}.tar", archive.file_name().unwrap().to_str().unwrap().split('.').next().unwrap()));
    let script = include_str!("image.sh");
    let set = format!(
        "archive='{}' plain='{}' suffix='{suffix}' image='{}'\n",
        archive.display(),
        plain.display(),
        image.display()
    );
    shell(&(set + script));
    image
}
