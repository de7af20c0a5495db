/* Whether a second thread deletes faster: the least that it could do, without the care that the library takes.
 *
 *   cc -O2 -o tried tried.c -lpthread
 *   ./tried DIRECTORY THREADS     deletes everything in a directory; each thread takes one of its sub-directories after another
 *
 * Each run wants a fresh file system, and the contestants have to take turns. docs/performance.md has the outcome. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1024 };
static char *tops[MOST];
static int count, top;
static atomic_int next;

static void empty(int fd)
{
    DIR *dir = fdopendir(fd);
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        const char *name = entry->d_name;
        if (!strcmp(name, ".") || !strcmp(name, ".."))
            continue;
        if (unlinkat(fd, name, entry->d_type == DT_DIR ? AT_REMOVEDIR : 0) == 0 || entry->d_type != DT_DIR)
            continue;
        empty(openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        unlinkat(fd, name, AT_REMOVEDIR);
    }
    closedir(dir);
}

static void *work(void *unused)
{
    (void)unused;
    for (int i; (i = atomic_fetch_add(&next, 1)) < count;) {
        empty(openat(top, tops[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        unlinkat(top, tops[i], AT_REMOVEDIR);
    }
    return NULL;
}

static double now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    pthread_t threads[16];
    int wanted = argc == 3 ? atoi(argv[2]) : 0;
    DIR *dir = argc == 3 ? opendir(argv[1]) : NULL;
    if (!dir || wanted < 1 || wanted > 16)
        return fprintf(stderr, "usage: %s DIRECTORY THREADS\n", argv[0]), 2;
    top = dirfd(dir);
    for (struct dirent *entry; count < MOST && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            tops[count++] = strdup(entry->d_name);
    double start = now(CLOCK_MONOTONIC);
    for (int i = 0; i < wanted; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < wanted; i++)
        pthread_join(threads[i], NULL);
    printf("%d threads: %.3f s, CPU %.3f s\n", wanted, now(CLOCK_MONOTONIC) - start, now(CLOCK_PROCESS_CPUTIME_ID));
    return 0;
}
