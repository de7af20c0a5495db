/* The daemon ends, or is killed, while containers have their layers mounted; the next one finds them. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* The first life of the daemon: leaves a mounted layer and dies without a word. */
static void first_life(const char *root)
{
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    make_base("image");
    make_second("second", "image");
    make_rw("container", "second");
    char *path = graphdriver_mount_layer("container", NULL);
    CHECK(path);
    write_file(store_path("storage/overlay2/container/merged/etc/state"), "first life\n");
    raise(SIGKILL);
}

/* Killed in the middle of an unpack, which never ends by itself. */
static ssize_t endless(void *context, void *buffer, size_t length)
{
    struct tar *tar = context;
    if (tar->done == tar->size)
        raise(SIGKILL);
    return tar_read(tar, buffer, length);
}

static void killed_while_unpacking(const char *root)
{
    struct tar tar = { 0 };
    struct driver_create_opts options = { NULL, NULL };
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    tar_file(&tar, "half", 0644, "of a layer");
    CHECK(graphdriver_create_ro("torn", "image", &options) == 0);
    graphdriver_unpack_layer("torn", &tar, endless, NULL);
}

static void in_a_child(void (*life)(const char *), const char *root)
{
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        life(root);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

int main(void)
{
    const char *root = store_make("restart");
    char *merged = strdup(store_path("storage/overlay2/container/merged"));
    in_a_child(first_life, root);
    CHECK(is_mounted(merged));
    size_t mounts = count_mounts();

    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    CHECK(count_mounts() == mounts && is_mounted(merged)); /* nothing on top, nothing taken away */
    CHECK(graphdriver_layer_exists("image") && graphdriver_layer_exists("container"));
    char *path = graphdriver_mount_layer("container", NULL);
    CHECK_STR(path, merged);
    CHECK(count_mounts() == mounts);
    char *text = read_file(store_path("storage/overlay2/container/merged/etc/state"));
    CHECK_STR(text, "first life\n");
    free(text);
    free(path);

    /* Ending in order while a container still runs: the home is busy, its mount stays, and nothing is lost. */
    CHECK(graphdriver_cleanup() == -1 && errno == EBUSY);
    CHECK(is_mounted(merged));
    CHECK(graphdriver_umount_layer("container") == 0 && !is_mounted(merged));
    CHECK(graphdriver_cleanup() == 0); /* one process has the store at a time */

    in_a_child(killed_while_unpacking, root);
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    make_second("torn", "image"); /* iSulad pulls again: the leftover is no obstacle */
    CHECK(!path_exists(store_path("storage/overlay2/torn/diff/half")));
    drop("torn");
    drop("container");
    drop("second");
    drop("image");
    CHECK(graphdriver_cleanup() == 0);
    free(merged);
    return 0;
}
