/* The errno of every function as the header states them, one by one; and 0 after every answer, whatever it was before. */
#define _GNU_SOURCE
#include "check.h"
#include "layers.h"
#include "store.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWERS(call) (errno = ENOENT, CHECK(call), CHECK(errno == 0))
#define FAILS(call, expected) (errno = 0, check_failure((call), (expected), #call, __LINE__))
#define UNTOUCHED(call) (errno = EXDEV, (call), CHECK(errno == EXDEV))

static void check_failure(bool failed, int expected, const char *call, int line)
{
    if (failed && errno == expected && *graphdriver_last_error())
        return;
    fprintf(stderr, "wanted errno %d (%s)\n", expected, strerror(expected));
    check_failed(__FILE__, line, call);
}

static struct driver_create_opts none;
static char *size_key[] = { "size" }, *size_value[] = { "1G" };
static json_map_string_string size_map = { size_key, size_value, 1 };
static struct driver_create_opts sized = { NULL, &size_map };

static void not_initialised(void)
{
    struct tar tar = { 0 };
    json_map_string_string map = { NULL, NULL, 0 };
    FAILS(graphdriver_create_rw("a", NULL, &none) == -1, ENOTCONN);
    FAILS(graphdriver_create_ro("a", NULL, &none) == -1, ENOTCONN);
    FAILS(graphdriver_rm_layer("a") == -1, ENOTCONN);
    FAILS(!graphdriver_mount_layer("a", NULL), ENOTCONN);
    FAILS(graphdriver_umount_layer("a") == -1, ENOTCONN);
    FAILS(!graphdriver_layer_exists("a"), ENOTCONN);
    FAILS(graphdriver_unpack_layer("a", &tar, tar_read, NULL) == -1, ENOTCONN);
    FAILS(graphdriver_get_layer_metadata("a", &map) == -1, ENOTCONN);
    FAILS(graphdriver_get_layer_usage("a", NULL, NULL) == -1, ENOTCONN);
    FAILS(graphdriver_try_repair_lowers("a", NULL) == -1, ENOTCONN);
    FAILS(!graphdriver_get_status(), ENOTCONN);
    FAILS(graphdriver_cleanup() == -1, ENOTCONN);
}

static void init(const char *root)
{
    char *unknown[] = { "overlay2.colour=red" };
    FAILS(graphdriver_init(NULL, root, NULL, 0) == -1, EINVAL);
    FAILS(graphdriver_init("overlay3", root, NULL, 0) == -1, EINVAL);
    FAILS(graphdriver_init("overlay2", NULL, NULL, 0) == -1, EINVAL);
    FAILS(graphdriver_init("overlay2", "relative", NULL, 0) == -1, EINVAL);
    FAILS(graphdriver_init("overlay2", root, NULL, 1) == -1, EINVAL);
    FAILS(graphdriver_init("overlay2", root, unknown, 1) == -1, EINVAL);
    FAILS(graphdriver_init_at("overlay2", NULL, NULL, 0) == -1, EINVAL);
    /* An overlay cannot be the upper layer of another. */
    char how[2000];
    static const char *const dirs[] = { "lower", "upper", "work", "overlay" };
    for (int i = 0; i < 4; i++)
        CHECK(mkdir(store_path("%s", dirs[i]), 0700) == 0);
    snprintf(how, sizeof how, "lowerdir=%s,upperdir=%s,workdir=%s", store_path("lower"), store_path("upper"), store_path("work"));
    CHECK(mount("none", store_path("overlay"), "overlay", 0, how) == 0);
    FAILS(graphdriver_init_at("overlay2", store_path("overlay"), NULL, 0) == -1, EOPNOTSUPP);
    CHECK(umount(store_path("overlay")) == 0);
    ANSWERS(graphdriver_init("overlay2", root, NULL, 0) == 0);
}

static void create(void)
{
    ANSWERS(graphdriver_create_ro("bottom", NULL, &none) == 0);
    ANSWERS(graphdriver_create_ro("top", "bottom", &none) == 0);
    ANSWERS(graphdriver_create_rw("container", "top", &none) == 0);
    FAILS(graphdriver_create_rw("a/b", NULL, &none) == -1, EINVAL);
    FAILS(graphdriver_create_rw("new", "a/b", &none) == -1, EINVAL);
    FAILS(graphdriver_create_rw("new", NULL, NULL) == -1, EINVAL);
    FAILS(graphdriver_create_ro("new", NULL, NULL) == -1, EINVAL);
    FAILS(graphdriver_create_ro("new", NULL, &sized) == -1, EINVAL);
    FAILS(graphdriver_create_rw("new", "nobody", &none) == -1, ENOENT);
    FAILS(graphdriver_create_ro("new", "nobody", &none) == -1, ENOENT);
    FAILS(graphdriver_create_rw("bottom", NULL, &none) == -1, EEXIST); /* it has children */
    FAILS(graphdriver_create_ro("bottom", NULL, &none) == -1, EEXIST);
    FAILS(graphdriver_create_rw("new", "top", &sized) == -1, EOPNOTSUPP); /* there is no quota */
}

