/* A store is listed and checked: sound, damaged, mended, past the driver, and by requests of any size. */
#define _GNU_SOURCE
#include "check.h"
#include "layers.h"
#include "store.h"

#include <sys/stat.h>
#include <unistd.h>

struct told {
    char text[2000];
    int stop_at, times;
};

static int note_layer(void *context, const struct graphdriver_layer *layer)
{
    struct told *told = context;
    CHECK(layer->size >= sizeof *layer && (layer->state == GRAPHDRIVER_UNUSABLE) == (layer->why != NULL));
    snprintf(told->text + strlen(told->text), sizeof told->text - strlen(told->text), "%s<%s:%u%u ", layer->id,
             layer->parent ? layer->parent : "", layer->access, layer->state);
    return ++told->times == told->stop_at;
}

/* No layer is held: it can be used in here. */
static int note_finding(void *context, const struct graphdriver_finding *finding)
{
    struct told *told = context;
    CHECK(finding->size >= sizeof *finding && *finding->what && *finding->remedy);
    if (finding->layer)
        CHECK(graphdriver_layer_exists(finding->layer));
    snprintf(told->text + strlen(told->text), sizeof told->text - strlen(told->text), "%s:%u%u ",
             finding->layer ? finding->layer : "-", finding->severity, finding->mended);
    return ++told->times == told->stop_at;
}

static struct graphdriver_check check(struct told *told, uint64_t flags, const char *driver, const char *root)
{
    struct graphdriver_check request = {
        .size = sizeof request, .context = told, .each = note_finding, .driver = driver, .root = root, .flags = flags,
    };
    memset(told, 0, sizeof *told);
    CHECK(graphdriver_check(&request) == 0 && errno == 0);
    return request;
}

static struct graphdriver_list_layers list(struct told *told, const char *driver, const char *root)
{
    struct graphdriver_list_layers request = { .size = sizeof request, .context = told, .each = note_layer, .driver = driver, .root = root };
    memset(told, 0, sizeof *told);
    CHECK(graphdriver_list_layers(&request) == 0 && errno == 0);
    return request;
}

static void requests_of_any_size(const char *root)
{
    struct {
        struct graphdriver_check known;
        char later[16];
    } newer = { 0 };
    struct told told = { 0 };
    newer.known.size = sizeof newer, newer.known.context = &told, newer.known.each = note_finding;
    CHECK(graphdriver_check(&newer.known) == 0);
    newer.later[15] = 1;
    CHECK(graphdriver_check(&newer.known) == -1 && errno == E2BIG);
    newer.known.size = sizeof newer.known - 1;
    CHECK(graphdriver_check(&newer.known) == -1 && errno == EINVAL);
    newer.known.size = sizeof newer.known, newer.known.flags = 2;
    CHECK(graphdriver_check(&newer.known) == -1 && errno == EINVAL);
    newer.known.flags = GRAPHDRIVER_MEND, newer.known.driver = "overlay2";
    CHECK(graphdriver_check(&newer.known) == -1 && errno == EINVAL); /* without root */
    newer.known.root = root;
    CHECK(graphdriver_check(&newer.known) == -1 && errno == EINVAL); /* mends past the driver */
    newer.known.flags = 0, newer.known.driver = "overlay3";
    CHECK(graphdriver_check(&newer.known) == -1 && errno == EINVAL);
    newer.known.driver = "overlay2", newer.known.root = "/nonexistent";
    CHECK(graphdriver_check(&newer.known) == -1 && errno == ENOENT);
    newer.known.driver = newer.known.root = NULL, newer.known.each = NULL;
    CHECK(graphdriver_check(&newer.known) == -1 && errno == EINVAL);
    CHECK(graphdriver_check(NULL) == -1 && errno == EINVAL);
    struct graphdriver_list_layers no_function = { .size = sizeof no_function };
    CHECK(graphdriver_list_layers(&no_function) == -1 && errno == EINVAL);
    CHECK(graphdriver_list_layers(NULL) == -1 && errno == EINVAL);
}

int main(void)
{
    struct told told;
    struct graphdriver_check early = { .size = sizeof early, .context = &told, .each = note_finding };
    CHECK(graphdriver_check(&early) == -1 && errno == ENOTCONN);

    start("check_store");
    const char *root = store_path("storage");
    make_base("first");
    make_second("second", "first");
    make_rw("container", "second");
    CHECK(check(&told, 0, NULL, NULL).layers == 3);
    CHECK_STR(told.text, "");
    CHECK(list(&told, NULL, NULL).layers == 3);
    CHECK_STR(told.text, "container<second:20 first<:10 second<first:10 ");

    /* What holds nothing is made again; a lost list of parents is known to nobody else. */
    CHECK(rmdir(store_path("storage/overlay2/second/work")) == 0);
    char *lower = read_file(store_path("storage/overlay2/container/lower"));
    CHECK(lower && unlink(store_path("storage/overlay2/container/lower")) == 0);
    CHECK(check(&told, 0, NULL, NULL).findings == 2);
    CHECK_STR(told.text, "container:20 second:10 ");
    CHECK(!path_exists(store_path("storage/overlay2/second/work")));
    struct graphdriver_check mended = check(&told, GRAPHDRIVER_MEND, NULL, NULL);
    CHECK(mended.findings == 2 && mended.mended == 1 && mended.layers == 3);
    CHECK_STR(told.text, "container:20 second:11 ");
    CHECK(path_exists(store_path("storage/overlay2/second/work")));
    list(&told, NULL, NULL);
    CHECK_STR(told.text, "container<:22 first<:10 second<first:10 ");

    /* Whoever is told may end it; nothing is written then. */
    struct graphdriver_check ended = { .size = sizeof ended, .context = &told, .each = note_finding };
    told.times = 0, told.stop_at = 1;
    CHECK(graphdriver_check(&ended) == -1 && errno == ECANCELED && ended.layers == 0 && told.times == 1);

    /* Past the driver, while it is there and when it is not. */
    CHECK(check(&told, 0, "overlay2", root).findings == 1);
    CHECK(graphdriver_try_repair_lowers("container", "second") == 0);
    char *again = read_file(store_path("storage/overlay2/container/lower"));
    CHECK_STR(again, lower);
    requests_of_any_size(root);
    CHECK(check(&told, 0, "overlay2", root).findings == 0 && list(&told, "overlay2", root).layers == 3);
    free(lower);
    free(again);
    CHECK(graphdriver_cleanup() == 0);
    CHECK(list(&told, "overlay2", root).layers == 3);
    return 0;
}
