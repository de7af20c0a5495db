#define _GNU_SOURCE
#include "store.h"
#include "check.h"

#include <graphdriver.h>

#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define STORES "/tmp/graphdriver-ctest"
#define STORE_BYTES (1LL << 30) /* sparse */

/* Weak: the tests that load the library with dlopen() do not link it. */
__typeof__(graphdriver_check) graphdriver_check __attribute__((weak));

extern char **environ;
static char root[256];
static pid_t owner;
static bool is_damaged;

void store_leaves_damage(void)
{
    is_damaged = true;
}

static int find_fault(void *context, const struct graphdriver_finding *finding)
{
    if (finding->severity < GRAPHDRIVER_NEEDS_HAND)
        return 0;
    ++*(int *)context;
    fprintf(stderr, "the test left a store that is not sound: %s: %s\n", finding->layer ? finding->layer : "-", finding->what);
    return 0;
}

/* Past the driver, which may still be initialised. */
static int count_faults(void)
{
    int faults = 0;
    static const char *const places[][2] = { { "overlay2", "" }, { "overlay2", "/storage" } };
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        char parent[300], home[320];
        snprintf(parent, sizeof parent, "%s%s", root, places[i][1]);
        snprintf(home, sizeof home, "%s/%s", parent, places[i][0]);
        struct graphdriver_check request = {
            .size = sizeof request, .context = &faults, .each = find_fault, .driver = places[i][0], .root = parent,
        };
        if (path_exists(home) && graphdriver_check(&request) != 0) {
            fprintf(stderr, "the store cannot be checked: %s\n", graphdriver_last_error());
            faults++;
        }
    }
    return faults;
}

static void store_remove(int status, void *nothing)
{
    (void)nothing;
    if (getpid() != owner)
        return;
    bool failed = status == 0 && !is_damaged && graphdriver_check && count_faults() > 0;
    /* The mounts below go with it; the last user's leaving frees the loop device. */
    umount2(root, MNT_DETACH);
    rmdir(root);
    if (failed) {
        fflush(NULL);
        _exit(1);
    }
}

/* Removes the directories and images of runs that were killed. Those of live ones are locked: they stay. */
static void sweep(DIR *dir, const char *name)
{
    for (struct dirent *entry; (entry = readdir(dir));) {
        size_t length = strlen(name);
        if (strncmp(entry->d_name, name, length) != 0 || entry->d_name[length] != '.')
            continue;
        int fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) {
            unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR);
            unlinkat(dirfd(dir), entry->d_name, 0);
        }
        if (fd >= 0)
            close(fd);
    }
}

/* Attaches the file to a free loop device that frees itself after its last use; gives an fd of it and fills in its path. */
static int loop_attach(int image, char device[32])
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    CHECK(control >= 0);
    for (int attempt = 0; attempt < 64; attempt++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        CHECK(number >= 0);
        snprintf(device, 32, "/dev/loop%d", number);
        int fd = open(device, O_RDWR | O_CLOEXEC);
        CHECK(fd >= 0);
        struct loop_config config = { .fd = image, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
        if (ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
            close(control);
            return fd;
        }
        CHECK(errno == EBUSY); /* someone else was faster */
        close(fd);
    }
    check_failed(__FILE__, __LINE__, "a free loop device");
}

/* To the directory that has no other above it. The root must be below the current directory: it ends the way up otherwise. */
static void climb(void)
{
    struct stat here, above;
    do {
        CHECK(stat(".", &here) == 0 && chdir("..") == 0 && stat(".", &above) == 0);
    } while (here.st_dev != above.st_dev || here.st_ino != above.st_ino);
}

/* Nothing that is mounted from now on is seen outside. Only a mount point can be made private, and what chroot(2) was given
   need not be one: then the root of the whole namespace is climbed to, past a root that lies deeper for the moment. */