static void too_deep(void)
{
    char id[32], parent[32] = "";
    for (int i = 0;; i++) {
        snprintf(id, sizeof id, "deep-%d", i);
        if (graphdriver_create_ro(id, parent, &none) != 0)
            break;
        CHECK(i < 600);
        strcpy(parent, id);
    }
    FAILS(graphdriver_create_ro(id, parent, &none) == -1, E2BIG);
    /* One that is written to is no lower of its own mount: there is room for just that one. */
    CHECK(graphdriver_create_rw(id, parent, &none) == 0);
    FAILS(graphdriver_create_rw("deeper", id, &none) == -1, E2BIG);
}

static ssize_t fails_with(void *errno_to_set, void *buffer, size_t length)
{
    (void)buffer, (void)length;
    errno = *(int *)errno_to_set;
    return -1;
}

static ssize_t says_too_much(void *context, void *buffer, size_t length)
{
    (void)context, (void)buffer;
    return (ssize_t)length + 1;
}

static void bad(struct tar *tar, int expected, int line)
{
    tar_end(tar);
    int result = graphdriver_unpack_layer("top", tar, tar_read, NULL);
    check_failure(result == -1, expected, "graphdriver_unpack_layer", line);
    tar_free(tar);
    *tar = (struct tar){ 0 };
}

#define BAD(expected) bad(&tar, (expected), __LINE__)

static void unpack(void)
{
    static const unsigned char acl[] = { 2, 0, 0, 0, 1, 0, 6, 0, 255 }, capability[] = { 1, 0, 0, 2, 0 };
    struct tar tar = { 0 }, nothing = { 0 };
    struct io_read_wrapper content = { &nothing, NULL, NULL };
    char name[301];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    tar_end(&nothing);
    FAILS(graphdriver_apply_diff(NULL, &content, NULL) == -1, EINVAL);
    FAILS(graphdriver_apply_diff("top", NULL, NULL) == -1, EINVAL);
    FAILS(graphdriver_apply_diff("top", &content, NULL) == -1, EINVAL);
    content.read = tar_read;
    FAILS(graphdriver_apply_diff("nobody", &content, NULL) == -1, ENOENT);
    FAILS(graphdriver_unpack_layer("top", NULL, NULL, NULL) == -1, EINVAL);
    FAILS(graphdriver_unpack_layer("top", NULL, says_too_much, NULL) == -1, EIO);
    static int errors[] = { 0, EIO, ECONNRESET, ETIMEDOUT, ENOENT };
    FAILS(graphdriver_unpack_layer("top", &errors[0], fails_with, NULL) == -1, EIO);
    for (size_t i = 1; i < sizeof errors / sizeof *errors; i++)
        FAILS(graphdriver_unpack_layer("top", &errors[i], fails_with, NULL) == -1, errors[i]);

    tar_symlink(&tar, "l", "");
    BAD(EBADMSG);
    tar_record(&tar, "linkpath", "a\0b", 3);
    tar_symlink(&tar, "l", "x");
    BAD(EBADMSG);
    tar_record(&tar, "path", "a\0b", 3);
    tar_file(&tar, "x", 0644, "");
    BAD(EBADMSG);
    tar_record(&tar, "SCHILY.xattr.system.posix_acl_access", acl, sizeof acl);
    tar_file(&tar, "x", 0644, "");
    BAD(EBADMSG);
    tar_record(&tar, "SCHILY.xattr.security.capability", capability, sizeof capability);
    tar_file(&tar, "x", 0644, "");
    BAD(EBADMSG);
    tar_file(&tar, "a", 0644, "");
    tar_file(&tar, "a/b", 0644, "");
    BAD(EBADMSG);
    tar_symlink(&tar, "loop", "loop");
    tar_file(&tar, "loop/b", 0644, "");
    BAD(EBADMSG);
    tar_hardlink(&tar, "a", "nothing");
    BAD(EBADMSG);
    tar_file(&tar, "..", 0644, "");
    BAD(EBADMSG);
    tar_record(&tar, "size", "many", 4);
    tar_file(&tar, "x", 0644, "");
    BAD(EBADMSG);
    tar_record(&tar, "path", name, sizeof name - 1);
    tar_file(&tar, "x", 0644, "");
    BAD(ENAMETOOLONG);
    char *long_path = malloc(5000);
    CHECK(long_path);
    memset(long_path, '/', 5000);
    tar_record(&tar, "path", long_path, 5000);
    tar_file(&tar, "x", 0644, "");
    BAD(E2BIG);
    free(long_path);
    ANSWERS(graphdriver_unpack_layer("top", &nothing, tar_read, NULL) == 0);

    /* A layer that held something, and what failed in it: no layer any more. */
    make_base("broken");
    tar_file(&tar, "a", 0644, "");
    tar_file(&tar, "a/b", 0644, "");
    tar_end(&tar);
    FAILS(graphdriver_unpack_layer("broken", &tar, tar_read, NULL) == -1, EBADMSG);
    FAILS(graphdriver_unpack_layer("broken", &nothing, tar_read, NULL) == -1, EUCLEAN);
    FAILS(!graphdriver_mount_layer("broken", NULL), EUCLEAN);
    store_leaves_damage();
    tar_free(&tar);
    tar_free(&nothing);
}

