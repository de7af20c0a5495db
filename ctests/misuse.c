/* NULL and garbage in every argument, and every call at the wrong time: an error each time, and nothing touched. */
#include "check.h"
#include "layers.h"
#include "store.h"

static struct driver_create_opts no_options;
static struct tar nothing;

/* The call failed, and says why: by errno and by a text. */
#define FAILS(call) (errno = 0, CHECK((call) == -1), CHECK(errno != 0), CHECK(*graphdriver_last_error() != '\0'))
#define FAILS_PTR(call) (errno = 0, CHECK((call) == NULL), CHECK(errno != 0), CHECK(*graphdriver_last_error() != '\0'))

/* Every call that takes a layer id, with one that is no layer id. */
static void bad_id(const char *id)
{
    struct io_read_wrapper content = { &nothing, tar_read, NULL };
    json_map_string_string map = { NULL, NULL, 0 };
    int64_t size = 7;
    uint64_t bytes = 7, inodes = 7;
    FAILS(graphdriver_create_rw(id, NULL, &no_options));
    FAILS(graphdriver_create_ro(id, NULL, &no_options));
    FAILS(graphdriver_rm_layer(id));
    FAILS_PTR(graphdriver_mount_layer(id, NULL));
    FAILS(graphdriver_umount_layer(id));
    CHECK(!graphdriver_layer_exists(id));
    FAILS(graphdriver_apply_diff(id, &content, &size));
    FAILS(graphdriver_unpack_layer(id, &nothing, tar_read, &size));
    FAILS(graphdriver_get_layer_metadata(id, &map));
    FAILS(graphdriver_try_repair_lowers(id, NULL));
    FAILS(graphdriver_get_layer_usage(id, &bytes, &inodes));
    /* Out-parameters are written on success only. */
    CHECK(size == 7 && bytes == 7 && inodes == 7 && map.len == 0 && !map.keys && !map.values);
}

/* The driver does not answer: before init and after cleanup. */
static void not_initialised(void)
{
    bad_id("image");
    FAILS(graphdriver_umount_layer("image"));
    CHECK(errno == ENOTCONN);
    FAILS_PTR(graphdriver_get_status());
    CHECK(errno == ENOTCONN);
    FAILS(graphdriver_cleanup());
}

static void bad_init(const char *root)
{
    char *no_equals[] = { "overlay2.size" }, *unknown[] = { "overlay2.colour=red" }, *foreign[] = { "zfs.fsname=x" };
    char *hole[] = { NULL }, *bad_bool[] = { "overlay2.skip_mount_home=perhaps" }, *bad_size[] = { "overlay2.size=-1" };
    char *empty[] = { "" }, *bytes[] = { "\xff\xfe=\x80" };
    char **options[] = { no_equals, unknown, foreign, hole, bad_bool, bad_size, empty, bytes };
    FAILS(graphdriver_init(NULL, root, NULL, 0));
    FAILS(graphdriver_init("overlay2", NULL, NULL, 0));
    FAILS(graphdriver_init("overlay2", "", NULL, 0));
    FAILS(graphdriver_init("overlay2", root, NULL, 1));
    FAILS(graphdriver_init_at(NULL, root, NULL, 0));
    FAILS(graphdriver_init_at("overlay2", NULL, NULL, 0));
    FAILS(graphdriver_init_at("overlay2", root, NULL, 1));
    static const char *const names[] = { "", "OVERLAY2", "overlay3", "btrfs", "../overlay2", "\xff" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        FAILS(graphdriver_init(names[i], root, NULL, 0));
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        FAILS(graphdriver_init("overlay2", root, options[i], 1));
    char *long_root = malloc(70000);
    CHECK(long_root);
    memset(long_root, 'r', 70000);
    long_root[0] = '/';
    long_root[69999] = '\0';
    FAILS(graphdriver_init("overlay2", long_root, NULL, 0));
    free(long_root);
}

static void bad_ids(void)
{
    char long_id[300];
    memset(long_id, 'a', sizeof long_id);
    long_id[256] = '\0';
    const char *const ids[] = {
        NULL, "", ".", "..", "l", "RO", "backingFsBlockDev", "../x", "a/b", "/etc", "a:b", "a,b", "a\\b", "a b", "a\nb",
        ".hidden", "-rf", "_x", "caf\xc3\xa9", "\xff\xfe", "%s%n", long_id,
    };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        bad_id(ids[i]);
    for (size_t i = 1; i < sizeof ids / sizeof *ids; i++)
        CHECK(graphdriver_cancel(ids[i]) <= 0); /* NULL means all; some are refused by one driver only */
    /* As a parent: NULL and "" mean none, all others are refused and make nothing. */
    for (size_t i = 2; i < sizeof ids / sizeof *ids; i++) {
        FAILS(graphdriver_create_rw("child", ids[i], &no_options));
        FAILS(graphdriver_create_ro("child", ids[i], &no_options));
        CHECK(!graphdriver_layer_exists("child"));
    }
    FAILS(graphdriver_create_rw("child", "no-such-parent", &no_options));
    CHECK(errno == ENOENT);
    long_id[255] = '\0';
    CHECK(graphdriver_create_rw(long_id, "", &no_options) == 0 && graphdriver_rm_layer(long_id) == 0);
}

static void bad_options(void)
{
    char *colour[] = { "colour" }, *size[] = { "size" }, *red[] = { "red" }, *hole[] = { NULL }, *minus[] = { "-5" };
    json_map_string_string maps[] = {
        { colour, red, 1 }, { size, minus, 1 }, { hole, red, 1 }, { size, hole, 1 }, { NULL, NULL, 3 }, { size, NULL, 1 },
    };
    FAILS(graphdriver_create_rw("child", NULL, NULL));
    FAILS(graphdriver_create_ro("child", NULL, NULL));
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        struct driver_create_opts options = { NULL, &maps[i] };
        FAILS(graphdriver_create_rw("child", NULL, &options));
        FAILS(graphdriver_create_ro("child", NULL, &options));
        CHECK(!graphdriver_layer_exists("child"));
    }
    struct driver_mount_opts lies = { NULL, NULL, 2 }, holes = { NULL, hole, 1 };
    FAILS_PTR(graphdriver_mount_layer("image", &lies));
    FAILS_PTR(graphdriver_mount_layer("image", &holes));
    char *words[] = { "no-such-option-of-overlay=1" };
    struct driver_mount_opts unknown = { NULL, words, 1 };
    FAILS_PTR(graphdriver_mount_layer("image", &unknown));
    CHECK(!is_mounted(store_path("storage/overlay2/image/merged")));
}

