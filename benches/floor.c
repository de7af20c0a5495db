/*
 * The floor of the operations on layers: the same effect on disk and in the mount table by the fewest system calls, without
 * checks, locks, proofs, and ways back.  usage: floor HOME DEPTH ROUNDS none|full [marks]
 *
 * Prints a line `OPERATION MICROSECONDS` for each operation of each round.  "full" forces creations and removals to disk with one
 * fsync.  With "marks", calls that fail stand around each operation, for who counts system calls in a trace.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LINK_LENGTH 26
#define FSCONFIG_STRING 1
#define FSCONFIG_CREATE 6
#define MOVE_FROM_FD 4

static int home, sync_it, marks, depth;
/* Of the layer's `lower` file. */
static char lowers[500 * (LINK_LENGTH + 3)];

static void must(int good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

static void name_link(char *link, long number)
{
    snprintf(link, 2 + LINK_LENGTH + 1, "l/%026lx", number);
}

static void put(const char *path, const char *text)
{
    int fd = openat(home, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0, path);
}

static void flush(void)
{
    must(!sync_it || fsync(home) == 0, "fsync");
}

/* A layer `id` upon the first `below` lowers. */
static void make(const char *id, long number, int below)
{
    static const char *const parts[] = { "", "/diff", "/work", "/merged" };
    char path[256], link[64], text[256];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof(path), "%s%s", id, parts[i]);
        must(mkdirat(home, path, i == 1 ? 0755 : 0700) == 0, path);
    }
    name_link(link, number);
    snprintf(text, sizeof(text), "../%s/diff", id);
    must(symlinkat(text, home, link) == 0, link);
    snprintf(path, sizeof(path), "%s/link", id);
    put(path, link + 2);
    if (below > 0) {
        snprintf(path, sizeof(path), "%s/lower", id);
        put(path, lowers);
    } else {
        snprintf(path, sizeof(path), "%s/empty", id);
        must(mkdirat(home, path, 0700) == 0, path);
    }
}

static void create(void)
{
    make("c", 0xfffff, depth);
    flush();
}

static void set(int fs, const char *key, const char *value)
{
    must(syscall(SYS_fsconfig, fs, FSCONFIG_STRING, key, value, 0) == 0, key);
}

static void read_lowers(char *text, size_t size)
{
    int fd = openat(home, "c/lower", O_RDONLY | O_CLOEXEC);
    ssize_t length = read(fd, text, size - 1);
    must(length >= 0 && close(fd) == 0, "c/lower");
    text[length] = '\0';
}

static void mount_it(void)
{
    static char text[sizeof(lowers)];
    char *rest = text, *lower;
    read_lowers(text, sizeof(text));
    int fs = (int)syscall(SYS_fsopen, "overlay", 1);
    while ((lower = strsep(&rest, ":")) != NULL) {
        set(fs, "lowerdir+", lower);
    }
    set(fs, "upperdir", "c/diff");
    set(fs, "workdir", "c/work");
    must(syscall(SYS_fsconfig, fs, FSCONFIG_CREATE, NULL, NULL, 0) == 0, "create");
    int mounted = (int)syscall(SYS_fsmount, fs, 1, 0);
    must(syscall(SYS_move_mount, mounted, "", home, "c/merged", MOVE_FROM_FD) == 0, "move_mount");
    close(mounted);
    close(fs);
}

static void umount_it(void)
{
    must(umount2("c/merged", MNT_DETACH | UMOUNT_NOFOLLOW) == 0, "umount");
}

static void exists(void)
{
    must(faccessat(home, "c", F_OK, 0) == 0, "c");
}

static void metadata(void)
{
    static char text[sizeof(lowers)];
    read_lowers(text, sizeof(text));
}

