/* Unpacks whose archives come slowly, or never, end when the daemon has no use for them any more. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

struct download {
    int pipe[2];
    sem_t reading; /* posted before each read, which may block */
    const char *id;
    int result, reason;
    pthread_t thread;
};

static ssize_t read_slowly(void *context, void *buffer, size_t length)
{
    struct download *download = context;
    sem_post(&download->reading);
    return read(download->pipe[0], buffer, length);
}

static void *unpack(void *argument)
{
    struct download *download = argument;
    struct io_read_wrapper content = { download, read_slowly, NULL };
    int64_t size = 7;
    download->result = graphdriver_apply_diff(download->id, &content, &size);
    download->reason = errno;
    CHECK(size == 7);
    return NULL;
}

/* Starts an unpack, and returns when it waits for more of its archive. */
static void begin(struct download *download, const char *id)
{
    download->id = id;
    CHECK(pipe(download->pipe) == 0);
    CHECK(sem_init(&download->reading, 0, 0) == 0);
    CHECK(pthread_create(&download->thread, NULL, unpack, download) == 0);
    CHECK(sem_wait(&download->reading) == 0);
}

/* Lets the read return, be it with something or with the end, and sees that the unpack was cancelled. */
static void end(struct download *download, const char *last)
{
    CHECK(write(download->pipe[1], last, strlen(last)) == (ssize_t)strlen(last));
    close(download->pipe[1]);
    CHECK(pthread_join(download->thread, NULL) == 0);
    CHECK(download->result == -1 && download->reason == ECANCELED);
    CHECK(sem_trywait(&download->reading) == -1); /* it did not read again */
    close(download->pipe[0]);
    sem_destroy(&download->reading);
}

int main(void)
{
    struct driver_create_opts none = { NULL, NULL };
    struct download one, other;
    start("cancel");
    CHECK(graphdriver_create_ro("one", NULL, &none) == 0);
    CHECK(graphdriver_create_ro("other", NULL, &none) == 0);
    CHECK(graphdriver_cancel("one") == 0); /* there is nothing to cancel */

    begin(&one, "one");
    begin(&other, "other");
    CHECK(graphdriver_cancel("one") == 1);
    end(&one, "x");
    begin(&one, "one"); /* the layer can be filled again */
    CHECK(graphdriver_cancel(NULL) == 2);
    end(&one, "");
    end(&other, "x");

    CHECK(graphdriver_cancel(NULL) == 0);
    drop("one");
    make_base("image"); /* what comes later is not cancelled */
    drop("image");
    drop("other");
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
