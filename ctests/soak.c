/* Two minutes (or as many seconds as GRAPHDRIVER_SOAK says) of everything on four threads, in rounds. After each the process and
   the filesystem are as after the ones before: descriptors, mounts, threads, children, memory, blocks and inodes. */
#define _GNU_SOURCE
#include "check.h"
#include "layers.h"
#include "store.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/statvfs.h>
#include <time.h>

#define THREADS 4
#define LIVES 8 /* of each thread in a round */
#define GROWTH_KIB 512 /* of memory that the allocator keeps */
#define LEAK 4096 /* bytes: of what a map keeps while it grows and shrinks */

struct state {
    size_t fds, mounts, threads, children, resident, allocated;
    fsblkcnt_t blocks;
    fsfilcnt_t inodes;
};

static struct state take(const char *root)
{
    struct statvfs room;
    struct mallinfo2 memory = mallinfo2();
    CHECK(statvfs(root, &room) == 0);
    return (struct state){ .fds = count_fds(), .mounts = count_mounts(), .threads = count_threads(), .children = count_children(),
                           .resident = resident_kib(), .allocated = memory.uordblks + memory.hblkhd, .blocks = room.f_blocks - room.f_bfree,
                           .inodes = room.f_files - room.f_ffree };
}

static ssize_t swallow(void *context, const void *bytes, size_t length)
{
    (void)bytes;
    *(size_t *)context += length;
    return (ssize_t)length;
}

static int ignore_change(void *context, int change, const char *path)
{
    (void)context, (void)change, (void)path;
    return 0;
}

static int each_layer(void *context, const struct graphdriver_layer *layer)
{
    CHECK(layer->id);
    (*(size_t *)context)++;
    return 0;
}

static int each_finding(void *context, const struct graphdriver_finding *finding)
{
    (void)context;
    if (finding->severity > GRAPHDRIVER_NOTE)
        fprintf(stderr, "%s: %s\n", finding->layer ? finding->layer : "the store", finding->what);
    CHECK(finding->severity <= GRAPHDRIVER_NOTE);
    return 0;
}

static void export(const char *id)
{
    size_t written = 0;
    struct graphdriver_diff request = { .size = sizeof request, .context = &written, .write = swallow };
    CHECK(graphdriver_diff(id, &request) == 0 && written == request.bytes);
    CHECK(graphdriver_changes(id, NULL, ignore_change, NULL) == 0);
}

/* What fails leaves nothing behind either. */
static void fail(const char *id, const char *parent)
{
    struct driver_create_opts options = { NULL, NULL };
    struct tar tar = { 0 };
    tar_file(&tar, "first", 0644, "content\n");
    tar_file(&tar, "second", 0644, "content\n");
    tar_end(&tar);
    tar.size = 1400; /* in the middle of the second */
    struct io_read_wrapper content = { .context = &tar, .read = tar_read };
    CHECK(graphdriver_create_ro(id, parent, &options) == 0);
    CHECK(graphdriver_apply_diff(id, &content, NULL) == -1 && errno == EBADMSG);
    tar_free(&tar);
    drop(id);
    CHECK(graphdriver_create_rw(id, "missing", &options) == -1 && errno == ENOENT);
    CHECK(graphdriver_mount_layer(id, NULL) == NULL && errno == ENOENT);
}

static void live(const char *image, const char *container)
{
    uint64_t bytes, inodes;
    make_second(image, "base");
    make_rw(container, image);
    char *root = graphdriver_mount_layer(container, NULL);
    CHECK(root);
    char file[4200];
    snprintf(file, sizeof file, "%s/written", root);
    write_file(file, "by the container\n");
    export(container);
    char *lower = metadata(container, "LowerDir");
    CHECK(lower);
    CHECK(graphdriver_get_layer_usage(container, &bytes, &inodes) == 0 && bytes > 0);
    CHECK(graphdriver_umount_layer(container) == 0);
    CHECK(graphdriver_try_repair_lowers(container, image) == 0);
    struct graphdriver_status *status = graphdriver_get_status();
    CHECK(status);
    free_graphdriver_status(status);
    fail(container + 1, "base"); /* another id */
    drop(container);
    drop(image);
    free(lower);
    free(root);
}

static void *work(void *argument)
{
    char image[32], container[32];
    snprintf(image, sizeof image, "image-%d", *(int *)argument);
    snprintf(container, sizeof container, "container-%d", *(int *)argument);
    for (int i = 0; i < LIVES; i++)
        live(image, container);
    return NULL;
}

static void round_of_everything(const char *root)
{
    pthread_t threads[THREADS];
    int numbers[THREADS];
    size_t layers = 0;
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, work, &numbers[i]) == 0);
    }
    struct graphdriver_check check = { .size = sizeof check, .each = each_finding, .flags = GRAPHDRIVER_MEND };
    CHECK(graphdriver_check(&check) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    struct graphdriver_list_layers list = { .size = sizeof list, .context = &layers, .each = each_layer };
    CHECK(graphdriver_list_layers(&list) == 0 && layers == 1);
    wait_until_idle();
    CHECK(graphdriver_cleanup() == 0);
    CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    wait_until_idle();
}

int main(void)
{
    CHECK(getenv("GLIBC_TUNABLES")); /* glibc.malloc.tcache_count=0: what a thread keeps for itself counts as allocated */
    mallopt(M_ARENA_MAX, 1); /* else up to 16 of them grow to their size, one after the other */
    mallopt(M_MMAP_THRESHOLD, 128 * 1024); /* as it begins; else it rises, and the heap keeps the buffers of as many unpacks as ever met */
    const char *seconds = getenv("GRAPHDRIVER_SOAK");
    const char *root = start("soak");
    make_base("base");
    for (int i = 0; i < 4; i++) /* lets allocator, caches and directories reach their size */
        round_of_everything(root);
    struct state before = take(root), now = before;
    time_t until = time(NULL) + (seconds ? atol(seconds) : 120);
    unsigned long rounds = 0;
    for (; rounds == 0 || time(NULL) < until; rounds++) {
        round_of_everything(root);
        now = take(root);
        CHECK(now.fds == before.fds);
        CHECK(now.mounts == before.mounts);
        CHECK(now.threads == before.threads);
        CHECK(now.children == before.children);
        CHECK(now.inodes == before.inodes);
        CHECK(now.blocks == before.blocks);
        CHECK(now.resident <= before.resident + GROWTH_KIB);
        CHECK(now.allocated <= before.allocated + LEAK);
    }
    printf("%lu lives in %lu rounds; resident: %zu KiB, then %zu KiB; allocated: %zu, then %zu; fds %zu, mounts %zu, threads %zu, inodes %zu, blocks %zu\n",
           rounds * THREADS * LIVES, rounds, before.resident, now.resident, before.allocated, now.allocated, now.fds, now.mounts, now.threads, (size_t)now.inodes,
           (size_t)now.blocks);
    return 0;
}
