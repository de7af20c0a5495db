/* Who frees what. Built with AddressSanitizer and run once more under valgrind, so that a block that nobody owns, or that two
   own, is a failure; the test `leak_is_caught` shows that they would notice. */
#include "check.h"
#include "layers.h"
#include "store.h"

static char *copy(const char *text)
{
    char *result = strdup(text);
    CHECK(result);
    return result;
}

/* Everything is an ordinary malloc() block: the caller may take it apart with free(). */
static void by_hand(void)
{
    struct graphdriver_status *status = graphdriver_get_status();
    CHECK(status);
    free(status->driver_name);
    free(status->backing_fs);
    free(status->status);
    free(status);

    char *path = graphdriver_mount_layer("container", NULL);
    CHECK(path);
    free(path);

    json_map_string_string map = { NULL, NULL, 0 };
    CHECK(graphdriver_get_layer_metadata("container", &map) == 0 && map.len == 4);
    for (size_t i = 0; i < map.len; i++) {
        free(map.keys[i]);
        free(map.values[i]);
    }
    free(map.keys);
    free(map.values);
}

/* The caller's map is grown in place; a key that it has already is replaced, others stay. */
static void growing_a_map(void)
{
    json_map_string_string *map = calloc(1, sizeof *map);
    CHECK(map && (map->keys = calloc(2, sizeof *map->keys)) && (map->values = calloc(2, sizeof *map->values)));
    map->keys[0] = copy("mine");
    map->values[0] = copy("stays");
    map->keys[1] = copy("UpperDir");
    map->values[1] = copy("old");
    map->len = 2;
    CHECK(graphdriver_get_layer_metadata("container", map) == 0 && map->len == 5);
    CHECK_STR(map->values[0], "stays");
    CHECK_STR(map->values[1], store_path("storage/overlay2/container/diff"));
    CHECK(graphdriver_get_layer_metadata("container", map) == 0 && map->len == 5);
    graphdriver_free_map(map);
}

/* A map that is a local variable: what is in it is freed, it is not, and may be used again. */
static void a_map_on_the_stack(void)
{
    json_map_string_string map = { NULL, NULL, 0 };
    for (int i = 0; i < 2; i++) {
        CHECK(graphdriver_get_layer_metadata("container", &map) == 0 && map.len == 4);
        graphdriver_clear_map(&map);
        CHECK(!map.keys && !map.values && map.len == 0);
    }
    graphdriver_clear_map(&map);
    graphdriver_clear_map(NULL);
}

/* Arguments are borrowed: the caller's copies may go as soon as the call returns. */
static void borrowed_arguments(const char *root)
{
    char **options = calloc(1, sizeof *options);
    CHECK(options);
    options[0] = copy("overlay2.mountopt=noatime");
    char *name = copy("overlay2"), *where = copy(root), *id = copy("borrowed"), *parent = copy("image");
    CHECK(graphdriver_init(name, where, options, 1) == 0);
    free(options[0]);
    free(options);
    free(where);
    free(name);

    struct driver_create_opts *create = calloc(1, sizeof *create);
    CHECK(create && (create->storage_opt = calloc(1, sizeof *create->storage_opt)));
    create->mount_label = copy("");
    CHECK(graphdriver_create_rw(id, parent, create) == 0);
    free_driver_create_opts(create);
    free(parent);

    struct driver_mount_opts *mount = calloc(1, sizeof *mount);
    CHECK(mount && (mount->options = calloc(2, sizeof *mount->options)));
    mount->options[0] = copy("ro");
    mount->options[1] = copy("nodev");
    mount->options_len = 2;
    char *path = graphdriver_mount_layer(id, mount);
    CHECK(path);
    free(path);
    free_graphdriver_mount_opts(mount);

    mount = calloc(1, sizeof *mount);
    free_driver_mount_opts(mount);
    drop(id);
    free(id);
}

/* Failures own nothing, and the last error is the library's: valid until this thread's next call, never to be freed. */
static void failures(void)
{
    for (int i = 0; i < 10; i++) {
        CHECK(graphdriver_mount_layer("no-such-layer", NULL) == NULL);
        CHECK(strstr(graphdriver_last_error(), "no-such-layer"));
        CHECK(graphdriver_create_rw("child", "no-such-parent", &(struct driver_create_opts){ NULL, NULL }) == -1);
        CHECK(graphdriver_init("no-such-driver", "/", NULL, 0) == -1);
    }
}

int main(void)
{
    const char *root = start("ownership");
    make_base("image");
    make_second("second", "image");
    make_rw("container", "second");
    by_hand();
    growing_a_map();
    a_map_on_the_stack();
    failures();
    drop("container");
    borrowed_arguments(root);
    drop("second");
    drop("image");
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
