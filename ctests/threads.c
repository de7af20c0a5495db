/* Eight threads with layers of their own, one that asks about everything meanwhile; each sees its own errors only. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <pthread.h>
#include <stdatomic.h>

#define WORKERS 8
#define ROUNDS 25

static atomic_bool done;

static void *work(void *argument)
{
    char id[32], missing[32], path[128];
    struct driver_create_opts options = { NULL, NULL };
    snprintf(id, sizeof id, "worker-%d", *(int *)argument);
    snprintf(missing, sizeof missing, "missing-%d", *(int *)argument);
    snprintf(path, sizeof path, "storage/overlay2/%s/merged/etc/name", id);
    for (int round = 0; round < ROUNDS; round++) {
        CHECK(graphdriver_create_rw(id, "image", &options) == 0);
        char *rootfs = graphdriver_mount_layer(id, NULL);
        CHECK(rootfs);
        free(rootfs);
        write_file(store_path("%s", path), id);
        CHECK(graphdriver_mount_layer(missing, NULL) == NULL);
        CHECK(strstr(graphdriver_last_error(), missing));
        char *text = read_file(store_path("%s", path));
        CHECK_STR(text, id);
        free(text);
        CHECK(strstr(graphdriver_last_error(), missing)); /* nobody else's came in between */
        CHECK(graphdriver_umount_layer(id) == 0);
        CHECK(graphdriver_rm_layer(id) == 0);
    }
    return NULL;
}

/* Fills layers again and again while the others mount. */
static void *unpack(void *argument)
{
    (void)argument;
    for (int round = 0; round < ROUNDS; round++) {
        make_second("unpacked", "image");
        CHECK(graphdriver_rm_layer("unpacked") == 0);
    }
    return NULL;
}

static void *look(void *argument)
{
    (void)argument;
    while (!atomic_load(&done)) {
        struct graphdriver_status *status = graphdriver_get_status();
        CHECK(status);
        free_graphdriver_status(status);
        CHECK(graphdriver_layer_exists("image"));
        char *upper = metadata("image", "UpperDir");
        CHECK(upper);
        free(upper);
    }
    return NULL;
}

int main(void)
{
    pthread_t workers[WORKERS], unpacker, looker;
    int numbers[WORKERS];
    start("threads");
    make_base("image");
    size_t mounts = count_mounts();
    CHECK(pthread_create(&looker, NULL, look, NULL) == 0);
    CHECK(pthread_create(&unpacker, NULL, unpack, NULL) == 0);
    for (int i = 0; i < WORKERS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&workers[i], NULL, work, &numbers[i]) == 0);
    }
    for (int i = 0; i < WORKERS; i++)
        CHECK(pthread_join(workers[i], NULL) == 0);
    CHECK(pthread_join(unpacker, NULL) == 0);
    atomic_store(&done, true);
    CHECK(pthread_join(looker, NULL) == 0);
    CHECK_STR(graphdriver_last_error(), ""); /* this thread had no failure */
    wait_until_idle();
    CHECK(count_mounts() == mounts);
    drop("image");
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
