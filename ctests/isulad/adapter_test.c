/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * What the adapters of driver.h make of the library's answers, with a library that gives prescribed ones: the answers that
 * a test machine cannot produce at will (devicemapper, a remapped user namespace) are covered here. Compiled as C and as
 * C++, by one compiler with the address sanitizer.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "driver.h"

#include "check.h"

/* ---- the prescribed library ---- */

static graphdriver_log_func_t log_callback;
static graphdriver_error_func_t error_callback;
static int calls;

static struct {
    char name[64];
    char storage_root[64];
    char options[4][64];
    size_t options_len;
} seen_init;

static struct {
    void *context;
    io_read_func_t read;
    int64_t *layer_size;
} seen_unpack;

/* Key, value, key, value, NULL; or no list: unknown layer. */
static const char *const *metadata;
static int metadata_errno;
static const char *status_name;
static bool exists;
static int usage_result;

#ifdef __cplusplus
extern "C" {
#endif

void graphdriver_set_log_callback(graphdriver_log_func_t callback, void *user)
{
    CHECK(user == NULL);
    log_callback = callback;
}

void graphdriver_set_error_callback(graphdriver_error_func_t callback, void *user)
{
    CHECK(user == NULL);
    error_callback = callback;
}

int graphdriver_init_at(const char *name, const char *storage_root, char **storage_opts, size_t storage_opts_len)
{
    size_t i;

    calls++;
    CHECK(log_callback != NULL && error_callback != NULL);
    snprintf(seen_init.name, sizeof(seen_init.name), "%s", name);
    snprintf(seen_init.storage_root, sizeof(seen_init.storage_root), "%s", storage_root);
    CHECK(storage_opts_len <= 4);
    seen_init.options_len = storage_opts_len;
    for (i = 0; i < storage_opts_len; i++) {
        snprintf(seen_init.options[i], sizeof(seen_init.options[i]), "%s", storage_opts[i]);
    }
    return 0;
}

int graphdriver_unpack_layer(const char *id, void *context, io_read_func_t read, int64_t *layer_size)
{
    calls++;
    CHECK_STR(id, "layer");
    seen_unpack.context = context;
    seen_unpack.read = read;
    seen_unpack.layer_size = layer_size;
    return 7;
}

int graphdriver_get_layer_metadata(const char *id, json_map_string_string *map_info)
{
    size_t i;

    calls++;
    CHECK_STR(id, "layer");
    CHECK(map_info->keys == NULL && map_info->values == NULL && map_info->len == 0);
    if (metadata == NULL) {
        errno = metadata_errno;
        return -1;
    }
    for (i = 0; metadata[i] != NULL; i += 2) {
        append_json_map_string_string(map_info, metadata[i], metadata[i + 1]);
    }
    return 0;
}

struct graphdriver_status *graphdriver_get_status(void)
{
    struct graphdriver_status *status;

    calls++;
    if (status_name == NULL) {
        return NULL;
    }
    status = (struct graphdriver_status *)calloc(1, sizeof(*status));
    status->driver_name = strdup(status_name);
    return status;
}

void free_graphdriver_status(struct graphdriver_status *status)
{
    if (status != NULL) {
        free(status->driver_name);
        free(status);
    }
}

bool graphdriver_layer_exists(const char *id)
{
    (void)id;
    return exists;
}

int graphdriver_get_layer_usage(const char *id, uint64_t *bytes, uint64_t *inodes)
{
    CHECK_STR(id, "layer");
    if (usage_result == 0) {
        *bytes = 8192;
        *inodes = 3;
    }
    return usage_result;
}

const char *graphdriver_last_error(void)
{
    return "100% of it failed";
}

#ifdef __cplusplus
}
#endif

/* ---- the tests ---- */

static char root[] = "/var/lib/isulad/storage";
static char overlay[] = "overlay";
static char devicemapper[] = "devicemapper";
static char given_option[] = "overlay2.override_kernel_check=true";

static char logged[16][512];
static size_t logged_len;

static void keep_line(char level, const char *line)
{
    CHECK(logged_len < 16);
    snprintf(logged[logged_len++], sizeof(logged[0]), "%c %s", level, line);
}

static void forget(void)
{
    logged_len = 0;
    calls = 0;
    free(g_isulad_errmsg);
    g_isulad_errmsg = NULL;
    memset(&seen_init, 0, sizeof(seen_init));
}

static struct storage_module_init_options make_options(char *driver, char **driver_opts, size_t len)
{
    struct storage_module_init_options opts;

    memset(&opts, 0, sizeof(opts));
    opts.storage_root = root;
    opts.driver_name = driver;
    opts.driver_opts = driver_opts;
    opts.driver_opts_len = len;
    return opts;
}

