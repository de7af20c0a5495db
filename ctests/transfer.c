/* Layers in and out: requests with digests, limits and progress; archives exported, unpacked again and told apart. */
#define _GNU_SOURCE
#include "check.h"
#include "layers.h"
#include "store.h"

#include <limits.h>

struct sink {
    struct tar tar;
    size_t most; /* fails beyond */
};

static ssize_t into(void *context, const void *bytes, size_t length)
{
    struct sink *sink = context;
    if (sink->tar.size + length > sink->most) {
        errno = EDQUOT;
        return -1;
    }
    if (length > 1000)
        length = 1000; /* as a socket might take it */
    sink->tar.data = realloc(sink->tar.data, sink->tar.size + length);
    CHECK(sink->tar.data);
    memcpy(sink->tar.data + sink->tar.size, bytes, length);
    sink->tar.size += length;
    return (ssize_t)length;
}

static struct graphdriver_diff export(const char *id, const char *base, uint32_t compression, struct sink *sink)
{
    struct graphdriver_diff request = { .size = sizeof request, .context = sink, .write = into, .base = base, .compression = compression };
    sink->most = SIZE_MAX;
    CHECK(graphdriver_diff(id, &request) == 0);
    CHECK(request.bytes == sink->tar.size && request.entries > 0);
    return request;
}

static uint64_t told_bytes, told_entries;
static unsigned times;

static ssize_t read_context(void *context, void *buffer, size_t length)
{
    return tar_read(context, buffer, length);
}

static void progress(void *context, uint64_t bytes, uint64_t entries)
{
    CHECK(context && bytes >= told_bytes && entries >= told_entries);
    told_bytes = bytes, told_entries = entries, times++;
}

static int note(void *context, int change, const char *path)
{
    char *text = context;
    snprintf(text + strlen(text), 400 - strlen(text), "%c%s ", "AMD"[change], path);
    return 0;
}

static int stop(void *context, int change, const char *path)
{
    (void)context, (void)change, (void)path;
    return 1;
}

static void requests_of_any_size(const char *id)
{
    struct {
        struct graphdriver_diff known;
        char later[16];
    } newer = { 0 };
    struct sink sink = { .most = SIZE_MAX };
    newer.known.size = sizeof newer, newer.known.context = &sink, newer.known.write = into;
    CHECK(graphdriver_diff(id, &newer.known) == 0);
    newer.later[15] = 1;
    CHECK(graphdriver_diff(id, &newer.known) == -1 && errno == E2BIG);
    newer.known.size = sizeof newer.known - 1;
    CHECK(graphdriver_diff(id, &newer.known) == -1 && errno == EINVAL);
    CHECK(graphdriver_diff(id, NULL) == -1 && errno == EINVAL);
    newer.known.size = sizeof newer.known, newer.known.write = NULL;
    CHECK(graphdriver_diff(id, &newer.known) == -1 && errno == EINVAL);
    newer.known.write = into, newer.known.compression = 3;
    CHECK(graphdriver_diff(id, &newer.known) == -1 && errno == EINVAL);
    newer.known.compression = GRAPHDRIVER_GZIP, newer.known.level = 10;
    CHECK(graphdriver_diff(id, &newer.known) == -1 && errno == EINVAL);
    newer.known.level = 0, newer.known.flags = 2;
    CHECK(graphdriver_diff(id, &newer.known) == -1 && errno == EINVAL);
    CHECK(graphdriver_unpack(id, NULL) == -1 && errno == EINVAL);
    tar_free(&sink.tar);
}

