/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * Uses every function of driver.h as iSulad's layer store does, against the library: startup with mounts of a previous
 * life, create, unpack and re-read, mount, umount at count 0, repair, usage, deletion, shutdown. Compiled as C99 and as
 * C++11. Needs root; has its own filesystem and mount namespace (ctests/support/store.h).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "driver.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "check.h"
#include "image.h"

#ifdef __cplusplus
extern "C" {
#endif
#include "../support/store.h"
#include "../support/tar.h"
#ifdef __cplusplus
}
#endif

/* Ids as iSulad makes them: 64 hexadecimal digits. */
#define BASE "1111111111111111111111111111111111111111111111111111111111111111"
#define SECOND "2222222222222222222222222222222222222222222222222222222222222222"
#define CONTAINER "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define OTHER "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
#define NEVER "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"

#define NO_QUOTA "--storage-opt is supported only for overlay over xfs or ext4 with 'pquota' mount option"

static pthread_mutex_t errors_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t errors_logged;

static void count_errors(char level, const char *line)
{
    pthread_mutex_lock(&errors_lock);
    CHECK(line[0] != '\0' && strchr(line, '\n') == NULL);
    errors_logged += level == 'E';
    pthread_mutex_unlock(&errors_lock);
}

static void forget_message(void)
{
    free(g_isulad_errmsg);
    g_isulad_errmsg = NULL;
}

/* ---- as the storage module ---- */

static char *copy(const char *text)
{
    char *result = strdup(text);
    CHECK(result != NULL);
    return result;
}

/* Initialises, and destroys the options at once, as the daemon does. */
static int start_driver(const char *name, const char *option)
{
    struct storage_module_init_options *opts = (struct storage_module_init_options *)calloc(1, sizeof(*opts));
    int ret;

    CHECK(opts != NULL);
    opts->storage_run_root = copy(store_path("run"));
    opts->storage_root = copy(store_path("storage"));
    opts->driver_name = copy(name);
    opts->driver_opts = (char **)calloc(1, sizeof(char *));
    CHECK(opts->driver_opts != NULL);
    opts->driver_opts[0] = copy(option);
    opts->driver_opts_len = 1;

    ret = graphdriver_init(opts);

    memset(opts->storage_root, '!', strlen(opts->storage_root));
    memset(opts->driver_name, '!', strlen(opts->driver_name));
    memset(opts->driver_opts[0], '!', strlen(opts->driver_opts[0]));
    free(opts->storage_run_root);
    free(opts->storage_root);
    free(opts->driver_name);
    free(opts->driver_opts[0]);
    free(opts->driver_opts);
    free(opts);
    return ret;
}

static int start(void)
{
    return start_driver("overlay", "overlay2.override_kernel_check=true");
}

/* ---- as the layer store ---- */

/* The fd comes first: whoever looks into the context finds it there. */
struct archive {
    int fd;
    size_t handed_out;
};

static ssize_t archive_read(void *context, void *buf, size_t len)
{
    struct archive *archive = (struct archive *)context;
    ssize_t got;

    do {
        got = read(archive->fd, buf, len);
    } while (got < 0 && errno == EINTR);
    if (got > 0) {
        archive->handed_out += (size_t)got;
    }
    return got;
}

static int archive_close(void *context, char **err)
{
    (void)context;
    (void)err;
    fprintf(stderr, "the driver closed the layer's data\n");
    abort();
}

static ssize_t broken_read(void *context, void *buf, size_t len)
{
    (void)context;
    (void)buf;
    (void)len;
    errno = EIO;
    return -1;
}

