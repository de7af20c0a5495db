/* How deep layers may be stacked: 130 and 400 mount and show every layer's file, or 120 where the kernel takes one page of
   options; one more than the kernel takes is an error that says so. */
#include "check.h"
#include "layers.h"
#include "store.h"

#define DEEPEST 510

/* Layers grow on this one chain; number n holds one file, named n. Returns how many there are at the end. */
static int grow(int from, int to)
{
    char id[32], parent[32], name[32];
    for (int i = from; i < to; i++) {
        struct driver_create_opts options = { NULL, NULL };
        struct tar tar = { 0 };
        snprintf(id, sizeof id, "layer-%d", i);
        snprintf(parent, sizeof parent, "layer-%d", i - 1);
        snprintf(name, sizeof name, "%d", i);
        if (graphdriver_create_ro(id, i ? parent : NULL, &options) != 0)
            return i;
        tar_file(&tar, name, 0644, name);
        tar_end(&tar);
        CHECK(graphdriver_unpack_layer(id, &tar, tar_read, NULL) == 0);
        tar_free(&tar);
    }
    return to;
}

/* Mounts a container on top of the chain and looks for the file of each layer. */
static void mount_on(int layers)
{
    char parent[32];
    snprintf(parent, sizeof parent, "layer-%d", layers - 1);
    make_rw("container", parent);
    char *path = graphdriver_mount_layer("container", NULL);
    CHECK(path);
    for (int i = 0; i < layers; i++)
        CHECK(path_exists(store_path("storage/overlay2/container/merged/%d", i)));
    free(path);
    drop("container");
}

/* The chain is too deep for the kernel, either already at create or at mount: a failure with a text that names the depth. */
static void too_deep(int layers)
{
    char parent[32];
    struct driver_create_opts options = { NULL, NULL };
    if (layers == DEEPEST) {
        snprintf(parent, sizeof parent, "layer-%d", layers - 1);
        if (graphdriver_create_rw("container", parent, &options) == 0)
            CHECK(graphdriver_mount_layer("container", NULL) == NULL);
    }
    printf("at %d layers: %s\n", layers, graphdriver_last_error());
    CHECK(strstr(graphdriver_last_error(), "layers") || strstr(graphdriver_last_error(), "deep"));
}

int main(void)
{
    start("depth");
    bool one_by_one = kernel_stacks_one_by_one();
    int first = one_by_one ? 130 : 100, second = one_by_one ? 400 : 120;
    CHECK(grow(0, first) == first);
    mount_on(first);
    CHECK(grow(first, second) == second);
    mount_on(second);
    int layers = grow(second, DEEPEST);
    CHECK(layers >= second && (one_by_one || layers < 200));
    too_deep(layers);
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