static void the_others(void)
{
    json_map_string_string map = { NULL, NULL, 0 };
    uint64_t bytes;
    char *path;
    FAILS(!graphdriver_mount_layer("a/b", NULL), EINVAL);
    struct driver_mount_opts lies = { NULL, NULL, 2 };
    FAILS(!graphdriver_mount_layer("container", &lies), EINVAL);
    FAILS(!graphdriver_mount_layer("nobody", NULL), ENOENT);
    ANSWERS((path = graphdriver_mount_layer("container", NULL)));
    free(path);
    FAILS(graphdriver_cleanup() == -1, EBUSY);
    FAILS(graphdriver_umount_layer("a/b") == -1, EINVAL);
    ANSWERS(graphdriver_umount_layer("nobody") == 0);
    ANSWERS(graphdriver_umount_layer("container") == 0);

    FAILS(!graphdriver_layer_exists("a/b"), EINVAL);
    FAILS(!graphdriver_layer_exists(NULL), EINVAL);
    ANSWERS(!graphdriver_layer_exists("nobody"));
    ANSWERS(graphdriver_layer_exists("container"));

    FAILS(graphdriver_get_layer_metadata("container", NULL) == -1, EINVAL);
    FAILS(graphdriver_get_layer_metadata("a/b", &map) == -1, EINVAL);
    FAILS(graphdriver_get_layer_metadata("nobody", &map) == -1, ENOENT);
    ANSWERS(graphdriver_get_layer_metadata("container", &map) == 0);
    UNTOUCHED(graphdriver_clear_map(&map));
    FAILS(graphdriver_get_layer_usage("a/b", &bytes, NULL) == -1, EINVAL);
    FAILS(graphdriver_get_layer_usage("nobody", &bytes, NULL) == -1, ENOENT);
    ANSWERS(graphdriver_get_layer_usage("container", &bytes, NULL) == 0);
    FAILS(graphdriver_try_repair_lowers("a/b", NULL) == -1, EINVAL);
    FAILS(graphdriver_try_repair_lowers("container", "a/b") == -1, EINVAL);
    ANSWERS(graphdriver_try_repair_lowers("container", "top") == 0);
    ANSWERS(graphdriver_try_repair_lowers("nobody", NULL) == 0);
    struct graphdriver_status *status;
    ANSWERS((status = graphdriver_get_status()));
    UNTOUCHED(free_graphdriver_status(status));
    UNTOUCHED(graphdriver_free_map(NULL));
    UNTOUCHED(free_driver_create_opts(calloc(1, sizeof none)));
    UNTOUCHED(free_graphdriver_mount_opts(calloc(1, sizeof lies)));
    UNTOUCHED(free_driver_mount_opts(NULL));
    UNTOUCHED(graphdriver_set_log_callback(NULL, NULL));
    UNTOUCHED(graphdriver_set_error_callback(NULL, NULL));
    UNTOUCHED((void)graphdriver_last_error());
    UNTOUCHED((void)graphdriver_version());
    UNTOUCHED((void)graphdriver_abi_version());

    FAILS(graphdriver_rm_layer("a/b") == -1, EINVAL);
    ANSWERS(graphdriver_rm_layer("container") == 0);
    ANSWERS(graphdriver_rm_layer("nobody") == 0);
}

/* The parent of a layer, lost together with the layer's link to it. */
static void damage(void)
{
    json_map_string_string map = { NULL, NULL, 0 };
    ANSWERS(graphdriver_create_rw("orphan", "top", &none) == 0);
    CHECK(truncate(store_path("storage/overlay2/orphan/lower"), 0) == 0);
    FAILS(!graphdriver_mount_layer("orphan", NULL), EUCLEAN);
    ANSWERS(graphdriver_get_layer_metadata("orphan", &map) == 0); /* what is known: who gets none may delete the layer */
    CHECK(map.len == 3);
    graphdriver_clear_map(&map);
    FAILS(graphdriver_try_repair_lowers("orphan", "nobody") == -1, ENOENT);
    ANSWERS(graphdriver_try_repair_lowers("orphan", "top") == 0);
    ANSWERS(graphdriver_get_layer_metadata("orphan", &map) == 0);
    graphdriver_clear_map(&map);
}

static ssize_t call_back(void *tar, void *buffer, size_t length)
{
    FAILS(graphdriver_cleanup() == -1, EBUSY);
    FAILS(graphdriver_init("overlay2", store_path("."), NULL, 0) == -1, EBUSY);
    return tar_read(tar, buffer, length);
}

int main(void)
{
    const char *root = store_make("errnos");
    not_initialised();
    init(root);
    create();
    too_deep();
    unpack();
    the_others();
    damage();
    struct tar tar = { 0 };
    tar_end(&tar);
    ANSWERS(graphdriver_unpack_layer("top", &tar, call_back, NULL) == 0);
    tar_free(&tar);
    ANSWERS(graphdriver_cleanup() == 0);
    not_initialised();
    return 0;
}
