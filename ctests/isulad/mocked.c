/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * iSulad's storage_layers_ut as far as it concerns the library: ioctl(2), quotactl(2) and getpagesize(3) are those of the
 * program (test/mocks/driver_quota_mock.cc), for the library as well, and answer without doing anything; the store is its
 * test data, whose base layer has no directory but `diff`.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "driver.h"
#include "driver_overlay2.h"
#include "project_quota.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../support/store.h"
#include "check.h"

#define BASE "9c27e219663c25e0f28493790cc0b88bc973ba3b1686355f221c38a36978ac63"
#define CHILD "1be74353c3d0fd55fb5638a52953e6f1bc441e5b1710921db9ec2aa202725569"
#define NEVER "50551ff67da98ab8540d7132"

static bool mocked;

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    return mocked ? 0 : (int)syscall(SYS_ioctl, fd, request, argument);
}

/* That project quota is counted and enforced, as the fixture has it. */
int quotactl(int command, const char *special, int id, caddr_t address)
{
    (void)command;
    (void)special;
    (void)id;
    CHECK(mocked);
    ((fs_quota_stat_t *)(void *)address)->qs_flags = (1 << 4) | (1 << 5);
    return 0;
}

int getpagesize(void)
{
    return 0;
}

/* The files of iSulad's test/image/oci/storage/layers/data/overlay. */
static void lay_out(void)
{
    static const char *const dirs[] = { "storage",        "storage/overlay",       "storage/overlay/l", "storage/overlay/" BASE,
                                        "storage/overlay/" BASE "/diff",  "storage/overlay/" CHILD, "storage/overlay/" CHILD "/diff",
                                        "storage/overlay/" CHILD "/work", "storage/overlay/" CHILD "/merged" };
    size_t i;

    for (i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
        CHECK(mkdir(store_path("%s", dirs[i]), 0700) == 0);
    }
    write_file(store_path("storage/overlay/" BASE "/diff/hello"), "hello\n");
    write_file(store_path("storage/overlay/" BASE "/link"), "c3343428f60aab9c86d24293f6");
    write_file(store_path("storage/overlay/" CHILD "/link"), "d462e429837b2644fce88885d7");
    write_file(store_path("storage/overlay/" CHILD "/lower"), "l/c3343428f60aab9c86d24293f6");
    CHECK(symlink("../" BASE "/diff", store_path("storage/overlay/l/c3343428f60aab9c86d24293f6")) == 0);
    CHECK(symlink("../" CHILD "/diff", store_path("storage/overlay/l/d462e429837b2644fce88885d7")) == 0);
}

/* What layer_store_init asks of a layer that it takes over. */
static void check_layer(const char *id)
{
    container_inspect_graph_driver *inspect = graphdriver_get_metadata(id);

    CHECK(graphdriver_layer_exists(id) && inspect != NULL);
    free_container_inspect_graph_driver(inspect);
}

int main(void)
{
    struct storage_module_init_options opts;
    char name[] = "overlay";
    char *root, *merged;

    store_make("isulad-mocked");
    lay_out();
    root = strdup(store_path("storage"));
    memset(&opts, 0, sizeof(opts));
    opts.storage_root = root;
    opts.driver_name = name;

    mocked = true;
    CHECK(graphdriver_init(&opts) == 0);
    check_layer(BASE);
    check_layer(CHILD);
    CHECK(!graphdriver_layer_exists(NEVER) && errno == 0);
    CHECK(graphdriver_get_metadata(NEVER) == NULL);
    merged = graphdriver_mount_layer(CHILD, NULL);
    CHECK(merged != NULL && path_exists(store_path("storage/overlay/" CHILD "/merged/hello")));
    CHECK(graphdriver_umount_layer(CHILD) == 0);
    CHECK(graphdriver_cleanup() == 0);
    free(merged);
    free(root);
    return 0;
}
