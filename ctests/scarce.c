/* Too few descriptors, a limit of the size of files, then no space: calls fail with the right errno, leave nothing half made and nothing open, and work
   again as soon as there is enough. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

static struct driver_create_opts no_options;

static int unpack_something(const char *id)
{
    struct tar tar = { 0 };
    char *content = malloc(1 << 20);
    CHECK(content);
    memset(content, 'x', (1 << 20) - 1);
    content[(1 << 20) - 1] = '\0';
    tar_dir(&tar, "a/", 0755);
    tar_dir(&tar, "a/b/", 0755);
    tar_file(&tar, "a/b/file", 0644, content);
    tar_end(&tar);
    int result = graphdriver_unpack_layer(id, &tar, tar_read, NULL);
    int error = errno;
    free(content);
    tar_free(&tar);
    errno = error;
    return result;
}

/* All steps of a layer's life; returns how many succeeded before one failed, with its errno kept. */
static int life(void)
{
    char *path = NULL;
    if (graphdriver_create_ro("image", NULL, &no_options) != 0)
        return 0;
    if (unpack_something("image") != 0)
        return 1;
    if (graphdriver_create_rw("container", "image", &no_options) != 0)
        return 2;
    if (!(path = graphdriver_mount_layer("container", NULL)))
        return 3;
    free(path);
    return 4;
}

static void end_of_life(void)
{
    CHECK(graphdriver_umount_layer("container") == 0);
    CHECK(graphdriver_rm_layer("container") == 0);
    CHECK(graphdriver_rm_layer("image") == 0);
    wait_until_idle(); /* a removal's space comes back when the worker is through */
}

static void few_descriptors(void)
{
    struct rlimit plenty, few;
    int steps = 0, allowed = 0;
    wait_until_idle();
    size_t fds = count_fds();
    CHECK(getrlimit(RLIMIT_NOFILE, &plenty) == 0);
    /* One more each time, until all of it works; what fails, fails for want of descriptors. */
    while (steps < 4) {
        few = (struct rlimit){ fds + (size_t)allowed, plenty.rlim_max };
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        steps = life();
        int error = errno;
        CHECK(setrlimit(RLIMIT_NOFILE, &plenty) == 0);
        if (steps < 4 && error != EMFILE) {
            fprintf(stderr, "%d descriptors: step %d failed with %s\n", allowed, steps, strerror(error));
            CHECK(error == EMFILE);
        }
        wait_until_idle();
        CHECK(count_fds() == fds);
        end_of_life();
        CHECK(++allowed < 100);
    }
    printf("works with %d descriptors\n", allowed - 1);
    CHECK(allowed > 1); /* the limit was felt */
}

static volatile sig_atomic_t caught;

static void catch(int signal)
{
    (void)signal;
    caught = 1;
}

/* A limit below what is to be written: a failure that says so, and no signal, whose default is the end of the process. */
static void small_files_only(void)
{
    struct rlimit plenty, small;
    sigset_t pending;
    CHECK(getrlimit(RLIMIT_FSIZE, &plenty) == 0);
    for (int limit = 0; limit <= 4096; limit += 4096) {
        small = (struct rlimit){ (rlim_t)limit, plenty.rlim_max };
        CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
        CHECK(life() < 2 && errno == EFBIG);
        CHECK(setrlimit(RLIMIT_FSIZE, &plenty) == 0);
        CHECK(sigpending(&pending) == 0 && !sigismember(&pending, SIGXFSZ));
        end_of_life();
        CHECK(!graphdriver_layer_exists("image") && errno == 0);
    }
    CHECK(life() == 4);
    end_of_life();
    /* The host's own writes are as they were. */
    struct sigaction action = { .sa_handler = catch };
    CHECK(sigaction(SIGXFSZ, &action, NULL) == 0);
    int fd = open(store_path("own"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    small = (struct rlimit){ 0, plenty.rlim_max };
    CHECK(fd >= 0 && setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(write(fd, "x", 1) == -1 && errno == EFBIG && caught);
    CHECK(setrlimit(RLIMIT_FSIZE, &plenty) == 0 && close(fd) == 0);
}

static void no_space(void)
{
    struct statvfs before, after;
    const char *ballast = store_path("ballast");
    CHECK(statvfs(store_path("."), &before) == 0);
    int fd = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    static char block[1 << 20];
    while (write(fd, block, sizeof block) > 0)
        ;
    CHECK(errno == ENOSPC);
    for (int i = 0; i < 10; i++) {
        int steps = life();
        CHECK(steps < 2 && errno == ENOSPC);
        end_of_life();
    }
    CHECK(!graphdriver_layer_exists("image"));
    CHECK(ftruncate(fd, 0) == 0 && close(fd) == 0 && unlink(ballast) == 0);
    CHECK(life() == 4);
    end_of_life();
    sync();
    CHECK(statvfs(store_path("."), &after) == 0);
    CHECK(after.f_ffree == before.f_ffree); /* not an inode is lost */
}

int main(void)
{
    start("scarce");
    few_descriptors();
    small_files_only();
    no_space();
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
