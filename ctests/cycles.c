/* 200 rounds of every operation leave the process as it was: descriptors, mounts, threads, children, memory, working
   directory, umask, root, signal dispositions, environment. */
#define _GNU_SOURCE
#include "check.h"
#include "layers.h"
#include "store.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROUNDS 200
#define GROWTH_KIB 1024 /* allocator noise; a leak of one 64-byte block per operation would be less, and is valgrind's to find */

struct state {
    size_t fds, mounts, threads, children;
    char cwd[4096];
    mode_t mask;
    struct stat root;
    struct sigaction handlers[NSIG];
    sigset_t blocked;
    char **environment;
};

static void take(struct state *state)
{
    memset(state, 0, sizeof *state);
    state->fds = count_fds();
    state->mounts = count_mounts();
    state->threads = count_threads();
    state->children = count_children();
    CHECK(getcwd(state->cwd, sizeof state->cwd));
    umask(state->mask = umask(0));
    CHECK(stat("/", &state->root) == 0);
    for (int signal = 1; signal < NSIG; signal++)
        sigaction(signal, NULL, &state->handlers[signal]);
    sigprocmask(SIG_BLOCK, NULL, &state->blocked);
    state->environment = environ;
}

static void compare(const struct state *before, const struct state *after)
{
    CHECK(after->fds == before->fds);
    CHECK(after->mounts == before->mounts);
    CHECK(after->threads == before->threads);
    CHECK(after->children == before->children);
    CHECK_STR(after->cwd, before->cwd);
    CHECK(after->mask == before->mask);
    CHECK(after->root.st_dev == before->root.st_dev && after->root.st_ino == before->root.st_ino);
    for (int signal = 1; signal < NSIG; signal++)
        CHECK(after->handlers[signal].sa_handler == before->handlers[signal].sa_handler);
    CHECK(memcmp(&after->blocked, &before->blocked, sizeof before->blocked) == 0);
    CHECK(after->environment == before->environment);
}

static void round_of_everything(const char *root)
{
    uint64_t bytes, inodes;
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    make_base("image");
    make_second("second", "image");
    make_rw("container", "second");
    char *path = graphdriver_mount_layer("container", NULL);
    CHECK(path);
    free(path);
    char *lower = metadata("container", "LowerDir");
    CHECK(lower);
    free(lower);
    CHECK(graphdriver_layer_exists("container"));
    CHECK(graphdriver_get_layer_usage("container", &bytes, &inodes) == 0);
    CHECK(graphdriver_try_repair_lowers("container", "second") == 0);
    struct graphdriver_status *status = graphdriver_get_status();
    CHECK(status);
    free_graphdriver_status(status);
    CHECK(graphdriver_mount_layer("missing", NULL) == NULL);
    CHECK(graphdriver_create_rw("orphan", "missing", &(struct driver_create_opts){ NULL, NULL }) == -1);
    drop("container");
    drop("second");
    drop("image");
    CHECK(graphdriver_cleanup() == 0);
}

int main(void)
{
    static struct state before, after;
    const char *root = store_make("cycles");
    CHECK(chdir("/var") == 0);
    umask(027);
    signal(SIGUSR1, SIG_IGN);
    for (int i = 0; i < ROUNDS / 10; i++) /* lets allocator and caches reach their size */
        round_of_everything(root);
    size_t memory = resident_kib();
    take(&before);
    for (int i = 0; i < ROUNDS; i++) {
        round_of_everything(root);
        take(&after);
        compare(&before, &after);
    }
    size_t now = resident_kib();
    printf("resident: %zu KiB, then %zu KiB; fds %zu, mounts %zu, threads %zu\n", memory, now, after.fds, after.mounts,
           after.threads);
    CHECK(now <= memory + GROWTH_KIB);
    return 0;
}
