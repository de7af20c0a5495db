#define _GNU_SOURCE
#include "layers.h"
#include "check.h"
#include "store.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

const char *start(const char *test)
{
    const char *root = store_make(test);
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    return root;
}

void make_layer(const char *id, const char *parent, struct tar *tar)
{
    struct driver_create_opts options = { NULL, NULL };
    struct io_read_wrapper content = { .context = tar, .read = tar_read };
    int64_t size = -1;
    CHECK(graphdriver_create_ro(id, parent, &options) == 0);
    CHECK(graphdriver_apply_diff(id, &content, &size) == 0);
    CHECK(size >= 0);
    tar_free(tar);
}

void make_base(const char *id)
{
    struct tar tar = { 0 };
    tar_dir(&tar, "etc/", 0755);
    tar_file(&tar, "etc/hosts", 0644, "127.0.0.1 localhost\n");
    tar_dir(&tar, "home/", 0755);
    tar_dir(&tar, "home/user/", 0700);
    tar_file(&tar, "home/user/notes", 0600, "remember\n");
    tar_file(&tar, "index.html", 0644, "<p>first</p>\n");
    tar_dir(&tar, "usr/", 0755);
    tar_dir(&tar, "usr/bin/", 0755);
    tar_file(&tar, "usr/bin/tool", 0755, "#!/bin/sh\n");
    tar_hardlink(&tar, "usr/bin/same-tool", "usr/bin/tool");
    tar_symlink(&tar, "bin", "usr/bin");
    tar_end(&tar);
    make_layer(id, NULL, &tar);
}

void make_second(const char *id, const char *parent)
{
    struct tar tar = { 0 };
    tar_file(&tar, ".wh.home", 0600, "");
    tar_file(&tar, "index.html", 0644, "<p>second</p>\n");
    tar_dir(&tar, "etc/", 0755);
    tar_file(&tar, "etc/motd", 0644, "welcome\n");
    tar_end(&tar);
    make_layer(id, parent, &tar);
}

void make_rw(const char *id, const char *parent)
{
    struct driver_create_opts options = { NULL, NULL };
    CHECK(graphdriver_create_rw(id, parent, &options) == 0);
}

void drop(const char *id)
{
    CHECK(graphdriver_umount_layer(id) == 0);
    CHECK(graphdriver_rm_layer(id) == 0);
    CHECK(!graphdriver_layer_exists(id));
}

void whole_life(io_read_func_t read)
{
    struct driver_create_opts none = { NULL, NULL };
    struct tar tar = { 0 };
    tar_dir(&tar, "a/", 0755);
    for (int i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof name, "a/%d", i);
        tar_file(&tar, name, 0644, "content\n");
    }
    tar_end(&tar);
    int64_t size = 0;
    struct io_read_wrapper content = { .context = &tar, .read = read };
    CHECK(graphdriver_create_ro("image", NULL, &none) == 0);
    CHECK(graphdriver_apply_diff("image", &content, &size) == 0 && size == 40 * 8);
    make_rw("container", "image");
    char *path = graphdriver_mount_layer("container", NULL);
    CHECK(path);
    char *text = read_file(store_path("storage/overlay2/container/merged/a/39"));
    CHECK_STR(text, "content\n");
    free(text);
    free(path);
    drop("container");
    drop("image");
    tar_free(&tar);
}

char *metadata(const char *id, const char *key)
{
    json_map_string_string *map = calloc(1, sizeof *map);
    char *value = NULL;
    CHECK(map && graphdriver_get_layer_metadata(id, map) == 0);
    for (size_t i = 0; i < map->len; i++) {
        if (strcmp(map->keys[i], key) == 0)
            CHECK((value = strdup(map->values[i])));
    }
    graphdriver_free_map(map);
    return value;
}

bool kernel_stacks_one_by_one(void)
{
    const char *lowers[] = { store_path("kernel-a"), store_path("kernel-b") };
    long context = syscall(SYS_fsopen, "overlay", 1 /* FSOPEN_CLOEXEC */);
    bool can = context >= 0;
    for (int i = 0; i < 2; i++) {
        CHECK(mkdir(lowers[i], 0700) == 0);
        can = can && syscall(SYS_fsconfig, context, 1 /* FSCONFIG_SET_STRING */, "lowerdir+", lowers[i], 0) == 0;
    }
    /* Before Linux 6.5 overlayfs looks at its options at the end only. */
    can = can && syscall(SYS_fsconfig, context, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0) == 0;
    if (context >= 0)
        close((int)context);
    printf("this kernel takes lowers %s\n", can ? "one by one" : "in one page of options");
    return can;
}