/* Of an empty layer. */
static void usage(void)
{
    static char entries[32768];
    int fd = openat(home, "c/diff", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    must(fstat(fd, &st) == 0, "c/diff");
    while (syscall(SYS_getdents64, fd, entries, sizeof(entries)) > 0) {
    }
    close(fd);
}

static void status(void)
{
    struct statfs fs;
    must(fstatfs(home, &fs) == 0, "statfs");
}

static void remove_it(void)
{
    char link[64];
    name_link(link, 0xfffff);
    unlinkat(home, link, 0);
    unlinkat(home, "c/lower", 0);
    unlinkat(home, "c/link", 0);
    unlinkat(home, "c/work/work", AT_REMOVEDIR);
    unlinkat(home, "c/work", AT_REMOVEDIR);
    unlinkat(home, "c/diff", AT_REMOVEDIR);
    unlinkat(home, "c/merged", AT_REMOVEDIR);
    must(unlinkat(home, "c", AT_REMOVEDIR) == 0, "rmdir c");
    flush();
}

/* The content of c/big: directories of a thousand files each, emptied entry by entry. */
static void remove_files(void)
{
    DIR *dirs = fdopendir(openat(home, "c/big", O_RDONLY | O_DIRECTORY));
    struct dirent *dir, *file;
    while ((dir = readdir(dirs)) != NULL) {
        if (dir->d_name[0] == '.') {
            continue;
        }
        int fd = openat(dirfd(dirs), dir->d_name, O_RDONLY | O_DIRECTORY);
        DIR *files = fdopendir(fd);
        while ((file = readdir(files)) != NULL) {
            if (file->d_name[0] != '.') {
                unlinkat(fd, file->d_name, 0);
            }
        }
        closedir(files);
        unlinkat(dirfd(dirs), dir->d_name, AT_REMOVEDIR);
    }
    closedir(dirs);
    must(unlinkat(home, "c/big", AT_REMOVEDIR) == 0, "c/big");
    flush();
}

static void make_files(int count)
{
    char path[64];
    must(mkdirat(home, "c/big", 0700) == 0, "c/big");
    for (int i = 0; i < count; i++) {
        if (i % 1000 == 0) {
            snprintf(path, sizeof(path), "c/big/%d", i / 1000);
            mkdirat(home, path, 0700);
        }
        snprintf(path, sizeof(path), "c/big/%d/%d", i / 1000, i);
        close(openat(home, path, O_WRONLY | O_CREAT, 0644));
    }
}

static void mark(const char *name)
{
    char path[64];
    snprintf(path, sizeof(path), "/mark %s", name);
    if (marks) {
        must(chdir(path) != 0, path);
    }
}

static void timed(const char *name, void (*operation)(void))
{
    struct timespec from, to;
    mark(name);
    clock_gettime(CLOCK_MONOTONIC, &from);
    operation();
    clock_gettime(CLOCK_MONOTONIC, &to);
    mark("end");
    printf("%s %.2f\n", name, (double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_nsec - from.tv_nsec) / 1e3);
}

int main(int argc, char **argv)
{
    must(argc >= 5, "usage");
    int rounds = atoi(argv[3]);
    depth = atoi(argv[2]);
    marks = argc > 5;
    must((mkdir(argv[1], 0700) == 0 || errno == EEXIST) && chdir(argv[1]) == 0, argv[1]);
    home = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(mkdirat(home, "l", 0700) == 0, "l");
    for (int i = 0; i < depth; i++) {
        char id[32], link[64], text[sizeof(lowers)];
        snprintf(id, sizeof(id), "layer%d", i);
        make(id, i, i);
        name_link(link, i);
        strcpy(text, lowers);
        snprintf(lowers, sizeof(lowers), i > 0 ? "%s:%s" : "%s%s", link, text);
    }
    sync_it = strcmp(argv[4], "full") == 0;
    for (int i = 0; i < rounds; i++) {
        timed("create_rw", create);
        timed("mount", mount_it);
        timed("umount", umount_it);
        timed("exists", exists);
        timed("metadata", metadata);
        timed("usage", usage);
        timed("status", status);
        timed("rm", remove_it);
    }
    for (int i = 0; i < (depth == 1 ? 3 : 0); i++) {
        make("c", 0xfffff, depth);
        make_files(20000);
        timed("rm of 20,000 files", remove_files);
        remove_it();
    }
    return 0;
}
