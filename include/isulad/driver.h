/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * driver.h for iSulad (v2.0.4 to today): takes the place of the header of the same name in iSulad's own graphdriver
 * directory, so that its sources build and link against libgraphdriver unmodified. See docs/isulad-integration.md.
 *
 * iSulad declares fifteen functions. Eleven of them are exports of the library with iSulad's own struct definitions.
 * The other four (init, apply_diff, get_metadata, get_layer_fs_info) differ in their arguments, or build objects that
 * isula_libutils owns; these are adapters below. They are compiled as part of iSulad, with iSulad's definition of every
 * struct, so that a member added to one of them is no ABI matter, and everything they hand out comes from malloc.
 *
 * What the C module looked up in the daemon is handed over by graphdriver_init: the log, the thread's error message, and
 * the user namespace's remapping. The library itself knows nothing of its host.
 *
 * This header and graphdriver.h give two functions of the same name different arguments: one file, one of them.
 */
#ifndef GRAPHDRIVER_ISULAD_DRIVER_H
#define GRAPHDRIVER_ISULAD_DRIVER_H

#ifdef GRAPHDRIVER_H
#error "graphdriver.h and isulad/driver.h declare different functions under the same names: include one of them per file"
#endif
#ifdef DAEMON_MODULES_IMAGE_OCI_STORAGE_LAYER_STORE_GRAPHDRIVER_DRIVER_H
#error "iSulad's own driver.h was found first: remove its graphdriver directory, or put GraphDriver::isulad in front of it"
#endif
#define DAEMON_MODULES_IMAGE_OCI_STORAGE_LAYER_STORE_GRAPHDRIVER_DRIVER_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include <isula_libutils/container_inspect.h>
#include <isula_libutils/imagetool_fs_info.h>
#include <isula_libutils/json_common.h>
#include <isula_libutils/log.h>

#include "err_msg.h"
#include "image_api.h"
#include "io_wrapper.h"
#include "storage.h"
#ifdef ENABLE_USERNS_REMAP
#include "isulad_config.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct driver_create_opts {
    char *mount_label;
    json_map_string_string *storage_opt;
};

struct driver_mount_opts {
    char *mount_label;
    char **options;
    size_t options_len;
};

/* ------------------------------------------------------------------------------------------------------------------
 * Exports of the library. All but the first block have the signature that iSulad knows.
 */

typedef void (*graphdriver_log_func_t)(int level, const char *line, void *user);
typedef void (*graphdriver_error_func_t)(const char *message, void *user);
void graphdriver_set_log_callback(graphdriver_log_func_t callback, void *user);
void graphdriver_set_error_callback(graphdriver_error_func_t callback, void *user);
int graphdriver_init_at(const char *name, const char *storage_root, char **storage_opts, size_t storage_opts_len);
int graphdriver_unpack_layer(const char *id, void *context, io_read_func_t read, int64_t *layer_size);
int graphdriver_get_layer_metadata(const char *id, json_map_string_string *map_info);
int graphdriver_get_layer_usage(const char *id, uint64_t *bytes, uint64_t *inodes);
const char *graphdriver_last_error(void);

int graphdriver_create_rw(const char *id, const char *parent, struct driver_create_opts *create_opts);
int graphdriver_create_ro(const char *id, const char *parent, const struct driver_create_opts *create_opts);
int graphdriver_rm_layer(const char *id);
char *graphdriver_mount_layer(const char *id, const struct driver_mount_opts *mount_opts);
int graphdriver_umount_layer(const char *id);
bool graphdriver_layer_exists(const char *id);
int graphdriver_try_repair_lowers(const char *id, const char *parent);
struct graphdriver_status *graphdriver_get_status(void);
int graphdriver_cleanup(void);

void free_graphdriver_status(struct graphdriver_status *status);
void free_graphdriver_mount_opts(struct driver_mount_opts *opts);
void free_driver_create_opts(struct driver_create_opts *opts);
void free_driver_mount_opts(struct driver_mount_opts *opts);

