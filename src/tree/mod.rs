//! Whole directory trees, of any depth and width: deleting them and measuring them.

mod delete;
mod measure;
mod walk;

pub(crate) use delete::{delete_dir, delete_file, mounted};
pub use delete::{empty, empty_unless, remove, remove_unless};
pub use measure::{Usage, size, size_changed_since, usage};
pub(crate) use walk::{Next, Visitor, walk};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs;
    use std::ffi::OsStr;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("graphdriver-tree-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        fn fd(&self) -> OwnedFd {
            fs::open_dir(&self.0).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = remove(fs::open_dir(self.0.parent().unwrap()).unwrap().as_fd(), self.0.file_name().unwrap());
        }
    }

    #[test]
    fn deletes_a_tree_and_spares_what_its_links_name() {
        let (outside, inside) = (Scratch::new("outside"), Scratch::new("inside"));
        std::fs::write(outside.0.join("keep"), "x").unwrap();
        std::fs::create_dir_all(inside.0.join("a/b/c")).unwrap();
        std::fs::write(inside.0.join("a/b/f"), "y").unwrap();
        symlink(&outside.0, inside.0.join("a/link")).unwrap();
        remove(inside.fd().as_fd(), OsStr::new("a")).unwrap();
        assert!(!inside.0.join("a").exists() && outside.0.join("keep").exists());
        assert!(fs::is_absent(&remove(inside.fd().as_fd(), OsStr::new("a")).unwrap_err()));
    }

    #[test]
    fn depth_is_no_limit() {
        let scratch = Scratch::new("deep");
        let mut dir = scratch.fd();
        for _ in 0..5000 {
            fs::make_dir_at(&dir, "d", 0o700).unwrap();
            dir = fs::open_dir_at(&dir, "d").unwrap();
        }
        assert_eq!(usage(scratch.fd().as_fd()).unwrap().inodes, 5001);
        empty(scratch.fd().as_fd()).unwrap();
        assert_eq!(usage(scratch.fd().as_fd()).unwrap().inodes, 1);
    }

    #[test]
    fn size_counts_each_inode_once_and_no_directory() {
        let scratch = Scratch::new("size");
        std::fs::write(scratch.0.join("a"), [0; 1000]).unwrap();
        std::fs::hard_link(scratch.0.join("a"), scratch.0.join("b")).unwrap();
        std::fs::create_dir(scratch.0.join("d")).unwrap();
        symlink("12345", scratch.0.join("d/l")).unwrap();
        assert_eq!(size(scratch.fd().as_fd()).unwrap(), 1005);
        assert_eq!(usage(scratch.fd().as_fd()).unwrap().inodes, 4);
        let last = fs::stat_at(scratch.fd(), "d").unwrap().changed;
        assert_eq!(size_changed_since(scratch.fd().as_fd(), (last.0 + 1, 0)).unwrap(), 0);
        assert_eq!(size_changed_since(scratch.fd().as_fd(), (0, 1)).unwrap(), 1005);
    }
}
