/* A container's root filesystem, from layer archives to a running program and back to nothing: all that a daemon asks of
   libgraphdriver, in the order in which it asks.

       example LAYER...      layer archives, lowest first: tar, plain or compressed with gzip, zstd, xz or bzip2

   What a daemon would not have is marked "scaffolding": the store on a loop device in a mount namespace of this process
   (ctests/support/store.h), which the kernel takes down whatever way the process ends, and the in-memory tar writer. */
#define _GNU_SOURCE
#include "check.h"
#include "store.h"
#include "tar.h"

#include <fcntl.h>
#include <graphdriver.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_LAYERS 32

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    stopped = signal;
}

static double milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* Every function of the library that fails leaves the reason with this thread: a sentence fit for the user. */
static int failed(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, stopped ? "interrupted" : graphdriver_last_error());
    return -1;
}

/* The library writes nothing to stdout or stderr by itself. Levels are those of syslog(3): 3 error, 4 warning, ... */
static void log_line(int level, const char *line, void *user)
{
    (void)user;
    if (level == 4)
        fprintf(stderr, "warning: %s\n", line);
}

/* What the library reads a layer from: anything with a function like read(2). It runs on the thread that called, so it may
   show progress; when it returns -1 the unpacking ends, which is how a daemon cancels a download. */
struct source {
    int fd;
    off_t size, done;
    bool terminal;
};

static ssize_t read_source(void *context, void *buffer, size_t length)
{
    struct source *source = context;
    ssize_t count = stopped ? -1 : read(source->fd, buffer, length);
    if (count > 0)
        source->done += count;
    if (source->terminal)
        printf("\r  %lld of %lld bytes read\033[K", (long long)source->done, (long long)source->size), fflush(stdout);
    return count;
}

/* An image layer is made read-only on top of its parent, and filled once. */
static int add_layer(const char *id, const char *parent, const char *archive)
{
    struct driver_create_opts options = { NULL, NULL };
    struct source source = { .fd = open(archive, O_RDONLY | O_CLOEXEC), .terminal = isatty(STDOUT_FILENO) };
    struct stat status;
    int64_t size = 0;
    if (source.fd < 0 || fstat(source.fd, &status) != 0) {
        perror(archive);
        return -1;
    }
    source.size = status.st_size;
    double start = milliseconds();
    int result = graphdriver_create_ro(id, parent, &options);
    if (result == 0)
        result = graphdriver_unpack_layer(id, &source, read_source, &size);
    close(source.fd);
    if (source.terminal)
        printf("\r\033[K");
    if (result != 0)
        return failed(archive);
    printf("  %-16s %8lld bytes read, %8lld unpacked, %7.1f ms\n", id, (long long)source.done, (long long)size,
           milliseconds() - start);
    return 0;
}

/* A layer that takes away: `.wh.NAME` deletes NAME of the layers below. (Scaffolding writes the archive.) */
static int add_whiteouts(const char *id, const char *parent)
{
    struct driver_create_opts options = { NULL, NULL };
    struct tar tar = { 0 };
    tar_file(&tar, "usr/share/.wh.doc", 0644, "");
    tar_file(&tar, "etc/motd", 0644, "Welcome to a container.\n");
    tar_end(&tar);
    int result = graphdriver_create_ro(id, parent, &options);
    if (result == 0)
        result = graphdriver_unpack_layer(id, &tar, tar_read, NULL);
    tar_free(&tar);
    if (result != 0)
        return failed(id);
    printf("  %-16s deletes usr/share/doc, adds etc/motd\n", id);
    return 0;
}

/* What `isula info` and `isula inspect` show. Whatever the library returns was made with malloc(): it has functions to free
   it, and free() would do. */
static int describe(const char *id)
{
    json_map_string_string *map = calloc(1, sizeof *map);
    struct graphdriver_status *status = graphdriver_get_status();
    uint64_t bytes, inodes;
    int result = -1;
    if (map && status && graphdriver_get_layer_metadata(id, map) == 0 &&
        graphdriver_get_layer_usage(id, &bytes, &inodes) == 0) {
        printf("\nDriver %s on %s:\n%s", status->driver_name, status->backing_fs, status->status);
        printf("\nLayer %s, %llu bytes in %llu inodes of its own:\n", id, (unsigned long long)bytes,
               (unsigned long long)inodes);
        for (size_t i = 0; i < map->len; i++)
            printf("  %-10s %s\n", map->keys[i], map->values[i]);
        result = 0;
    }
    graphdriver_free_map(map);
    free_graphdriver_status(status);
    return result == 0 ? 0 : failed("describe");
}

/* The container: a program that sees the mounted layer as its root, and writes into it. */
static int run_in(const char *rootfs, const char *script)
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (chroot(rootfs) == 0 && chdir("/") == 0)
            execl("/bin/busybox", "sh", "-c", script, (char *)NULL);
        perror("run /bin/busybox in the container");
        _exit(127);
    }
    if (pid < 0 || TEMP_FAILURE_RETRY(waitpid(pid, &status, 0)) != pid || status != 0)
        return -1;
    return 0;
}

static ssize_t write_file_descriptor(void *context, const void *bytes, size_t length)
{
    return write(*(int *)context, bytes, length);
}

static ssize_t read_file_descriptor(void *context, void *buffer, size_t length)
{
    return stopped ? -1 : read(*(int *)context, buffer, length);
}

