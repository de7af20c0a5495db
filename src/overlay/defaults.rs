//! Options of overlayfs whose defaults depend on how the kernel was built and on how its module is set up: known, not trusted.
//!
//! | option | here, unless the caller says otherwise | why |
//! |---|---|---|
//! | `index` | `off` | with it a layer cannot be mounted while an old mount of it lives in another namespace |
//! | `metacopy` | `off` for layers made here | with it a file's content may lie in another layer: the layer means nothing elsewhere |
//! | `redirect_dir` | `follow` for layers made here | the same for renamed directories; those that are there are honoured |
//! | `nfs_export` | the kernel's | it needs `index`, and the kernel turns it off without |
//! | `xino`, `uuid` | the kernel's | they change inode and filesystem numbers of a mount, and nothing on disk |
//!
//! A layer of the C module may have been written with the kernel's defaults of then, which have to stay for it to be read.

use crate::driver::Access;
use crate::error::{Error, Result};
use crate::mounts::Words;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What each kernel that has the option shows here (`Documentation/filesystems/overlayfs.rst`).
const PARAMETERS: &str = "/sys/module/overlay/parameters";

/// Adds what the caller left open.
///
/// # Errors
/// What the kernel knows cannot be found out now.
pub(super) fn add(words: &mut Words, access: Option<Access>) -> Result<()> {
    add_known(words, access, |name| {
        let parameter = Path::new(PARAMETERS).join(name);
        parameter.try_exists().map_err(|e| Error::io(format!("look for '{}'", parameter.display()), &e))
    })
}

fn add_known(words: &mut Words, access: Option<Access>, is_known: impl Fn(&str) -> Result<bool>) -> Result<()> {
    let made_here = access.is_some();
    let rows = [
        ("index", "index=off", true),
        ("metacopy", "metacopy=off", made_here),
        ("redirect_dir", "redirect_dir=follow", made_here),
    ];
    // Each may need or exclude another: who sets one of them sets them all.
    if rows.iter().any(|(name, ..)| is_given(words, name)) || is_given(words, "nfs_export") {
        return Ok(());
    }
    let mut options = Vec::new();
    for (name, option, applies) in rows {
        if applies && is_known(name)? {
            options.push(option.into());
        }
    }
    words.data.splice(0..0, options);
    Ok(())
}

fn is_given(words: &Words, name: &str) -> bool {
    let key = |word: &OsStr| word.as_bytes().split(|&b| b == b'=').next().unwrap_or_default().to_vec();
    words.data.iter().any(|word| key(word) == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(given: &str, access: Option<Access>, known: &[&str]) -> String {
        let mut words = Words::parse([given]);
        add_known(&mut words, access, |name| Ok(known.contains(&name))).unwrap();
        words.data_string().into_string().unwrap()
    }

    #[test]
    fn what_cannot_be_found_out_is_not_left_out() {
        let mut words = Words::parse(["xino=on"]);
        add_known(&mut words, None, |_| Err(Error::sys("stat", 12))).unwrap_err();
    }

    #[test]
    fn what_the_kernel_knows_and_the_caller_left_open_is_set() {
        let all = ["index", "metacopy", "redirect_dir"];
        let rw = Some(Access::ReadWrite);
        assert_eq!(added("xino=on", rw, &all), "index=off,metacopy=off,redirect_dir=follow,xino=on");
        assert_eq!(added("", None, &all), "index=off", "a layer of the C module");
        assert_eq!(added("", rw, &["index"]), "index=off");
        assert_eq!(added("", rw, &[]), "");
        assert_eq!(added("metacopy=on", rw, &all), "metacopy=on");
        assert_eq!(added("nfs_export=on", rw, &all), "nfs_export=on");
    }
}
