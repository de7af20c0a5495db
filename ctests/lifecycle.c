/* One image and one container from init to cleanup, looking at the disk after every step. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void check_mode(const char *path, mode_t mode)
{
    struct stat status;
    CHECK(lstat(path, &status) == 0 && status.st_uid == 0);
    CHECK((status.st_mode & 07777) == mode);
}

static void check_content(const char *path, const char *expected)
{
    char *text = read_file(path);
    CHECK_STR(text, expected);
    free(text);
}

/* Design document, "Create": what a layer looks like on disk, byte for byte. */
static void check_layout(const char *id, bool has_parent)
{
    const char *home = "storage/overlay2";
    check_mode(store_path("%s/%s", home, id), 0700);
    check_mode(store_path("%s/%s/diff", home, id), 0755);
    check_mode(store_path("%s/%s/work", home, id), 0700);
    check_mode(store_path("%s/%s/merged", home, id), 0700);
    check_mode(store_path("%s/l", home), 0700);
    CHECK(path_exists(store_path("%s/%s/lower", home, id)) == has_parent);
    CHECK(path_exists(store_path("%s/%s/empty", home, id)) == !has_parent);
    char *link = read_file(store_path("%s/%s/link", home, id));
    CHECK(link && strlen(link) == 26 && strspn(link, "0123456789abcdef") == 26);
    char target[512] = "", expected[512];
    snprintf(expected, sizeof expected, "../%s/diff", id);
    CHECK(readlink(store_path("%s/l/%s", home, link), target, sizeof target - 1) > 0);
    CHECK_STR(target, expected);
    free(link);
}

/* Design document, "Unpack layer data": the deleted name is a character device 0:0, the `.wh.` entry itself is skipped. */
static void check_whiteout(void)
{
    struct stat status;
    CHECK(lstat(store_path("storage/overlay2/second/diff/home"), &status) == 0);
    CHECK(S_ISCHR(status.st_mode) && status.st_rdev == makedev(0, 0));
    CHECK(!path_exists(store_path("storage/overlay2/second/diff/.wh.home")));
}

static void check_metadata(void)
{
    static const char *const parts[][2] = { { "WorkDir", "work" }, { "MergedDir", "merged" }, { "UpperDir", "diff" } };
    for (size_t i = 0; i < 3; i++) {
        char *value = metadata("container", parts[i][0]);
        CHECK_STR(value, store_path("storage/overlay2/container/%s", parts[i][1]));
        free(value);
    }
    char *lower = metadata("container", "LowerDir");
    CHECK(lower && strncmp(lower, store_path("storage/overlay2/l/"), strlen(store_path("storage/overlay2/l/"))) == 0);
    CHECK(strchr(lower, ':') && strchr(lower, ':') == strrchr(lower, ':')); /* two parents */
    free(lower);
    CHECK(metadata("image", "LowerDir") == NULL);
}

int main(void)
{
    const char *root = start("lifecycle");
    CHECK(is_mounted(store_path("storage/overlay2"))); /* a private mount of its own */
    check_mode(store_path("storage/overlay2"), 0700);

    make_base("image");
    make_second("second", "image");
    make_rw("container", "second");
    check_layout("image", false);
    check_layout("second", true);
    check_layout("container", true);
    check_whiteout();
    check_metadata();
    CHECK(graphdriver_layer_exists("container") && !graphdriver_layer_exists("stranger"));

    struct stat file;
    char *rootfs = graphdriver_mount_layer("container", NULL);
    CHECK_STR(rootfs, store_path("storage/overlay2/container/merged"));
    CHECK(is_mounted(rootfs));
    check_content(store_path("storage/overlay2/container/merged/index.html"), "<p>second</p>\n");
    check_content(store_path("storage/overlay2/container/merged/etc/hosts"), "127.0.0.1 localhost\n");
    check_content(store_path("storage/overlay2/container/merged/etc/motd"), "welcome\n");
    check_content(store_path("storage/overlay2/container/merged/bin/tool"), "#!/bin/sh\n");
    CHECK(lstat(store_path("storage/overlay2/container/merged/usr/bin/same-tool"), &file) == 0 && file.st_nlink == 2);
    CHECK(!path_exists(store_path("storage/overlay2/container/merged/home")));

    /* Mounting what is mounted gives the same path and no second mount. */
    size_t mounts = count_mounts();
    char *again = graphdriver_mount_layer("container", NULL);
    CHECK_STR(again, rootfs);
    CHECK(count_mounts() == mounts);
    free(again);

    write_file(store_path("storage/overlay2/container/merged/index.html"), "mine\n");
    check_content(store_path("storage/overlay2/container/diff/index.html"), "mine\n");
    check_content(store_path("storage/overlay2/second/diff/index.html"), "<p>second</p>\n");
    uint64_t bytes = 0, inodes = 0;
    CHECK(graphdriver_get_layer_usage("container", &bytes, &inodes) == 0 && bytes > 0 && inodes >= 2);

    struct graphdriver_status *status = graphdriver_get_status();
    CHECK(status);
    CHECK_STR(status->driver_name, "overlay2");
    CHECK_STR(status->backing_fs, "extfs");
    /* Two lines that scripts read; what follows them may change. */
    CHECK(strstr(status->status, "Backing Filesystem: extfs\nSupports d_type: true\n") == status->status);
    free_graphdriver_status(status);

    CHECK(graphdriver_umount_layer("container") == 0 && !is_mounted(rootfs));
    CHECK(graphdriver_umount_layer("container") == 0); /* iSulad unmounts at count 0, too */
    free(rootfs);

    /* What was written is still there after the next mount. */
    rootfs = graphdriver_mount_layer("container", NULL);
    check_content(store_path("storage/overlay2/container/merged/index.html"), "mine\n");
    free(rootfs);

    drop("container");
    drop("second");
    drop("image");
    CHECK(graphdriver_rm_layer("never-was") == 0);
    CHECK(rmdir(store_path("storage/overlay2/l")) == 0); /* no link is left */
    CHECK(graphdriver_cleanup() == 0);
    CHECK(!is_mounted(store_path("storage/overlay2")));
    CHECK(path_exists(root));
    return 0;
}