/* Commits a container: what it changed becomes an archive, as a registry takes it, and that a new image layer on top of the
   same parent. Each request says its own size, so that programs and library may be of different ages; both digests come out
   of the same pass, and going in they are checked. */
static int commit(const char *container, const char *parent, const char *id)
{
    struct driver_create_opts options = { NULL, NULL };
    FILE *file = tmpfile();
    int fd = file ? fileno(file) : -1;
    struct graphdriver_diff out = { .size = sizeof out, .context = &fd, .write = write_file_descriptor,
                                    .compression = GRAPHDRIVER_GZIP };
    struct graphdriver_unpack in = { .size = sizeof in, .context = &fd, .read = read_file_descriptor,
                                     .expected_digest = out.digest, .expected_diff_id = out.diff_id };
    if (!file) {
        perror("a file for the archive");
        return -1;
    }
    double start = milliseconds();
    int result = graphdriver_diff(container, &out);
    if (result == 0)
        result = graphdriver_create_ro(id, parent, &options);
    if (result == 0)
        result = lseek(fd, 0, SEEK_SET) == 0 ? graphdriver_unpack(id, &in) : -1;
    fclose(file);
    if (result != 0)
        return failed("commit");
    printf("\nCommitted as layer %s in %.1f ms: %llu entries in %llu bytes, diff id %.19s...\n", id, milliseconds() - start,
           (unsigned long long)out.entries, (unsigned long long)out.bytes, out.diff_id);
    return 0;
}

static int tour(char **archives, int count, char ids[][64])
{
    const char *parent = NULL;
    printf("Unpacking:\n");
    for (int i = 0; i < count; i++) {
        const char *name = strrchr(archives[i], '/') ? strrchr(archives[i], '/') + 1 : archives[i];
        name += strspn(name, "0123456789-"); /* "1-base-files.tar.xz" is the layer "base-files" */
        snprintf(ids[i], sizeof ids[i], "%.*s", (int)strcspn(name, "_."), name);
        if (add_layer(ids[i], parent, archives[i]) != 0)
            return -1;
        parent = ids[i];
    }
    if (add_whiteouts("without-doc", parent) != 0)
        return -1;

    /* The container's own layer; its changes go nowhere else. The mount point comes back as a string to free(). */
    struct driver_create_opts options = { NULL, NULL };
    double start = milliseconds();
    if (graphdriver_create_rw("container", "without-doc", &options) != 0)
        return failed("create");
    double created = milliseconds();
    char *rootfs = graphdriver_mount_layer("container", NULL);
    if (!rootfs)
        return failed("mount");
    printf("\nMounted in %.2f ms (layer made in %.2f ms): %s\n", milliseconds() - created, created - start, rootfs);

    int result = run_in(rootfs, "echo 'written in the container' >/root/note");
    if (result == 0)
        result = describe("container");
    printf("\nThe root filesystem, as a program in it sees it:\n");
    if (result == 0)
        result = run_in(rootfs, "busybox() { /bin/busybox \"$@\"; }; cd / && busybox ls -l . bin/ root usr/share && "
                                "busybox cat etc/motd root/note");
    free(rootfs);

    /* The container's changes as a layer of an image, and another container upon it. */
    if (result == 0)
        result = commit("container", "without-doc", "committed");
    if (result == 0 && graphdriver_create_rw("second", "committed", &options) != 0)
        result = failed("create");
    rootfs = result == 0 ? graphdriver_mount_layer("second", NULL) : NULL;
    if (rootfs)
        result = run_in(rootfs, "echo -n 'A container made from it reads: '; /bin/busybox cat /root/note");
    else if (result == 0)
        result = failed("mount");
    free(rootfs);
    return stopped ? -1 : result;
}

int main(int argc, char **argv)
{
    char ids[MOST_LAYERS][64] = { "" };
    int count = argc - 1;
    if (count < 1 || count > MOST_LAYERS) {
        fprintf(stderr, "usage: %s LAYER...\n", argv[0]);
        return 2;
    }
    struct sigaction action = { .sa_handler = stop }; /* no SA_RESTART: a read that waits is to return */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);

    const char *root = store_make("example"); /* scaffolding */
    graphdriver_set_log_callback(log_line, NULL);
    if (graphdriver_init_at("overlay2", root, NULL, 0) != 0)
        return failed("init") != 0;
    printf("libgraphdriver %s, store %s\n\n", graphdriver_version(), root);
    int result = tour(argv + 1, count, ids);

    /* Down again, in the opposite order, however far it got: what was never mounted or made is no error here. */
    double start = milliseconds();
    if (graphdriver_umount_layer("second") != 0 || graphdriver_umount_layer("container") != 0)
        result = failed("umount");
    double unmounted = milliseconds();
    if (graphdriver_rm_layer("second") != 0 || graphdriver_rm_layer("committed") != 0 ||
        graphdriver_rm_layer("container") != 0 || graphdriver_rm_layer("without-doc") != 0)
        result = failed("remove");
    for (int i = count - 1; i >= 0; i--) {
        if (*ids[i] && graphdriver_rm_layer(ids[i]) != 0)
            result = failed("remove");
    }
    if (graphdriver_cleanup() != 0)
        result = failed("cleanup");
    if (result == 0)
        printf("\nUnmounted in %.2f ms, all layers removed in %.2f ms.\n", unmounted - start, milliseconds() - unmounted);
    return result != 0;
}
