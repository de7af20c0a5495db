/* cleanup and init while other threads are at work: each call is done in full or refused with ENOTCONN; nothing crashes, waits
   for ever, or is left behind. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define WORKERS 4
#define ROUNDS 100

static atomic_bool done;
static atomic_size_t worked, refused;

/* Whether the call was done; if not, it was for the one reason allowed. */
static bool note(bool success)
{
    CHECK(success || errno == ENOTCONN);
    atomic_fetch_add(success ? &worked : &refused, 1);
    return success;
}

static void *work(void *argument)
{
    char id[32];
    struct driver_create_opts options = { NULL, NULL };
    snprintf(id, sizeof id, "worker-%d", *(int *)argument);
    while (!atomic_load(&done)) {
        struct graphdriver_status *status = graphdriver_get_status();
        note(status != NULL);
        free_graphdriver_status(status);
        if (note(graphdriver_create_rw(id, "image", &options) == 0)) {
            char *path;
            while (!note((path = graphdriver_mount_layer(id, NULL)) != NULL))
                ;
            free(path);
            while (!note(graphdriver_umount_layer(id) == 0))
                ;
            while (!note(graphdriver_rm_layer(id) == 0))
                ;
        }
    }
    return NULL;
}

int main(void)
{
    const char *root = start("race");
    pthread_t workers[WORKERS];
    int numbers[WORKERS];
    size_t cleaned = 0;
    make_base("image");
    wait_until_idle();
    size_t mounts = count_mounts(), fds = count_fds();
    for (int i = 0; i < WORKERS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&workers[i], NULL, work, &numbers[i]) == 0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        if (graphdriver_cleanup() == 0)
            cleaned++;
        else
            CHECK(errno == EBUSY); /* a worker has its layer mounted just now */
        CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
        usleep(3000); /* time for some of them to get through */
    }
    atomic_store(&done, true);
    for (int i = 0; i < WORKERS; i++)
        CHECK(pthread_join(workers[i], NULL) == 0);
    printf("%zu calls done, %zu refused; %zu of %d cleanups\n", atomic_load(&worked), atomic_load(&refused), cleaned, ROUNDS);
    CHECK(atomic_load(&worked) > 0 && cleaned > 0);
    wait_until_idle();
    CHECK(count_mounts() == mounts && count_fds() == fds);
    drop("image");
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
