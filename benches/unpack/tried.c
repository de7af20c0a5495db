/*
 * Ways of making many small files that were weighed against each other (docs/performance.md, "Tried"). Reads the plain archive
 * of the benchmark's layer "small": directories and files with short names, nothing else.
 *
 *   cc -O2 -pthread -o /tmp/tried benches/unpack/tried.c -luring        (Debian: liburing-dev)
 *   /tmp/tried WAY target/bench-layers/small.tar DIRECTORY
 *
 * WAY: one    one thread does all
 *      files  two threads take turns, each with whole files
 *      split  one thread makes the files, the other writes, sets times and closes
 *      ring   io_uring opens, writes and closes, 64 files at a time; it has no call for times, so none are set
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BATCH = 16, BATCHES = 4, RING = 64 };

struct file {
    int fd;
    char name[101];
    mode_t mode;
    const char *data;
    size_t size;
    time_t mtime;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct file files[BATCHES][BATCH];
    int counts[BATCHES];
    unsigned filled, emptied;
    int ended;
} queue = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static struct file batch[RING];
static int batched;

static void check(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void make(struct file *file)
{
    file->fd = open(file->name, O_WRONLY | O_CREAT | O_EXCL, file->mode);
    check(file->fd >= 0, file->name);
}

static void finish(struct file *file)
{
    struct timespec times[2] = { { file->mtime, 0 }, { file->mtime, 0 } };
    if (file->fd < 0) {
        make(file);
    }
    check(write(file->fd, file->data, file->size) == (ssize_t)file->size, "write");
    check(futimens(file->fd, times) == 0 && close(file->fd) == 0, "futimens");
}

static void *second_thread(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&queue.lock);
    for (;;) {
        while (queue.filled == queue.emptied && !queue.ended) {
            pthread_cond_wait(&queue.changed, &queue.lock);
        }
        if (queue.filled == queue.emptied) {
            pthread_mutex_unlock(&queue.lock);
            return NULL;
        }
        unsigned at = queue.emptied % BATCHES;
        pthread_mutex_unlock(&queue.lock);
        for (int i = 0; i < queue.counts[at]; i++) {
            finish(&queue.files[at][i]);
        }
        pthread_mutex_lock(&queue.lock);
        queue.emptied++;
        pthread_cond_signal(&queue.changed);
    }
}

static void pass(int end)
{
    pthread_mutex_lock(&queue.lock);
    while (queue.filled - queue.emptied >= BATCHES) {
        pthread_cond_wait(&queue.changed, &queue.lock);
    }
    memcpy(queue.files[queue.filled % BATCHES], batch, sizeof(struct file) * (size_t)batched);
    queue.counts[queue.filled++ % BATCHES] = batched;
    queue.ended = end;
    batched = 0;
    pthread_cond_signal(&queue.changed);
    pthread_mutex_unlock(&queue.lock);
}

static void submit(struct io_uring *ring)
{
    for (int i = 0; i < batched; i++) {
        struct io_uring_sqe *step = io_uring_get_sqe(ring);
        io_uring_prep_openat_direct(step, AT_FDCWD, batch[i].name, O_WRONLY | O_CREAT | O_EXCL, batch[i].mode, (unsigned)i);
        step->flags |= IOSQE_IO_LINK;
        step = io_uring_get_sqe(ring);
        io_uring_prep_write(step, i, batch[i].data, (unsigned)batch[i].size, 0);
        step->flags |= IOSQE_FIXED_FILE | IOSQE_IO_LINK;
        io_uring_prep_close_direct(io_uring_get_sqe(ring), (unsigned)i);
    }
    check(io_uring_submit_and_wait(ring, 3 * (unsigned)batched) >= 0, "io_uring_submit_and_wait");
    for (; batched > 0; batched--) {
        for (int step = 0; step < 3; step++) {
            struct io_uring_cqe *done;
            check(io_uring_wait_cqe(ring, &done) == 0 && done->res >= 0, "io_uring");
            io_uring_cqe_seen(ring, done);
        }
    }
}

static long octal(const char *field, size_t length)
{
    char text[16] = { 0 };
    memcpy(text, field, length);
    return strtol(text, NULL, 8);
}

int main(int argc, char **argv)
{
    struct stat st;
    struct io_uring ring;
    pthread_t thread;
    char way = argc == 4 ? argv[1][0] : '?';
    int archive = argc == 4 ? open(argv[2], O_RDONLY) : -1, turn = 0;
    check(archive >= 0 && fstat(archive, &st) == 0 && chdir(argv[3]) == 0, "tried WAY ARCHIVE DIRECTORY");
    const char *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, archive, 0);
    const char *end = at + st.st_size;
    umask(0);
    if (way == 'r') {
        check(io_uring_queue_init(4 * RING, &ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN) == 0, "io_uring");
        check(io_uring_register_files_sparse(&ring, RING) == 0, "io_uring");
    } else if (way != 'o') {
        check(pthread_create(&thread, NULL, second_thread, NULL) == 0, "pthread_create");
    }
    while (at < end && *at != '\0') {
        struct file file = { .fd = -1, .data = at + 512 };
        memcpy(file.name, at, 100);
        file.mode = (mode_t)octal(at + 100, 8);
        file.size = (size_t)octal(at + 124, 12);
        file.mtime = octal(at + 136, 12);
        int directory = at[156] == '5';
        at = file.data + (file.size + 511) / 512 * 512;
        if (directory) {
            if (way == 'r') {
                submit(&ring);
            }
            check(mkdir(file.name, file.mode) == 0 || strcmp(file.name, "./") == 0, file.name);
            continue;
        }
        if (way == 's') {
            make(&file);
        }
        if (way == 'o' || (way == 'f' && turn++ % 2 == 0)) {
            finish(&file);
            continue;
        }
        batch[batched++] = file;
        if (way == 'r' && batched == RING) {
            submit(&ring);
        } else if (way != 'r' && batched == BATCH) {
            pass(0);
        }
    }
    if (way == 'r') {
        submit(&ring);
    } else if (way != 'o') {
        pass(1);
        pthread_join(thread, NULL);
    }
    return 0;
}