static void make_private(void)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
        return;
    CHECK(errno == EINVAL);
    int old_root = open("/", O_PATH | O_CLOEXEC), old_cwd = open(".", O_PATH | O_CLOEXEC);
    CHECK(old_root >= 0 && old_cwd >= 0);
    CHECK(chdir("/") == 0 && chroot("tmp") == 0);
    climb();
    CHECK(mount(NULL, ".", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    CHECK(fchdir(old_root) == 0 && chroot(".") == 0 && fchdir(old_cwd) == 0);
    close(old_root);
    close(old_cwd);
}

const char *store_make(const char *name)
{
    CHECK(geteuid() == 0);
    CHECK(unshare(CLONE_NEWNS) == 0);
    make_private();
    CHECK(mkdir(STORES, 0700) == 0 || errno == EEXIST);
    DIR *stores = opendir(STORES);
    CHECK(stores && flock(dirfd(stores), LOCK_EX) == 0); /* until ours are locked too */
    sweep(stores, name);

    snprintf(root, sizeof root, STORES "/%s.XXXXXX", name);
    CHECK(mkdtemp(root));
    owner = getpid();
    on_exit(store_remove, NULL);
    int lock = open(root, O_RDONLY | O_CLOEXEC); /* stays open, and locked, as long as the process lives */
    CHECK(lock >= 0 && flock(lock, LOCK_EX) == 0);

    char path[300], device[32];
    snprintf(path, sizeof path, "%s.img", root);
    int image = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(image >= 0 && ftruncate(image, STORE_BYTES) == 0);
    CHECK(flock(image, LOCK_EX) == 0);
    int made = run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1", path, (char *)NULL);
    CHECK(unlink(path) == 0 && made == 0);
    int loop = loop_attach(image, device);
    CHECK(mount(device, root, "ext4", 0, NULL) == 0);
    close(loop);
    close(image);
    closedir(stores);
    return root;
}

const char *store_path(const char *format, ...)
{
    static _Thread_local char paths[16][768]; /* of the stack of each thread, which may be small */
    static _Thread_local unsigned next;
    char *path = paths[next++ % 16];
    int length = snprintf(path, sizeof paths[0], "%s/", root);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + length, sizeof paths[0] - (size_t)length, format, arguments);
    va_end(arguments);
    return path;
}

int run(const char *program, ...)
{
    char *argv[32] = { (char *)program };
    va_list arguments;
    va_start(arguments, program);
    for (size_t i = 1; i < 31 && (argv[i] = va_arg(arguments, char *)); i++)
        ;
    va_end(arguments);
    pid_t pid;
    int status, error = posix_spawnp(&pid, program, NULL, NULL, argv, environ);
    if (error) {
        fprintf(stderr, "%s: %s\n", program, strerror(error));
        return 127;
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

char *read_file(const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return NULL;
    char *text = calloc(1, 1 << 16);
    CHECK(text);
    size_t length = fread(text, 1, (1 << 16) - 1, file);
    text[length] = '\0';
    fclose(file);
    return text;
}

void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

bool path_exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0;
}

static size_t count_entries(const char *path)
{
    DIR *dir = opendir(path);
    CHECK(dir);
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

size_t count_fds(void)
{
    return count_entries("/proc/self/fd") - 1; /* less the one that looks */
}

size_t count_threads(void)
{
    return count_entries("/proc/self/task");
}

void wait_until_idle(void)
{
    for (int i = 0; count_threads() > 1; i++) {
        CHECK(i < 6000);
        usleep(10000);
    }
}

size_t count_mounts(void)
{
    FILE *file = fopen("/proc/thread-self/mountinfo", "re");
    CHECK(file);
    size_t count = 0;
    for (int c; (c = getc(file)) != EOF;)
        count += c == '\n';
    fclose(file);
    return count;
}

size_t count_children(void)
{
    char *text = read_file("/proc/thread-self/children");
    CHECK(text);
    size_t count = 0;
    for (const char *c = text; *c; c++)
        count += *c == ' ';
    free(text);
    return count;
}

size_t resident_kib(void)
{
    char *text = read_file("/proc/self/status");
    const char *line = text ? strstr(text, "VmRSS:") : NULL;
    CHECK(line);
    size_t kib = strtoul(line + strlen("VmRSS:"), NULL, 10);
    free(text);
    return kib;
}

bool is_mounted(const char *path)
{
    FILE *file = fopen("/proc/thread-self/mountinfo", "re");
    CHECK(file);
    char line[65536], point[4096];
    bool found = false;
    while (!found && fgets(line, sizeof line, file))
        found = sscanf(line, "%*s %*s %*s %*s %4095s", point) == 1 && strcmp(point, path) == 0;
    fclose(file);
    return found;
}
