/* A host program that changes its ids while a layer is unpacked. glibc carries set*id(2) to all threads, those of the library
   included, and aborts the process where one of them has another outcome. The layer is what the archive says all the same. */
#define _GNU_SOURCE
#include "check.h"
#include "layers.h"
#include "store.h"

#include <grp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILES 400

static void *change_and_back(void *unused)
{
    static const gid_t groups[] = { 7, 8, 9 };
    gid_t before[64];
    int count = getgroups(64, before);
    CHECK(count >= 0);
    CHECK(setgroups(3, groups) == 0 && setgroups((size_t)count, before) == 0);
    CHECK(setegid(1000) == 0 && setegid(0) == 0);
    CHECK(seteuid(1000) == 0 && seteuid(0) == 0);
    CHECK(setresgid(1000, 1000, 0) == 0 && setresgid(0, 0, 0) == 0);
    CHECK(setresuid(1000, 1000, 0) == 0 && setresuid(0, 0, 0) == 0);
    CHECK(setreuid(0, 1000) == 0 && setuid(1000) == 0 && setreuid((uid_t)-1, 0) == 0 && setuid(0) == 0);
    /* Failures have to be the same everywhere as well. */
    CHECK(setgroups(1 << 20, NULL) == -1 && errno == EINVAL);
    CHECK(setuid((uid_t)-1) == -1 && errno == EINVAL);
    CHECK(seteuid(1000) == 0);
    CHECK(setresuid(2000, 2000, 2000) == -1 && errno == EPERM);
    CHECK(setgid(2000) == -1 && errno == EPERM);
    CHECK(seteuid(0) == 0 && geteuid() == 0 && getegid() == 0);
    return unused;
}

struct source {
    struct tar tar;
    size_t chunks;
    void *(*at_each)(void *);
};

/* Gives the archive in pieces; between them another thread of the host does something. */
static ssize_t in_pieces(void *context, void *buffer, size_t length)
{
    struct source *source = context;
    pthread_t thread;
    if (source->at_each) {
        CHECK(pthread_create(&thread, NULL, source->at_each, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    source->chunks++;
    return tar_read(&source->tar, buffer, length > 4096 * 3 ? 4096 * 3 : length);
}

static void fill(struct tar *tar)
{
    char name[64], content[4096];
    memset(content, 'x', sizeof content - 1);
    content[sizeof content - 1] = '\0';
    tar_dir(tar, "open/", 01777); /* where anybody may make files */
    tar_dir(tar, "closed/", 0700);
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "%s/%d", i % 2 ? "open" : "closed", i);
        tar_file(tar, name, i % 3 ? 0644 : 04755, content);
    }
    tar_symlink(tar, "open/link", "0");
    tar_end(tar);
}

static void check_tree(const char *diff)
{
    struct stat status;
    for (int i = 0; i < FILES; i++) {
        char path[5000];
        snprintf(path, sizeof path, "%s/%s/%d", diff, i % 2 ? "open" : "closed", i);
        CHECK(stat(path, &status) == 0);
        CHECK(status.st_uid == 0 && status.st_gid == 0 && status.st_size == 4095);
        CHECK((status.st_mode & 07777) == (i % 3 ? 0644U : 04755U));
    }
}

static void unpack(const char *id, struct source *source)
{
    struct driver_create_opts none = { NULL, NULL };
    fill(&source->tar);
    CHECK(graphdriver_create_ro(id, NULL, &none) == 0);
    CHECK(graphdriver_unpack_layer(id, source, in_pieces, NULL) == 0);
    char *upper = metadata(id, "UpperDir");
    CHECK(upper);
    check_tree(upper);
    free(upper);
    tar_free(&source->tar);
}

static atomic_bool done;

/* Groups only: the calling thread needs its user for what it does itself. */
static void *change_all_the_time(void *count)
{
    static const gid_t groups[] = { 7, 8, 9 };
    while (!atomic_load(&done)) {
        CHECK(setgroups(3, groups) == 0 && setgroups(0, NULL) == 0);
        CHECK(setegid(1000) == 0 && setegid(0) == 0);
        atomic_fetch_add((atomic_int *)count, 1);
    }
    return NULL;
}

static void *give_up_root(void *unused)
{
    static atomic_bool gone;
    if (atomic_exchange(&gone, true))
        return unused;
    CHECK(setgroups(0, NULL) == 0 && setgid(1000) == 0 && setuid(1000) == 0);
    CHECK(setuid(0) == -1 && errno == EPERM); /* what a careful program makes sure of */
    return unused;
}

int main(void)
{
    start("ids");
    struct source source = { .at_each = change_and_back };
    unpack("between", &source);
    CHECK(source.chunks > 20);

    atomic_int count = 0;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, change_all_the_time, &count) == 0);
    for (int i = 0; i < 5; i++) {
        source = (struct source){ 0 };
        unpack("meanwhile", &source);
        drop("meanwhile");
    }
    atomic_store(&done, true);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("%d changes\n", (int)count);
    CHECK(count > 5);

    /* Root given up for good in the middle: the call fails, and the process lives. In a process of its own. */
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct driver_create_opts none = { NULL, NULL };
        source = (struct source){ .at_each = give_up_root };
        fill(&source.tar);
        CHECK(graphdriver_create_ro("given-up", NULL, &none) == 0);
        CHECK(graphdriver_unpack_layer("given-up", &source, in_pieces, NULL) == -1);
        CHECK(errno == EPERM || errno == EACCES);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