/* ------------------------------------------------------------------------------------------------------------------
 * The structs that cross into the library by pointer and are defined by iSulad: a build in which one of them has
 * changed stops here instead of corrupting memory.
 */

#define GRAPHDRIVER_ISULAD_CHECK(name, holds) typedef char graphdriver_isulad_check_##name[(holds) ? 1 : -1]
GRAPHDRIVER_ISULAD_CHECK(status, sizeof(struct graphdriver_status) == 3 * sizeof(char *) &&
                                     offsetof(struct graphdriver_status, driver_name) == 0 &&
                                     offsetof(struct graphdriver_status, backing_fs) == sizeof(char *) &&
                                     offsetof(struct graphdriver_status, status) == 2 * sizeof(char *));
GRAPHDRIVER_ISULAD_CHECK(map, sizeof(json_map_string_string) == 2 * sizeof(char **) + sizeof(size_t) &&
                                  offsetof(json_map_string_string, keys) == 0 &&
                                  offsetof(json_map_string_string, values) == sizeof(char **) &&
                                  offsetof(json_map_string_string, len) == 2 * sizeof(char **));
#undef GRAPHDRIVER_ISULAD_CHECK

/* ------------------------------------------------------------------------------------------------------------------
 * What the library is given of the daemon.
 */

/*
 * The library's lines in iSulad's log. Its levels are those of syslog(3). A line of level 3 comes on the thread whose call
 * failed: the reason becomes what the user reads, unless iSulad has something to say already. What its callers try to say
 * afterwards ("error register image ... to store") does not take its place.
 */
static inline void graphdriver_isulad_log(int level, const char *line, void *user)
{
    (void)user;
    if (level <= 3) {
        ERROR("%s", line);
        isulad_try_set_error_message("%s", graphdriver_last_error());
    } else if (level == 4) {
        WARN("%s", line);
    } else if (level <= 6) {
        INFO("%s", line);
    } else {
        DEBUG("%s", line);
    }
}

/* A sentence made for the user goes before the reason. Runs on the thread whose call failed, where iSulad keeps its message. */
static inline void graphdriver_isulad_error(const char *message, void *user)
{
    (void)user;
    isulad_set_error_message("%s", message);
}

static inline int graphdriver_isulad_refuse(const char *message)
{
    ERROR("%s", message);
    isulad_set_error_message("%s", message);
    return -1;
}

#ifdef ENABLE_USERNS_REMAP
/* Initialises overlay with `remap` ("uid:gid:size") behind the options that the administrator gave. */
static inline int graphdriver_isulad_init_remapped(const struct storage_module_init_options *opts, const char *remap)
{
    static const char name[] = "overlay2.userns_remap=";
    size_t given = opts->driver_opts == NULL ? 0 : opts->driver_opts_len;
    char **all = (char **)calloc(given + 1, sizeof(char *));
    char *option = (char *)malloc(sizeof(name) + strlen(remap));
    int ret = -1;

    if (all == NULL || option == NULL) {
        ERROR("Out of memory");
    } else {
        strcpy(option, name);
        strcat(option, remap);
        if (given != 0) {
            memcpy(all, opts->driver_opts, given * sizeof(char *));
        }
        all[given] = option;
        ret = graphdriver_init_at(opts->driver_name, opts->storage_root, all, given + 1);
    }
    free(option);
    free(all);
    return ret;
}
#endif

/*
 * Selects and initialises the driver; its home is <storage_root>/<driver_name>. 0, or -1.
 */