int main(void)
{
    start("transfer");
    make_base("first");
    make_second("second", "first");
    make_rw("container", "second");
    char *root = graphdriver_mount_layer("container", NULL);
    CHECK(root);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/etc/motd", root);
    write_file(path, "changed in the container\n");
    snprintf(path, sizeof path, "%s/index.html", root);
    CHECK(remove(path) == 0);
    free(root);

    char changes[400] = "";
    CHECK(graphdriver_changes("container", NULL, note, changes) == 0);
    CHECK_STR(changes, "M/ M/etc M/etc/motd D/index.html ");
    CHECK(graphdriver_changes("container", "second", stop, NULL) == -1 && errno == ECANCELED);
    uint64_t bytes = 0;
    CHECK(graphdriver_diff_size("container", "", &bytes) == 0 && bytes == 25);
    CHECK(graphdriver_changes("container", NULL, NULL, NULL) == -1 && errno == EINVAL);
    CHECK(graphdriver_diff_size("container", NULL, NULL) == -1 && errno == EINVAL);
    CHECK(graphdriver_diff_size("container", "container", &bytes) == -1 && errno == EINVAL);
    CHECK(graphdriver_diff_size("nobody", NULL, &bytes) == -1 && errno == ENOENT);
    requests_of_any_size("container");

    /* The same archive each time, and the same diff id however it is compressed. */
    struct sink plain = { 0 }, gzip = { 0 }, again = { 0 };
    struct graphdriver_diff first = export("container", NULL, GRAPHDRIVER_PLAIN, &plain);
    CHECK_STR(first.digest, first.diff_id);
    struct graphdriver_diff second = export("container", "second", GRAPHDRIVER_PLAIN, &again);
    CHECK_STR(second.diff_id, first.diff_id);
    struct graphdriver_diff packed = export("container", NULL, GRAPHDRIVER_GZIP, &gzip);
    CHECK_STR(packed.diff_id, first.diff_id);
    CHECK(strcmp(packed.digest, packed.diff_id) != 0 && packed.bytes < first.bytes);

    /* The same without digests, for who has them or needs none. */
    struct sink quick = { .most = SIZE_MAX };
    struct graphdriver_diff without = { .size = sizeof without, .context = &quick, .write = into,
        .flags = GRAPHDRIVER_WITHOUT_DIGESTS };
    CHECK(graphdriver_diff("container", &without) == 0 && !*without.digest && !*without.diff_id);
    CHECK(without.bytes == first.bytes && memcmp(quick.tar.data, plain.tar.data, first.bytes) == 0);
    CHECK(graphdriver_cancel("container") == 0);

    struct sink full = { .most = 3000 };
    struct graphdriver_diff fails = { .size = sizeof fails, .context = &full, .write = into };
    CHECK(graphdriver_diff("container", &fails) == -1 && errno == EDQUOT && !*fails.digest);

    /* Back again, by both digests. */
    struct driver_create_opts none = { NULL, NULL };
    struct graphdriver_unpack request = { .size = sizeof request, .context = &gzip.tar, .read = read_context,
        .progress = progress, .expected_digest = packed.digest, .expected_diff_id = first.diff_id };
    CHECK(graphdriver_create_ro("committed", "second", &none) == 0);
    CHECK(graphdriver_unpack("committed", &request) == 0);
    CHECK_STR(request.digest, packed.digest);
    CHECK_STR(request.diff_id, first.diff_id);
    CHECK(request.bytes == packed.bytes && request.entries == first.entries && request.layer_size == 25);
    CHECK(times > 0 && told_bytes == packed.bytes);
    struct sink back = { 0 };
    CHECK_STR(export("committed", NULL, GRAPHDRIVER_PLAIN, &back).diff_id, first.diff_id);

    /* One wrong digest and nothing is there; limits; a text that is no digest. */
    CHECK(graphdriver_create_ro("refused", "second", &none) == 0);
    const char *wrong[] = { first.digest, packed.digest };
    for (int which = 0; which < 2; which++) {
        struct graphdriver_unpack bad = { .size = sizeof bad, .context = &gzip.tar, .read = read_context };
        *(which ? &bad.expected_diff_id : &bad.expected_digest) = wrong[which];
        gzip.tar.done = 0;
        CHECK(graphdriver_unpack("refused", &bad) == -1 && errno == EBADMSG && !*bad.digest && !bad.bytes);
        CHECK(graphdriver_layer_exists("refused"));
        CHECK(graphdriver_diff_size("refused", NULL, &bytes) == 0 && bytes == 0);
    }
    struct graphdriver_unpack few = { .size = sizeof few, .context = &gzip.tar, .read = read_context, .max_entries = 1 };
    gzip.tar.done = 0;
    CHECK(graphdriver_unpack("refused", &few) == -1 && errno == E2BIG);
    few.max_entries = 0, few.expected_digest = "sha256:1234", gzip.tar.done = 0;
    CHECK(graphdriver_unpack("refused", &few) == -1 && errno == EINVAL && gzip.tar.done == 0);

    /* None is taken, and none can be expected. */
    few.expected_digest = NULL, few.flags = GRAPHDRIVER_WITHOUT_DIGESTS;
    CHECK(graphdriver_unpack("refused", &few) == 0 && !*few.digest && !*few.diff_id && few.layer_size == 25);
    few.expected_digest = packed.digest;
    CHECK(graphdriver_unpack("refused", &few) == -1 && errno == EINVAL);

    tar_free(&plain.tar), tar_free(&quick.tar), tar_free(&gzip.tar), tar_free(&again.tar), tar_free(&full.tar), tar_free(&back.tar);
    drop("container"), drop("committed"), drop("refused"), drop("second"), drop("first");
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