static void test_init(void)
{
    char *driver_opts[] = { given_option };
    struct storage_module_init_options opts = make_options(overlay, driver_opts, 1);

    forget();
    CHECK(graphdriver_init(&opts) == 0);
    CHECK_STR(seen_init.name, "overlay");
    CHECK_STR(seen_init.storage_root, "/var/lib/isulad/storage");
    CHECK(seen_init.options_len == 1);
    CHECK_STR(seen_init.options[0], given_option);

    forget();
    CHECK(graphdriver_init(NULL) == -1);
    opts.storage_root = NULL;
    CHECK(graphdriver_init(&opts) == -1);
    opts = make_options(NULL, NULL, 0);
    CHECK(graphdriver_init(&opts) == -1);
    CHECK(calls == 0 && logged_len == 3);
}

static void test_remote_layers(void)
{
#ifdef ENABLE_REMOTE_LAYER_STORE
    struct storage_module_init_options opts = make_options(overlay, NULL, 0);

    forget();
    opts.enable_remote_layer = true;
    CHECK(graphdriver_init(&opts) == -1);
    CHECK(calls == 0);
    CHECK(g_isulad_errmsg != NULL && strstr(g_isulad_errmsg, "storage-enable-remote-layer") == g_isulad_errmsg);
    CHECK(logged_len == 1 && logged[0][0] == 'E');
#endif
}

static void test_userns_remap(void)
{
#ifdef ENABLE_USERNS_REMAP
    char *driver_opts[] = { given_option };
    struct storage_module_init_options opts = make_options(overlay, driver_opts, 1);

    forget();
    standin_userns_remap = "100000:100000:65535";
    CHECK(graphdriver_init(&opts) == 0);
    CHECK(seen_init.options_len == 2);
    CHECK_STR(seen_init.options[0], given_option);
    CHECK_STR(seen_init.options[1], "overlay2.userns_remap=100000:100000:65535");
    CHECK(driver_opts[0] == given_option && opts.driver_opts_len == 1);

    forget();
    opts = make_options(overlay, NULL, 0);
    CHECK(graphdriver_init(&opts) == 0);
    CHECK(seen_init.options_len == 1);
    CHECK_STR(seen_init.options[0], "overlay2.userns_remap=100000:100000:65535");

    forget();
    opts = make_options(devicemapper, driver_opts, 1);
    CHECK(graphdriver_init(&opts) == -1);
    CHECK(calls == 0);
    CHECK_STR(g_isulad_errmsg, "userns-remap is supported with the overlay2 storage driver only");

    forget();
    standin_userns_remap = NULL;
    CHECK(graphdriver_init(&opts) == 0);
    CHECK(seen_init.options_len == 1);
#else
    (void)devicemapper;
#endif
}

static void test_what_the_daemon_is_told(void)
{
    struct storage_module_init_options opts = make_options(overlay, NULL, 0);

    CHECK(graphdriver_init(&opts) == 0);
    forget();
    log_callback(3, "100% of it failed: %s%n", NULL);
    log_callback(4, "warning", NULL);
    log_callback(6, "info", NULL);
    log_callback(7, "debug", NULL);
    CHECK(logged_len == 4);
    CHECK_STR(logged[0], "E 100% of it failed: %s%n");
    CHECK_STR(logged[1], "W warning");
    CHECK_STR(logged[2], "I info");
    CHECK_STR(logged[3], "D debug");
    CHECK_STR(g_isulad_errmsg, "100% of it failed");
    isulad_try_set_error_message("error register image to store");
    CHECK_STR(g_isulad_errmsg, "100% of it failed");

    forget();
    log_callback(4, "warning", NULL);
    CHECK(g_isulad_errmsg == NULL);
    isulad_set_error_message("iSulad knows better");
    log_callback(3, "it failed", NULL);
    CHECK_STR(g_isulad_errmsg, "iSulad knows better");

    error_callback("Invalid quota size: '%n'", NULL);
    CHECK_STR(g_isulad_errmsg, "Invalid quota size: '%n'");
}

static ssize_t no_read(void *context, void *buf, size_t len)
{
    (void)context;
    (void)buf;
    (void)len;
    return 0;
}

static int no_close(void *context, char **err)
{
    (void)context;
    (void)err;
    abort();
}

static void test_apply_diff(void)
{
    struct io_read_wrapper content;
    int fd = 5;

    memset(&content, 0xff, sizeof(content));
    content.context = &fd;
    content.read = no_read;
    content.close = no_close;
    forget();
    CHECK(graphdriver_apply_diff("layer", &content) == 7);
    CHECK(seen_unpack.context == &fd && seen_unpack.read == no_read && seen_unpack.layer_size == NULL);

    forget();
    CHECK(graphdriver_apply_diff("layer", NULL) == -1);
    CHECK(calls == 0 && logged_len == 1);
}

