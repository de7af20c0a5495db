//! Every struct that crosses the border has one layout: in Rust, in our header, and in what iSulad and isula_libutils declare.
//!
//! C is asked by a program that prints `sizeof` and `offsetof`. It needs the C compiler that linking needs anyway.

use graphdriver::capi;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of a type, or of a type and its member, to its offset (0 for a type) and size.
type Layout = BTreeMap<String, (usize, usize)>;

/// The size of a member, which its accessor names.
fn size_of_member<T, M>(_: fn(&T) -> &M) -> usize {
    size_of::<M>()
}

/// The layout of a struct in Rust.
macro_rules! in_rust {
    ($($c_name:literal = $type:ident { $($member:ident),+ })+) => {{
        let mut layout = Layout::new();
        $(
            layout.insert($c_name.to_owned(), (0, size_of::<capi::$type>()));
            $(layout.insert(
                format!("{}.{}", $c_name, stringify!($member)),
                (std::mem::offset_of!(capi::$type, $member), size_of_member(|it: &capi::$type| &it.$member)),
            );)+
        )+
        layout
    }};
}

fn rust_layout() -> Layout {
    in_rust! {
        "json_map_string_string" = json_map_string_string { keys, values, len }
        "struct io_read_wrapper" = io_read_wrapper { context, read, close }
        "struct driver_create_opts" = driver_create_opts { mount_label, storage_opt }
        "struct driver_mount_opts" = driver_mount_opts { mount_label, options, options_len }
        "struct graphdriver_status" = graphdriver_status { driver_name, backing_fs, status }
    }
}

/// What iSulad's own structs look like on a 64-bit machine, v2.0.4 to today; the stand-in headers must agree.
const ISULAD: &str = "
    struct storage_module_init_options 48
    struct storage_module_init_options.storage_run_root 0
    struct storage_module_init_options.storage_root 8
    struct storage_module_init_options.driver_name 16
    struct storage_module_init_options.driver_opts 24
    struct storage_module_init_options.driver_opts_len 32
    struct storage_module_init_options.integration_check 40
    container_inspect_graph_driver 24
    container_inspect_graph_driver.data 0
    container_inspect_graph_driver.name 8
    container_inspect_graph_driver._residual 16
    container_inspect_graph_driver_data 64
    container_inspect_graph_driver_data.lower_dir 0
    container_inspect_graph_driver_data.merged_dir 8
    container_inspect_graph_driver_data.upper_dir 16
    container_inspect_graph_driver_data.work_dir 24
    container_inspect_graph_driver_data.device_id 32
    container_inspect_graph_driver_data.device_name 40
    container_inspect_graph_driver_data.device_size 48
    container_inspect_graph_driver_data._residual 56
    imagetool_fs_info 24
    imagetool_fs_info.image_filesystems 0
    imagetool_fs_info.image_filesystems_len 8
    imagetool_fs_info._residual 16
    imagetool_fs_info_image_filesystems_element 32
    imagetool_fs_info_image_filesystems_element.timestamp 0
    imagetool_fs_info_image_filesystems_element.fs_id 8
    imagetool_fs_info_image_filesystems_element.used_bytes 16
    imagetool_fs_info_image_filesystems_element.inodes_used 24
    imagetool_fs_info_image_filesystems_fs_id 16
    imagetool_fs_info_image_filesystems_fs_id.mountpoint 0
    imagetool_fs_info_image_filesystems_used_bytes 16
    imagetool_fs_info_image_filesystems_used_bytes.value 0
    imagetool_fs_info_image_filesystems_inodes_used 16
    imagetool_fs_info_image_filesystems_inodes_used.value 0
";

