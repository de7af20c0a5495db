/* No call starts a process. Run under strace by processes.cmake, which looks at what happens between the two marks; with the
   argument "cheat" one is started there, and must be seen. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <sys/prctl.h>

int main(int argc, char **argv)
{
    (void)argv;
    const char *root = store_make("processes");
    int depth = kernel_stacks_one_by_one() ? 140 : 100;
    prctl(PR_SET_NAME, "library-begins");
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    make_base("image");
    make_second("second", "image");
    make_rw("container", "second");
    char *path = graphdriver_mount_layer("container", NULL);
    CHECK(path);
    free(path);
    /* Where the kernel can: deep enough for an option string longer than a page, for which the C module forked. */
    char id[32], parent[32] = "second";
    for (int i = 0; i < depth; i++) {
        snprintf(id, sizeof id, "deep-%d", i);
        CHECK(graphdriver_create_ro(id, parent, &(struct driver_create_opts){ NULL, NULL }) == 0);
        strcpy(parent, id);
    }
    path = graphdriver_mount_layer(id, NULL);
    CHECK(path);
    free(path);
    CHECK(graphdriver_mount_layer("missing", NULL) == NULL);
    drop("container");
    for (int i = depth - 1; i >= 0; i--) {
        snprintf(id, sizeof id, "deep-%d", i);
        drop(id);
    }
    drop("second");
    drop("image");
    CHECK(graphdriver_cleanup() == 0);
    if (argc > 1)
        CHECK(run("true", (char *)NULL) == 0);
    prctl(PR_SET_NAME, "library-ends");
    return 0;
}
