/* A host program that cancels a thread inside the library: the call goes on to its end, then the thread ends, as it does at the
   next point of cancellation of its own. Nothing is left half done. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_bool inside, cancelled, finished;

static ssize_t wait_for_cancellation(void *context, void *buffer, size_t length)
{
    atomic_store(&inside, true);
    while (!atomic_load(&cancelled))
        usleep(1000); /* a point of cancellation, in the host's own code, called by the library */
    return tar_read(context, buffer, length);
}

static void *unpack(void *tar)
{
    int state;
    CHECK(graphdriver_unpack_layer("image", tar, wait_for_cancellation, NULL) == 0);
    atomic_store(&finished, true);
    CHECK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state) == 0);
    CHECK(state == PTHREAD_CANCEL_ENABLE); /* as it was before */
    pthread_testcancel();
    return NULL;
}

static void *all_the_time(void *unused)
{
    struct driver_create_opts none = { NULL, NULL };
    for (;;) {
        CHECK(graphdriver_create_ro("busy", NULL, &none) == 0);
        CHECK(graphdriver_rm_layer("busy") == 0);
        pthread_testcancel();
    }
    return unused;
}

int main(void)
{
    struct driver_create_opts none = { NULL, NULL };
    struct tar tar = { 0 };
    pthread_t thread;
    void *result;
    start("thread_cancel");
    CHECK(graphdriver_create_ro("image", NULL, &none) == 0);
    tar_file(&tar, "file", 0644, "content\n");
    tar_end(&tar);
    CHECK(pthread_create(&thread, NULL, unpack, &tar) == 0);
    while (!atomic_load(&inside))
        usleep(1000);
    CHECK(pthread_cancel(thread) == 0);
    atomic_store(&cancelled, true);
    CHECK(pthread_join(thread, &result) == 0);
    CHECK(result == PTHREAD_CANCELED && atomic_load(&finished));
    CHECK(graphdriver_layer_exists("image"));

    /* At whatever moment. */
    for (int i = 0; i < 50; i++) {
        CHECK(pthread_create(&thread, NULL, all_the_time, NULL) == 0);
        usleep((useconds_t)(i * 137 % 3000));
        CHECK(pthread_cancel(thread) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
        CHECK(graphdriver_rm_layer("busy") == 0);
    }
    drop("image");
    CHECK(graphdriver_cleanup() == 0); /* no call is counted as under way */
    tar_free(&tar);
    return 0;
}