static void test_overlay_metadata(void)
{
    static const char *const layer[] = { "WorkDir",  "/h/layer/work", "MergedDir", "/h/layer/merged",
                                         "UpperDir", "/h/layer/diff", "LowerDir",  "/h/l/A:/h/l/B",
                                         NULL };
    static const char *const base[] = { "WorkDir", "/h/layer/work", "MergedDir", "/h/layer/merged",
                                        "UpperDir", "/h/layer/diff", NULL };
    container_inspect_graph_driver *inspect;

    metadata = layer;
    status_name = "overlay2";
    inspect = graphdriver_get_metadata("layer");
    CHECK(inspect != NULL && inspect->data != NULL);
    CHECK_STR(inspect->name, "overlay2");
    CHECK_STR(inspect->data->work_dir, "/h/layer/work");
    CHECK_STR(inspect->data->merged_dir, "/h/layer/merged");
    CHECK_STR(inspect->data->upper_dir, "/h/layer/diff");
    CHECK_STR(inspect->data->lower_dir, "/h/l/A:/h/l/B");
    CHECK(inspect->data->device_id == NULL && inspect->data->device_name == NULL && inspect->data->device_size == NULL);
    free_container_inspect_graph_driver(inspect);

    metadata = base;
    status_name = "overlay";
    inspect = graphdriver_get_metadata("layer");
    CHECK(inspect != NULL);
    CHECK_STR(inspect->name, "overlay");
    CHECK(inspect->data->lower_dir == NULL);
    free_container_inspect_graph_driver(inspect);

    status_name = NULL;
    CHECK(graphdriver_get_metadata("layer") == NULL);

    metadata = NULL;
    CHECK(graphdriver_get_metadata("layer") == NULL);
}

static const char *const device_layer[] = { "DeviceId", "4", "DeviceSize", "10737418240",
                                            "DeviceName", "container-8:1-12-layer",
                                            "MergedDir", "/h/mnt/layer/rootfs", NULL };

static void test_devicemapper_metadata(void)
{
    container_inspect_graph_driver *inspect;

    forget();
    metadata = device_layer;
    status_name = NULL;
    inspect = graphdriver_get_metadata("layer");
    CHECK(inspect != NULL);
    CHECK(calls == 1); /* the pool was not asked for its status */
    CHECK_STR(inspect->name, "devicemapper");
    CHECK_STR(inspect->data->device_id, "4");
    CHECK_STR(inspect->data->device_name, "container-8:1-12-layer");
    CHECK_STR(inspect->data->device_size, "10737418240");
    CHECK_STR(inspect->data->merged_dir, "/h/mnt/layer/rootfs");
    CHECK(inspect->data->lower_dir == NULL && inspect->data->upper_dir == NULL && inspect->data->work_dir == NULL);
    free_container_inspect_graph_driver(inspect);
}

static void test_fs_info(void)
{
    static const char *const layer[] = { "WorkDir", "/h/layer/work", "UpperDir", "/h/layer/diff", NULL };
    imagetool_fs_info *info = (imagetool_fs_info *)calloc(1, sizeof(*info));
    imagetool_fs_info_image_filesystems_element *one;

    metadata = layer;
    usage_result = 0;
    CHECK(graphdriver_get_layer_fs_info("layer", info) == 0);
    CHECK(info->image_filesystems_len == 1);
    one = info->image_filesystems[0];
    CHECK(one->timestamp > 1500000000LL * 1000000000LL);
    CHECK_STR(one->fs_id->mountpoint, "/h/layer/diff");
    CHECK(one->used_bytes->value == 8192 && one->inodes_used->value == 3);
    free_imagetool_fs_info(info);

    info = (imagetool_fs_info *)calloc(1, sizeof(*info));
    usage_result = -1;
    CHECK(graphdriver_get_layer_fs_info("layer", info) == -1);

    metadata = device_layer;
    CHECK(graphdriver_get_layer_fs_info("layer", info) == 0);

    metadata = NULL;
    metadata_errno = ENOENT;
    exists = false;
    CHECK(graphdriver_get_layer_fs_info("layer", info) == 0);
    exists = true; /* the layer is there; something that belongs to it is not */
    CHECK(graphdriver_get_layer_fs_info("layer", info) == -1);
    metadata_errno = ENOTCONN;
    exists = false;
    CHECK(graphdriver_get_layer_fs_info("layer", info) == -1);
    CHECK(graphdriver_get_layer_fs_info("layer", NULL) == -1);
    CHECK(info->image_filesystems == NULL && info->image_filesystems_len == 0);
    free_imagetool_fs_info(info);
}

int main(void)
{
    standin_log_appender = keep_line;
    test_init();
    test_remote_layers();
    test_userns_remap();
    test_what_the_daemon_is_told();
    test_apply_diff();
    test_overlay_metadata();
    test_devicemapper_metadata();
    forget();
    test_fs_info();
    forget();
    return 0;
}