static ssize_t fails(void *context, void *buffer, size_t length)
{
    (void)context, (void)buffer, (void)length;
    errno = EIO;
    return -1;
}

static ssize_t lies(void *context, void *buffer, size_t length)
{
    (void)context, (void)buffer;
    return (ssize_t)length + 1; /* more than there was room for */
}

static void bad_content(void)
{
    struct io_read_wrapper no_read = { &nothing, NULL, NULL }, failing = { NULL, fails, NULL }, lying = { NULL, lies, NULL };
    int64_t size = 7;
    CHECK(graphdriver_create_ro("target", NULL, &no_options) == 0);
    FAILS(graphdriver_apply_diff("target", NULL, &size));
    FAILS(graphdriver_apply_diff("target", &no_read, &size));
    FAILS(graphdriver_apply_diff("target", &failing, &size));
    FAILS(graphdriver_apply_diff("target", &lying, &size));
    FAILS(graphdriver_unpack_layer("target", NULL, NULL, &size));
    FAILS(graphdriver_unpack_layer("target", NULL, fails, &size));
    static const char *const archives[] = { "this is not an archive", "\x1f\x8b\x08garbage", "\3757zXZ", "BZh9", "(\xb5/\xfd" };
    for (size_t i = 0; i < sizeof archives / sizeof *archives; i++) {
        struct tar garbage = { (char *)archives[i], strlen(archives[i]), 0 };
        struct io_read_wrapper content = { &garbage, tar_read, NULL };
        FAILS(graphdriver_apply_diff("target", &content, &size));
    }
    struct tar escape = { 0 };
    tar_file(&escape, "../../../outside", 0644, "x");
    tar_end(&escape);
    struct io_read_wrapper content = { &escape, tar_read, NULL };
    graphdriver_apply_diff("target", &content, NULL); /* refused or confined: both are right */
    CHECK(!path_exists(store_path("storage/outside")) && !path_exists(store_path("outside")));
    CHECK(!path_exists(store_path("storage/overlay2/outside")));
    tar_free(&escape);
    CHECK(size == 7);
    CHECK(graphdriver_rm_layer("target") == 0);
    FAILS(graphdriver_apply_diff("no-such-layer", &content, &size));
}

static void bad_out_parameters(void)
{
    uint64_t bytes, inodes;
    char *keys[] = { NULL };
    json_map_string_string lying = { NULL, NULL, 4 }, halved = { keys, NULL, 1 };
    FAILS(graphdriver_get_layer_metadata("image", NULL));
    FAILS(graphdriver_get_layer_metadata("image", &lying));
    FAILS(graphdriver_get_layer_metadata("image", &halved));
    CHECK(graphdriver_get_layer_usage("image", NULL, &inodes) == 0 && inodes > 0);
    CHECK(graphdriver_get_layer_usage("image", &bytes, NULL) == 0 && bytes > 0);
    json_map_string_string map = { NULL, NULL, 0 };
    FAILS(graphdriver_get_layer_metadata("no-such-layer", &map));
    FAILS(graphdriver_get_layer_usage("no-such-layer", &bytes, &inodes));
    FAILS_PTR(graphdriver_mount_layer("no-such-layer", NULL));
    CHECK(!map.keys && !map.values && map.len == 0);
    free_graphdriver_status(NULL);
    free_graphdriver_mount_opts(NULL);
    free_driver_create_opts(NULL);
    free_driver_mount_opts(NULL);
    graphdriver_free_map(NULL);
    graphdriver_set_log_callback(NULL, NULL);
    graphdriver_set_error_callback(NULL, NULL);
}

int main(void)
{
    const char *root = store_make("misuse");
    tar_end(&nothing);
    CHECK_STR(graphdriver_last_error(), "");
    not_initialised();
    bad_init(root);
    not_initialised(); /* a failed init selects nothing */

    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    make_base("image");
    bad_ids();
    bad_options();
    bad_content();
    bad_out_parameters();
    bad_init(root); /* nor does it take the driver away that is there */
    CHECK(graphdriver_layer_exists("image"));
    char *path = graphdriver_mount_layer("image", NULL);
    CHECK(path);
    free(path);
    drop("image");
    CHECK(graphdriver_cleanup() == 0);
    not_initialised();
    tar_free(&nothing);
    return 0;
}
