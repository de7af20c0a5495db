/* A second init in one process: after a cleanup, without one, on another root, and one that fails. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <sys/stat.h>

int main(void)
{
    const char *root = start("reinit");
    make_base("image");
    CHECK(graphdriver_cleanup() == 0);

    /* After a cleanup: the layers are there again. */
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    CHECK(graphdriver_layer_exists("image"));

    /* Without one, on the same root, while a layer is mounted. */
    make_rw("container", "image");
    char *path = graphdriver_mount_layer("container", NULL);
    wait_until_idle();
    size_t mounts = count_mounts(), fds = count_fds();
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    wait_until_idle();
    CHECK(count_mounts() == mounts && count_fds() == fds && is_mounted(path));
    free(path);

    /* A failed one leaves the driver that was selected. */
    CHECK(graphdriver_init("btrfs", root, NULL, 0) == -1);
    CHECK(graphdriver_init("overlay2", root, (char *[]){ "overlay2.colour=red" }, 1) == -1);
    CHECK(graphdriver_layer_exists("image"));
    wait_until_idle();
    CHECK(count_mounts() == mounts && count_fds() == fds);
    drop("container");

    /* Another root, then the first one again; the two know nothing of each other. */
    char *other = strdup(store_path("other"));
    CHECK(mkdir(other, 0700) == 0);
    CHECK(graphdriver_init_at("overlay", other, NULL, 0) == 0);
    CHECK(!graphdriver_layer_exists("image"));
    struct graphdriver_status *status = graphdriver_get_status();
    CHECK(status);
    CHECK_STR(status->driver_name, "overlay");
    free_graphdriver_status(status);
    make_base("elsewhere");
    CHECK(path_exists(store_path("other/overlay/elsewhere/diff/index.html")));
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    CHECK(graphdriver_layer_exists("image") && !graphdriver_layer_exists("elsewhere"));
    free(other);

    for (int i = 0; i < 20; i++) {
        CHECK(graphdriver_cleanup() == 0);
        CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    }
    drop("image");
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