static inline int graphdriver_init(const struct storage_module_init_options *opts)
{
    graphdriver_set_log_callback(graphdriver_isulad_log, NULL);
    graphdriver_set_error_callback(graphdriver_isulad_error, NULL);

    if (opts == NULL || opts->storage_root == NULL || opts->driver_name == NULL) {
        ERROR("Invalid input arguments: no storage root or no driver name");
        return -1;
    }

#ifdef ENABLE_REMOTE_LAYER_STORE
    /*
     * Layers that hosts share are read wherever they are found, but none is made here: iSulad would publish the
     * description of a layer whose content the other hosts cannot see.
     */
    if (opts->enable_remote_layer) {
        return graphdriver_isulad_refuse("storage-enable-remote-layer is not supported: libgraphdriver reads a remote "
                                         "layer store but does not create one");
    }
#endif

#ifdef ENABLE_USERNS_REMAP
    {
        char *remap = conf_get_isulad_userns_remap();
        int ret = -1;

        if (remap != NULL) {
            if (strcmp(opts->driver_name, "overlay") == 0 || strcmp(opts->driver_name, "overlay2") == 0) {
                ret = graphdriver_isulad_init_remapped(opts, remap);
            } else {
                ret = graphdriver_isulad_refuse("userns-remap is supported with the overlay2 storage driver only");
            }
            free(remap);
            return ret;
        }
    }
#endif

    return graphdriver_init_at(opts->driver_name, opts->storage_root, opts->driver_opts, opts->driver_opts_len);
}

/*
 * Unpacks a layer archive. The content is only read: neither closed nor rewound, so that the caller can go back to its
 * start and read it again. 0, or -1.
 */
