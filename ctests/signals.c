/* A host program with signals of its own: a timer goes off all the time, without SA_RESTART, on whatever thread the kernel
   picks. No call may take the interruption for a failure; nor that of a read callback, here the one of README.md. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#define ROUNDS 40

static volatile sig_atomic_t interruptions;

static void interrupt(int signal)
{
    (void)signal;
    interruptions = interruptions + 1;
}

static ssize_t read_layer(void *context, void *buffer, size_t length)
{
    return read(*(int *)context, buffer, length);
}

static int pipe_ends[2];

/* Writes an archive so slowly that its reader waits, and is interrupted. */
static void *write_slowly(void *content)
{
    const struct tar *tar = content;
    sigset_t all;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
    for (size_t at = 0; at < tar->size; at += 512) {
        usleep(3000);
        CHECK(write(pipe_ends[1], tar->data + at, 512) == 512);
    }
    CHECK(close(pipe_ends[1]) == 0);
    return NULL;
}

static void unpack_from_a_pipe(void)
{
    struct driver_create_opts none = { NULL, NULL };
    struct io_read_wrapper content = { .context = &pipe_ends[0], .read = read_layer };
    struct tar tar = { 0 };
    pthread_t writer;
    for (int i = 0; i < 30; i++)
        tar_file(&tar, "file", 0644, "content\n");
    tar_end(&tar);
    CHECK(pipe(pipe_ends) == 0);
    CHECK(graphdriver_create_ro("piped", NULL, &none) == 0);
    CHECK(pthread_create(&writer, NULL, write_slowly, &tar) == 0);
    sig_atomic_t before = interruptions;
    CHECK(graphdriver_apply_diff("piped", &content, NULL) == 0);
    CHECK(interruptions > before + 20);
    CHECK(pthread_join(writer, NULL) == 0);
    CHECK(close(pipe_ends[0]) == 0);
    drop("piped");
    tar_free(&tar);
}

int main(void)
{
    const char *root = start("signals");
    struct sigaction action = { .sa_handler = interrupt };
    struct itimerval every = { { 0, 200 }, { 0, 200 } }, never = { { 0, 0 }, { 0, 0 } };
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        make_base("image");
        make_second("second", "image");
        make_rw("container", "second");
        char *path = graphdriver_mount_layer("container", NULL);
        CHECK(path);
        free(path);
        uint64_t bytes;
        CHECK(graphdriver_get_layer_usage("container", &bytes, NULL) == 0);
        drop("container");
        drop("second");
        drop("image");
        CHECK(graphdriver_cleanup() == 0);
        CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    }
    every.it_value.tv_usec = every.it_interval.tv_usec = 1000;
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
    unpack_from_a_pipe();
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    printf("%d interruptions\n", (int)interruptions);
    CHECK(interruptions > ROUNDS);
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
