/* What else a host program is: one that forks while a call is under way, has closed its standard streams, speaks another
   language, and has threads with small stacks. */
#define _GNU_SOURCE
#include "check.h"
#include "layers.h"
#include "store.h"

#include <dirent.h>
#include <fcntl.h>
#include <locale.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SMALL_STACK (64 << 10)

/* In the child of a fork: what descriptors a program started now would have beside those that the host itself has. */
static int inherited(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        int fd = atoi(entry->d_name);
        count += entry->d_name[0] != '.' && fd > 2 && fd != dirfd(dir) && !(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    return dir ? count : -1;
}

static int forks, inherited_at_start;

/* Called with the unpacking threads at work. The child has neither them nor any use for the library, and ends. */
static ssize_t fork_and_read(void *context, void *buffer, size_t length)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(inherited() == inherited_at_start && *graphdriver_last_error() == '\0' ? 0 : 1);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    forks++;
    return tar_read(context, buffer, length > 2048 ? 2048 : length);
}

static atomic_bool streams_are_back;

/* What goes to a closed stream goes nowhere, least of all into a layer. Returns how often it went somewhere. */
static void *write_to_closed_streams(void *strays)
{
    while (!atomic_load(&streams_are_back))
        for (int fd = 0; fd < 3; fd++)
            *(size_t *)strays += write(fd, "stray", 5) != -1;
    return NULL;
}

static void closed_streams(void)
{
    int kept[3];
    for (int fd = 0; fd < 3; fd++) {
        kept[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 100);
        CHECK(kept[fd] >= 100 && close(fd) == 0);
    }
    pthread_t writer;
    size_t strays = 0;
    CHECK(pthread_create(&writer, NULL, write_to_closed_streams, &strays) == 0);
    for (int i = 0; i < 50; i++)
        whole_life(tar_read);
    atomic_store(&streams_are_back, true);
    CHECK(pthread_join(writer, NULL) == 0);
    for (int fd = 0; fd < 3; fd++) {
        CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF); /* closed as before */
        CHECK(dup2(kept[fd], fd) == fd && close(kept[fd]) == 0);
    }
    CHECK(strays == 0);
}

/* Turkish: the decimal point is a comma, and the small letter of I is not i. Made here, because hosts have few locales. */
static void other_language(void)
{
    CHECK(run("localedef", "-i", "tr_TR", "-f", "UTF-8", store_path("tr_TR.UTF-8"), (char *)NULL) == 0);
    CHECK(setenv("LOCPATH", store_path("."), 1) == 0);
    CHECK(setlocale(LC_ALL, "tr_TR.UTF-8"));
    char number[8];
    snprintf(number, sizeof number, "%.1f", 1.5);
    CHECK_STR(number, "1,5");
    char *options[] = { "OVERLAY2.SIZE=0", "overlay2.SKIP_MOUNT_HOME=false", "archive.max_window=1.5M" };
    CHECK(graphdriver_cleanup() == 0);
    CHECK(graphdriver_init("overlay2", store_path("."), options, 3) == 0);
    whole_life(tar_read);
    CHECK_STR(setlocale(LC_ALL, NULL), "tr_TR.UTF-8");
    CHECK(setlocale(LC_ALL, "C"));
}

static void *on_a_small_stack(void *root)
{
    CHECK(graphdriver_cleanup() == 0);
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    whole_life(tar_read);
    struct graphdriver_status *status = graphdriver_get_status();
    CHECK(status);
    free_graphdriver_status(status);
    make_base("bottom");
    make_second("second", "bottom");
    CHECK(graphdriver_try_repair_lowers("second", "bottom") == 0);
    free(metadata("second", "LowerDir"));
    uint64_t bytes;
    CHECK(graphdriver_get_layer_usage("second", &bytes, NULL) == 0);
    char *path = graphdriver_mount_layer("second", NULL);
    CHECK(path);
    free(path);
    CHECK(graphdriver_mount_layer("nobody", NULL) == NULL && errno == ENOENT);
    drop("second");
    drop("bottom");
    return NULL;
}

int main(void)
{
    const char *root = start("host");
    inherited_at_start = inherited();
    whole_life(fork_and_read);
    CHECK(forks > 5);
    closed_streams();
    other_language();

    pthread_attr_t small;
    pthread_t thread;
    CHECK(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, SMALL_STACK) == 0);
    CHECK(pthread_create(&thread, &small, on_a_small_stack, (void *)root) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