/// The lines of a table: name, and size of a type or offset of a member.
fn table(text: &str) -> impl Iterator<Item = (String, usize)> {
    text.lines().filter_map(|line| {
        let (name, number) = line.trim().rsplit_once(' ')?;
        Some((name.to_owned(), number.parse().unwrap()))
    })
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Asks C for the same names. `flags` decide which header is meant.
fn c_layout<'a>(test: &str, header: &str, flags: &[&str], names: impl Iterator<Item = &'a String>) -> Layout {
    let mut program = format!("#define _GNU_SOURCE\n#include <{header}>\n#include <stdio.h>\nint main(void)\n{{\n");
    for name in names {
        let (offset, size) = match name.split_once('.') {
            Some((owner, member)) => (format!("offsetof({owner}, {member})"), format!("sizeof((({owner} *)0)->{member})")),
            None => ("(size_t)0".to_owned(), format!("sizeof({name})")),
        };
        program += &format!("    printf(\"{name} %zu %zu\\n\", {offset}, {size});\n");
    }
    program += "    return 0;\n}\n";

    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&dir).unwrap();
    let (source, binary) = (dir.join("layout.c"), dir.join("layout"));
    std::fs::write(&source, program).unwrap();
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut compile = Command::new(cc);
    compile.args(["-std=c99", "-Wall", "-Werror"]).args(flags);
    for include in ["include", "include/isulad", "ctests/isulad/standin"] {
        compile.arg("-I").arg(project(include));
    }
    // The adapters are compiled along, and nothing of theirs is called.
    let made = compile.arg("-Wl,--unresolved-symbols=ignore-all").arg("-o").arg(&binary).arg(&source).status();
    assert!(made.unwrap().success(), "compile {}", source.display());
    let output = Command::new(&binary).output().unwrap();
    assert!(output.status.success());

    let mut layout = Layout::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let mut words = line.rsplitn(3, ' ');
        let (size, offset) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
        layout.insert(words.next().unwrap().to_owned(), (offset, size));
    }
    layout
}

#[test]
fn rust_and_our_header_agree() {
    let rust = rust_layout();
    assert_eq!(c_layout("header", "graphdriver.h", &[], rust.keys()), rust);
}

#[test]
fn rust_and_isulad_agree() {
    let rust = rust_layout();
    for (test, flags) in [("isulad", &[][..]), ("isulad-old", &["-DSTANDIN_NO_RESIDUAL"]), ("isulad-all", &ALL)] {
        let mut isulad = c_layout(test, "driver.h", flags, rust.keys());
        if flags.contains(&"-DSTANDIN_IO_TYPE") {
            // A member that this library never looks at follows.
            assert_eq!(isulad.insert("struct io_read_wrapper".to_owned(), (0, 24)), Some((0, 32)));
        }
        assert_eq!(isulad, rust, "{test}");
    }
}

const ALL: [&str; 3] = ["-DSTANDIN_IO_TYPE", "-DENABLE_REMOTE_LAYER_STORE", "-DENABLE_USERNS_REMAP"];

#[test]
#[cfg(target_pointer_width = "64")]
fn the_layouts_are_those_that_isulad_was_built_with() {
    let mut expected: BTreeMap<String, usize> = table(ISULAD).collect();
    let check = |found: &Layout, expected: &BTreeMap<String, usize>| {
        for (name, number) in expected {
            let (offset, size) = found[name];
            assert_eq!(if name.contains('.') { offset } else { size }, *number, "{name}");
        }
    };
    check(&c_layout("stand-in", "driver.h", &[], expected.keys()), &expected);

    for (name, number) in [("", 56), (".enable_remote_layer", 41), (".remote_lock", 48)] {
        expected.insert(format!("struct storage_module_init_options{name}"), number);
    }
    check(&c_layout("stand-in-remote", "driver.h", &ALL, expected.keys()), &expected);

    let ours = [
        ("json_map_string_string", 24),
        ("struct io_read_wrapper", 24),
        ("struct driver_create_opts", 16),
        ("struct driver_mount_opts", 24),
        ("struct graphdriver_status", 24),
    ];
    let rust = rust_layout();
    for (name, size) in ours {
        assert_eq!(rust[name].1, size, "{name}");
    }
}