/* Writes the archive to a file, as a download does. */
static int download(const struct tar *tar)
{
    int fd = open(store_path("download.tar"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    CHECK(fd >= 0);
    CHECK(write(fd, tar->data, tar->size) == (ssize_t)tar->size);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

static int unpack(const char *id, const struct tar *tar)
{
    struct archive archive = { download(tar), 0 };
    struct io_read_wrapper content;
    char *again = (char *)malloc(tar->size);
    int ret;

    memset(&content, 0xff, sizeof(content)); /* a last member that the library must not look at */
    content.context = &archive;
    content.read = archive_read;
    content.close = archive_close;
    ret = graphdriver_apply_diff(id, &content);

    /* The layer store goes back and reads it all again for tar-split. */
    CHECK(ret != 0 || archive.handed_out > 0);
    CHECK(lseek(archive.fd, 0, SEEK_SET) == 0);
    CHECK(again != NULL && read(archive.fd, again, tar->size) == (ssize_t)tar->size);
    CHECK(memcmp(again, tar->data, tar->size) == 0);
    CHECK(close(archive.fd) == 0);
    free(again);
    return ret;
}

/* Creates a read-only layer with the layer store's usual options: a map without entries, no label. */
static void make_image_layer(const char *id, const char *parent, struct tar *tar)
{
    struct driver_create_opts opts = { NULL, NULL };

    opts.storage_opt = (json_map_string_string *)calloc(1, sizeof(json_map_string_string));
    CHECK(opts.storage_opt != NULL);
    CHECK(graphdriver_create_ro(id, parent, &opts) == 0);
    CHECK(unpack(id, tar) == 0);
    free_json_map_string_string(opts.storage_opt);
    tar_free(tar);
}

static void make_image(void)
{
    struct tar base = { NULL, 0, 0 };
    struct tar second = { NULL, 0, 0 };

    tar_dir(&base, "./etc/", 0755);
    tar_file(&base, "./etc/group", 0644, "root:x:0:\n");
    tar_dir(&base, "./home/", 0755);
    tar_file(&base, "./home/notes", 0600, "remember\n");
    tar_symlink(&base, "./link", "etc");
    tar_end(&base);
    make_image_layer(BASE, NULL, &base);

    tar_file(&second, "etc/group", 0644, "root:x:0:\nwheel:x:10:\n");
    tar_file(&second, ".wh.home", 0600, "");
    tar_end(&second);
    make_image_layer(SECOND, BASE, &second);
}

static void make_container(const char *id)
{
    struct driver_create_opts *opts = (struct driver_create_opts *)calloc(1, sizeof(*opts));

    CHECK(opts != NULL);
    CHECK(graphdriver_create_rw(id, SECOND, opts) == 0);
    free_driver_create_opts(opts);
}

/* Mounts with the layer store's usual options, and looks the mount point up first, as it does. */
static void mount_container(const char *id)
{
    container_inspect_graph_driver *inspect = graphdriver_get_metadata(id);
    struct driver_mount_opts *opts = (struct driver_mount_opts *)calloc(1, sizeof(*opts));
    char *path;

    CHECK(inspect != NULL && opts != NULL);
    path = graphdriver_mount_layer(id, opts);
    CHECK_STR(path, inspect->data->merged_dir);
    CHECK(is_mounted(path));
    free(path);
    free_graphdriver_mount_opts(opts);
    free_container_inspect_graph_driver(inspect);
}

/* ---- the tests ---- */

static const char *layer_path(const char *id, const char *below)
{
    return store_path("storage/overlay/%s%s", id, below);
}

static void expect_file(const char *path, const char *text)
{
    char *found = read_file(path);

    CHECK_STR(found, text);
    free(found);
}

/* What each of the fifteen answers while no driver is there: before init, and after cleanup. */
static void test_no_driver(void)
{
    struct driver_create_opts create = { NULL, NULL };
    struct driver_mount_opts mount = { NULL, NULL, 0 };
    struct io_read_wrapper content;
    imagetool_fs_info info;

    memset(&content, 0, sizeof(content));
    memset(&info, 0, sizeof(info));
    content.read = broken_read;
    CHECK(graphdriver_create_rw(BASE, NULL, &create) == -1);
    CHECK(graphdriver_create_ro(BASE, NULL, &create) == -1);
    CHECK(graphdriver_rm_layer(BASE) == -1);
    CHECK(graphdriver_mount_layer(BASE, &mount) == NULL);
    CHECK(graphdriver_umount_layer(BASE) == -1);
    CHECK(!graphdriver_layer_exists(BASE));
    CHECK(graphdriver_apply_diff(BASE, &content) == -1);
    CHECK(graphdriver_get_metadata(BASE) == NULL);
    CHECK(graphdriver_try_repair_lowers(BASE, NULL) == -1);
    CHECK(graphdriver_get_layer_fs_info(BASE, &info) == -1 && info.image_filesystems == NULL);
    image_check_no_status();
    CHECK(graphdriver_cleanup() == -1);
}

static void test_bad_arguments(void)
{
    struct driver_create_opts create = { NULL, NULL };
    struct io_read_wrapper content;
    imagetool_fs_info info;

    memset(&content, 0, sizeof(content));
    memset(&info, 0, sizeof(info));
    CHECK(graphdriver_init(NULL) == -1);
    CHECK(start_driver("zfs", "overlay2.override_kernel_check=true") == -1);
    CHECK(start_driver("overlay", "overlay2.no_such_option=1") == -1);
    CHECK(graphdriver_create_rw(NULL, NULL, &create) == -1);
    CHECK(graphdriver_create_rw(NEVER, NULL, NULL) == -1);
    CHECK(graphdriver_create_ro(NULL, NULL, &create) == -1);
    CHECK(graphdriver_create_ro(NEVER, NULL, NULL) == -1);
    CHECK(graphdriver_create_ro(NEVER, OTHER, &create) == -1);
    CHECK(graphdriver_rm_layer(NULL) == -1);
    CHECK(graphdriver_rm_layer("../storage") == -1);
    CHECK(graphdriver_rm_layer("l") == -1);
    CHECK(graphdriver_mount_layer(NULL, NULL) == NULL);
    CHECK(graphdriver_mount_layer(NEVER, NULL) == NULL);
    CHECK(graphdriver_umount_layer(NULL) == -1);
    CHECK(!graphdriver_layer_exists(NULL));
    CHECK(graphdriver_apply_diff(NULL, &content) == -1);
    CHECK(graphdriver_apply_diff(BASE, NULL) == -1);
    CHECK(graphdriver_apply_diff(BASE, &content) == -1); /* nothing to read with */
    CHECK(graphdriver_get_metadata(NULL) == NULL);
    CHECK(graphdriver_get_metadata(NEVER) == NULL);
    CHECK(graphdriver_try_repair_lowers(NULL, NULL) == -1);
    CHECK(graphdriver_get_layer_fs_info(NULL, &info) == -1);
    CHECK(graphdriver_get_layer_fs_info(BASE, NULL) == -1);
    CHECK(info.image_filesystems == NULL && info.image_filesystems_len == 0);
    CHECK(path_exists(store_path("storage/overlay/l")));
    free_graphdriver_status(NULL);
    free_graphdriver_mount_opts(NULL);
    free_driver_mount_opts(NULL);
    free_driver_create_opts(NULL);
}

static void test_image(void)
{
    struct stat st;

    make_image();
    CHECK(graphdriver_layer_exists(BASE) && graphdriver_layer_exists(SECOND));
    expect_file(layer_path(SECOND, "/diff/etc/group"), "root:x:0:\nwheel:x:10:\n");
    CHECK(lstat(layer_path(SECOND, "/diff/home"), &st) == 0);
    CHECK(S_ISCHR(st.st_mode) && st.st_rdev == 0);
}

static void test_metadata(void)
{
    container_inspect_graph_driver *base = graphdriver_get_metadata(BASE);
    container_inspect_graph_driver *second = graphdriver_get_metadata(SECOND);

    CHECK(base != NULL && second != NULL);
    CHECK_STR(base->name, "overlay");
    CHECK_STR(base->data->upper_dir, layer_path(BASE, "/diff"));
    CHECK_STR(base->data->work_dir, layer_path(BASE, "/work"));
    CHECK_STR(base->data->merged_dir, layer_path(BASE, "/merged"));
    CHECK(base->data->lower_dir == NULL && base->data->device_id == NULL);
    CHECK(second->data->lower_dir != NULL);
    CHECK(strncmp(second->data->lower_dir, store_path("storage/overlay/l/"), strlen(store_path("storage/overlay/l/"))) == 0);
    CHECK(strchr(second->data->lower_dir, ':') == NULL);
    free_container_inspect_graph_driver(base);
    free_container_inspect_graph_driver(second);
}

static void test_create_refusals(void)
{
    struct driver_create_opts opts = { NULL, NULL };

    opts.storage_opt = (json_map_string_string *)calloc(1, sizeof(json_map_string_string));
    CHECK(opts.storage_opt != NULL);
    CHECK(append_json_map_string_string(opts.storage_opt, "size", "128M") == 0);

    forget_message();
    CHECK(graphdriver_create_ro(NEVER, BASE, &opts) == -1);
    CHECK(g_isulad_errmsg != NULL && strlen(g_isulad_errmsg) > 0);
    CHECK(!graphdriver_layer_exists(NEVER) && !path_exists(layer_path(NEVER, "")));

    forget_message();
    CHECK(graphdriver_create_rw(NEVER, BASE, &opts) == -1);
    CHECK_STR(g_isulad_errmsg, NO_QUOTA);
    CHECK(!graphdriver_layer_exists(NEVER) && !path_exists(layer_path(NEVER, "")));
    forget_message();

    free_json_map_string_string(opts.storage_opt);
}

/* The daemon answers many requests at once: a message belongs to the thread whose call failed. */
static void *fail_on_another_thread(void *unused)
{
    struct driver_create_opts opts = { NULL, NULL };

    (void)unused;
    opts.storage_opt = (json_map_string_string *)calloc(1, sizeof(json_map_string_string));
    CHECK(opts.storage_opt != NULL);
    CHECK(append_json_map_string_string(opts.storage_opt, "size", "1G") == 0);
    CHECK(graphdriver_create_rw(NEVER, BASE, &opts) == -1);
    CHECK_STR(g_isulad_errmsg, NO_QUOTA);
    forget_message();
    free_json_map_string_string(opts.storage_opt);
    return NULL;
}

static void test_message_of_the_thread(void)
{
    pthread_t thread;

    forget_message();
    CHECK(pthread_create(&thread, NULL, fail_on_another_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(g_isulad_errmsg == NULL);
}

static void test_container(void)
{
    make_container(CONTAINER);
    CHECK(graphdriver_umount_layer(CONTAINER) == 0); /* never mounted */
    mount_container(CONTAINER);
    expect_file(layer_path(CONTAINER, "/merged/etc/group"), "root:x:0:\nwheel:x:10:\n");
    CHECK(!path_exists(layer_path(CONTAINER, "/merged/home")));
    write_file(layer_path(CONTAINER, "/merged/written"), "by the container\n");
    mount_container(CONTAINER); /* again */
    CHECK(graphdriver_umount_layer(CONTAINER) == 0);
    CHECK(!is_mounted(layer_path(CONTAINER, "/merged")));
    CHECK(graphdriver_umount_layer(CONTAINER) == 0); /* at count 0 */
    expect_file(layer_path(CONTAINER, "/diff/written"), "by the container\n");

    /* The integrity check mounts an image layer. */
    mount_container(SECOND);
    CHECK(graphdriver_umount_layer(SECOND) == 0);
    CHECK(graphdriver_umount_layer(NEVER) == 0);
}

static void test_fs_info(void)
{
    imagetool_fs_info *info = (imagetool_fs_info *)calloc(1, sizeof(*info));
    imagetool_fs_info_image_filesystems_element *one;

    CHECK(info != NULL);
    CHECK(graphdriver_get_layer_fs_info(NEVER, info) == 0);
    CHECK(info->image_filesystems == NULL && info->image_filesystems_len == 0);
    CHECK(graphdriver_get_layer_fs_info(CONTAINER, info) == 0);
    CHECK(info->image_filesystems_len == 1);
    one = info->image_filesystems[0];
    CHECK(one->timestamp > 1500000000LL * 1000000000LL);
    CHECK_STR(one->fs_id->mountpoint, layer_path(CONTAINER, "/diff"));
    CHECK(one->used_bytes->value >= 4096 && one->used_bytes->value < 1 << 20);
    CHECK(one->inodes_used->value >= 2 && one->inodes_used->value < 32);
    free_imagetool_fs_info(info);
}

static void test_repair(void)
{
    static const char *const damage[] = { "", "\n", "l/0123456789abcdef0123456789", "../../etc" };
    char *lower = read_file(layer_path(CONTAINER, "/lower"));
    size_t i;

    CHECK(lower != NULL);
    CHECK(graphdriver_try_repair_lowers(CONTAINER, SECOND) == 0);
    expect_file(layer_path(CONTAINER, "/lower"), lower);
    for (i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
        write_file(layer_path(CONTAINER, "/lower"), damage[i]);
        CHECK(graphdriver_mount_layer(CONTAINER, NULL) == NULL);
        CHECK(graphdriver_try_repair_lowers(CONTAINER, SECOND) == 0);
        expect_file(layer_path(CONTAINER, "/lower"), lower);
        mount_container(CONTAINER);
        CHECK(graphdriver_umount_layer(CONTAINER) == 0);
    }
    CHECK(graphdriver_try_repair_lowers(NEVER, SECOND) == 0);
    free(lower);
}

/* A daemon that is killed leaves its mounts; the next one takes them over. */
static void test_restart(void)
{
    pid_t first = fork();
    int status = 0;

    CHECK(first >= 0);
    if (first == 0) {
        CHECK(start() == 0);
        mount_container(CONTAINER);
        write_file(layer_path(CONTAINER, "/merged/first-life"), "yes\n");
        _exit(0);
    }
    CHECK(waitpid(first, &status, 0) == first && status == 0);
    CHECK(is_mounted(layer_path(CONTAINER, "/merged")));

    CHECK(start() == 0);
    CHECK(graphdriver_layer_exists(BASE) && graphdriver_layer_exists(SECOND));
    mount_container(CONTAINER); /* its saved count was above 0 */
    expect_file(layer_path(CONTAINER, "/merged/first-life"), "yes\n");
    CHECK(graphdriver_umount_layer(NEVER) == 0); /* an entry that cannot be parsed */
    CHECK(graphdriver_rm_layer(NEVER) == 0);
}

/* The start of the layer store: what the driver denies, or has no metadata of, is deleted. */
static void load_layers(void)
{
    static const char *const known[] = { BASE, SECOND, CONTAINER };
    size_t i;

    for (i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        container_inspect_graph_driver *inspect =
            graphdriver_layer_exists(known[i]) ? graphdriver_get_metadata(known[i]) : NULL;

        if (inspect == NULL) {
            (void)graphdriver_umount_layer(known[i]);
            (void)graphdriver_rm_layer(known[i]);
            continue;
        }
        free_container_inspect_graph_driver(inspect);
    }
}

/* Tools that skip empty directories, power cuts and full disks damage stores. Whatever it is, a start deletes nothing that the
   user had, and what was damaged can be mended. */
enum damage { NO_DIRECTORY, NO_FILE, NO_CONTENT };

static void test_damaged_store(void)
{
    static const struct {
        const char *id;
        const char *part;
        enum damage how;
    } damage[] = {
        { BASE, "/empty", NO_DIRECTORY },       { CONTAINER, "/merged", NO_DIRECTORY }, { BASE, "/link", NO_CONTENT },
        { SECOND, "/link", NO_FILE },           { CONTAINER, "/link", NO_CONTENT },     { SECOND, "/lower", NO_CONTENT },
        { CONTAINER, "/lower", NO_CONTENT },    { CONTAINER, "/lower", NO_FILE },
    };
    size_t i;

    CHECK(graphdriver_umount_layer(CONTAINER) == 0);
    for (i = 0; i < sizeof(damage) / sizeof(damage[0]); i++) {
        const char *part = layer_path(damage[i].id, damage[i].part);

        CHECK(graphdriver_cleanup() == 0);
        if (damage[i].how == NO_CONTENT) {
            write_file(part, "");
        } else {
            CHECK((damage[i].how == NO_DIRECTORY ? rmdir(part) : unlink(part)) == 0);
        }
        CHECK(start() == 0);
        load_layers();
        expect_file(layer_path(BASE, "/diff/home/notes"), "remember\n");
        expect_file(layer_path(SECOND, "/diff/etc/group"), "root:x:0:\nwheel:x:10:\n");
        expect_file(layer_path(CONTAINER, "/diff/written"), "by the container\n");

        CHECK(graphdriver_try_repair_lowers(BASE, NULL) == 0);
        CHECK(graphdriver_try_repair_lowers(SECOND, BASE) == 0);
        CHECK(graphdriver_try_repair_lowers(CONTAINER, SECOND) == 0);
        mount_container(CONTAINER);
        expect_file(layer_path(CONTAINER, "/merged/etc/group"), "root:x:0:\nwheel:x:10:\n");
        expect_file(layer_path(CONTAINER, "/merged/written"), "by the container\n");
        CHECK(!path_exists(layer_path(CONTAINER, "/merged/home")));
        CHECK(graphdriver_umount_layer(CONTAINER) == 0);
    }
}

static void *mount_and_umount(void *id)
{
    int i;

    for (i = 0; i < 50; i++) {
        mount_container((const char *)id);
        CHECK(graphdriver_umount_layer((const char *)id) == 0);
    }
    return NULL;
}

static void test_threads(void)
{
    static char container[] = CONTAINER;
    static char other[] = OTHER;
    pthread_t threads[2];
    struct tar tar = { NULL, 0, 0 };
    int i;

    make_container(OTHER);
    CHECK(pthread_create(&threads[0], NULL, mount_and_umount, container) == 0);
    CHECK(pthread_create(&threads[1], NULL, mount_and_umount, other) == 0);
    tar_file(&tar, "file", 0644, "content\n");
    tar_end(&tar);
    for (i = 0; i < 20; i++) {
        struct driver_create_opts opts = { NULL, NULL };

        CHECK(graphdriver_create_ro(NEVER, SECOND, &opts) == 0);
        CHECK(unpack(NEVER, &tar) == 0);
        CHECK(graphdriver_rm_layer(NEVER) == 0);
    }
    tar_free(&tar);
    CHECK(pthread_join(threads[0], NULL) == 0);
    CHECK(pthread_join(threads[1], NULL) == 0);
}

/* A pull that breaks off: the layer store removes the layer and tries again. */
static void test_broken_pull(void)
{
    struct driver_create_opts opts = { NULL, NULL };
    struct io_read_wrapper content;
    struct tar tar = { NULL, 0, 0 };
    size_t before = errors_logged;

    memset(&content, 0xff, sizeof(content));
    content.read = broken_read;
    content.close = archive_close;
    CHECK(graphdriver_create_ro(NEVER, SECOND, &opts) == 0);
    CHECK(graphdriver_apply_diff(NEVER, &content) == -1);
    CHECK(errors_logged > before);
    CHECK(graphdriver_rm_layer(NEVER) == 0);

    tar_file(&tar, "file", 0644, "content\n");
    tar_end(&tar);
    make_image_layer(NEVER, SECOND, &tar);
    CHECK(graphdriver_rm_layer(NEVER) == 0);
}

static void test_delete(void)
{
    mount_container(CONTAINER);
    CHECK(graphdriver_cleanup() == -1); /* a container is running */
    CHECK(graphdriver_layer_exists(CONTAINER));
    CHECK(graphdriver_umount_layer(CONTAINER) == 0);
    CHECK(graphdriver_rm_layer(CONTAINER) == 0);
    CHECK(!graphdriver_layer_exists(CONTAINER) && !path_exists(layer_path(CONTAINER, "")));
    CHECK(graphdriver_rm_layer(CONTAINER) == 0); /* never existed, for all it knows */
    CHECK(graphdriver_rm_layer(OTHER) == 0);
    CHECK(graphdriver_rm_layer(SECOND) == 0);
    CHECK(graphdriver_rm_layer(BASE) == 0);
}

/* With a remapped user namespace, everything in a layer belongs to the range of the container. */
static void test_userns_remap(void)
{
#ifdef ENABLE_USERNS_REMAP
    struct tar tar = { NULL, 0, 0 };
    struct stat st;

    tar_dir(&tar, "etc/", 0755);
    tar_file(&tar, "etc/group", 0644, "root:x:0:\n");
    tar_end(&tar);
    standin_userns_remap = "100000:200000:65535";
    CHECK(start() == 0);
    make_image_layer(BASE, NULL, &tar);
    CHECK(lstat(layer_path(BASE, "/diff"), &st) == 0 && st.st_uid == 100000 && st.st_gid == 200000);
    CHECK(lstat(layer_path(BASE, "/diff/etc/group"), &st) == 0 && st.st_uid == 100000 && st.st_gid == 200000);
    CHECK(graphdriver_rm_layer(BASE) == 0);
    CHECK(graphdriver_cleanup() == 0);

    standin_userns_remap = "nobody";
    CHECK(start() == -1);
    standin_userns_remap = NULL;
#endif
}

int main(void)
{
    size_t fds;

    standin_log_appender = count_errors;
    store_make("isulad");
    CHECK(mkdir(store_path("storage"), 0700) == 0);

    test_no_driver();
    CHECK(errors_logged == 0); /* nobody has told the library where to */
    CHECK(start() == 0);
    wait_until_idle();
    fds = count_fds();
    image_check_status("overlay");
    test_image();
    test_bad_arguments();
    test_metadata();
    test_create_refusals();
    test_message_of_the_thread();
    test_container();
    test_fs_info();
    test_repair();
    test_broken_pull();
    CHECK(graphdriver_cleanup() == 0);
    errors_logged = 0;
    test_no_driver();
    CHECK(errors_logged >= 12);

    test_restart();
    image_check_status("overlay");
    test_damaged_store();
    test_threads();
    test_delete();
    wait_until_idle();
    CHECK(count_fds() == fds);
    CHECK(graphdriver_cleanup() == 0);
    CHECK(start() == 0);
    CHECK(graphdriver_cleanup() == 0);
    test_userns_remap();
    forget_message();
    return 0;
}