static inline int graphdriver_apply_diff(const char *id, const struct io_read_wrapper *content)
{
    if (content == NULL) {
        ERROR("Invalid input arguments: no content for the layer");
        return -1;
    }
    return graphdriver_unpack_layer(id, content->context, content->read, NULL);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Objects of isula_libutils, built from the library's metadata.
 */

/* The layer's metadata, for free_json_map_string_string; NULL with errno set on failure. */
static inline json_map_string_string *graphdriver_isulad_metadata(const char *id)
{
    json_map_string_string *map = (json_map_string_string *)calloc(1, sizeof(*map));

    if (map != NULL && graphdriver_get_layer_metadata(id, map) != 0) {
        int saved_errno = errno;
        free_json_map_string_string(map);
        errno = saved_errno;
        return NULL;
    }
    return map;
}

/* Takes a value out of the map: the caller's to free; NULL if the driver has no such key. */
static inline char *graphdriver_isulad_take(json_map_string_string *map, const char *key)
{
    size_t i;

    for (i = 0; i < map->len; i++) {
        if (strcmp(map->keys[i], key) == 0) {
            char *value = map->values[i];
            map->values[i] = NULL;
            return value;
        }
    }
    return NULL;
}

/*
 * The name that the driver was initialised with. Only devicemapper's layers have a device, and it goes by one name;
 * overlay goes by two, and its status is cheap, while devicemapper's asks the pool.
 */
static inline char *graphdriver_isulad_driver_name(const container_inspect_graph_driver_data *data)
{
    struct graphdriver_status *status = NULL;
    const char *known = "devicemapper";
    char *name = NULL;

    if (data->device_name == NULL) {
        status = graphdriver_get_status();
        known = status == NULL ? NULL : status->driver_name;
    }
    if (known != NULL) {
        name = (char *)malloc(strlen(known) + 1);
        if (name != NULL) {
            strcpy(name, known);
        }
    }
    free_graphdriver_status(status);
    return name;
}

/*
 * Where the layer's parts are. NULL on failure; free with free_container_inspect_graph_driver.
 */
static inline container_inspect_graph_driver *graphdriver_get_metadata(const char *id)
{
    container_inspect_graph_driver *inspect = NULL;
    container_inspect_graph_driver_data *data = NULL;
    json_map_string_string *map = graphdriver_isulad_metadata(id);

    if (map == NULL) {
        return NULL;
    }
    inspect = (container_inspect_graph_driver *)calloc(1, sizeof(*inspect));
    data = (container_inspect_graph_driver_data *)calloc(1, sizeof(*data));
    if (inspect != NULL && data != NULL) {
        data->lower_dir = graphdriver_isulad_take(map, "LowerDir");
        data->merged_dir = graphdriver_isulad_take(map, "MergedDir");
        data->upper_dir = graphdriver_isulad_take(map, "UpperDir");
        data->work_dir = graphdriver_isulad_take(map, "WorkDir");
        data->device_id = graphdriver_isulad_take(map, "DeviceId");
        data->device_name = graphdriver_isulad_take(map, "DeviceName");
        data->device_size = graphdriver_isulad_take(map, "DeviceSize");
        inspect->name = graphdriver_isulad_driver_name(data);
        inspect->data = data;
        data = NULL;
    }
    free(data);
    free_json_map_string_string(map);
    if (inspect != NULL && inspect->name == NULL) {
        ERROR("Failed to describe layer %s", id);
        free_container_inspect_graph_driver(inspect);
        inspect = NULL;
    }
    return inspect;
}

/* Fills `info` with one filesystem; takes `mountpoint`. 0, or -1 with what was made so far left in `info`. */
static inline int graphdriver_isulad_fill(imagetool_fs_info *info, char *mountpoint, uint64_t bytes, uint64_t inodes)
{
    imagetool_fs_info_image_filesystems_element *one = NULL;
    struct timeval now = { 0, 0 };

    info->image_filesystems = (imagetool_fs_info_image_filesystems_element **)calloc(1, sizeof(one));
    one = (imagetool_fs_info_image_filesystems_element *)calloc(1, sizeof(*one));
    if (info->image_filesystems == NULL || one == NULL) {
        free(one);
        free(mountpoint);
        return -1;
    }
    info->image_filesystems[0] = one;
    info->image_filesystems_len = 1;

    one->fs_id = (imagetool_fs_info_image_filesystems_fs_id *)calloc(1, sizeof(*one->fs_id));
    one->used_bytes = (imagetool_fs_info_image_filesystems_used_bytes *)calloc(1, sizeof(*one->used_bytes));
    one->inodes_used = (imagetool_fs_info_image_filesystems_inodes_used *)calloc(1, sizeof(*one->inodes_used));
    if (one->fs_id == NULL || one->used_bytes == NULL || one->inodes_used == NULL) {
        free(mountpoint);
        return -1;
    }
    (void)gettimeofday(&now, NULL);
    one->timestamp = (int64_t)now.tv_sec * 1000000000 + (int64_t)now.tv_usec * 1000;
    one->fs_id->mountpoint = mountpoint;
    one->used_bytes->value = bytes;
    one->inodes_used->value = inodes;
    return 0;
}

/*
 * What the layer itself occupies, for the CRI's statistics. A layer that does not exist, and every layer of devicemapper,
 * is a success that leaves *fs_info as it is. 0, or -1.
 */
static inline int graphdriver_get_layer_fs_info(const char *id, imagetool_fs_info *fs_info)
{
    json_map_string_string *map = NULL;
    imagetool_fs_info *made = NULL;
    char *upper = NULL;
    uint64_t bytes = 0;
    uint64_t inodes = 0;
    int ret = -1;

    if (fs_info == NULL) {
        ERROR("Invalid input arguments: nowhere to put the layer's usage");
        return -1;
    }
    map = graphdriver_isulad_metadata(id);
    if (map == NULL) {
        return errno == ENOENT && !graphdriver_layer_exists(id) ? 0 : -1;
    }
    upper = graphdriver_isulad_take(map, "UpperDir");
    free_json_map_string_string(map);
    if (upper == NULL) {
        return 0;
    }
    if (graphdriver_get_layer_usage(id, &bytes, &inodes) != 0) {
        free(upper);
        return -1;
    }

    made = (imagetool_fs_info *)calloc(1, sizeof(*made));
    if (made == NULL) {
        free(upper);
        ERROR("Out of memory");
        return -1;
    }
    ret = graphdriver_isulad_fill(made, upper, bytes, inodes);
    if (ret != 0) {
        ERROR("Out of memory");
    } else {
        fs_info->image_filesystems = made->image_filesystems;
        fs_info->image_filesystems_len = made->image_filesystems_len;
        made->image_filesystems = NULL;
        made->image_filesystems_len = 0;
    }
    free_imagetool_fs_info(made);
    return ret;
}

#ifdef __cplusplus
}
#endif

#endif
