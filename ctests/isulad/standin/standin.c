/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The functions behind the stand-in headers. All memory is released with plain free(), as isula_libutils does, so that a
 * pointer that did not come from malloc is caught by the allocator or by the address sanitizer.
 */
#define _GNU_SOURCE

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "err_msg.h"
#include "isula_libutils/container_inspect.h"
#include "isula_libutils/imagetool_fs_info.h"
#include "isula_libutils/log.h"
#include "isulad_config.h"

/* A member that only a parser may set, and that its owner would hand to the JSON library. */
#ifdef STANDIN_NO_RESIDUAL
#define CHECK_RESIDUAL(object) ((void)0)
#else
#define CHECK_RESIDUAL(object)                                     \
    do {                                                           \
        if ((object)->_residual != NULL) {                         \
            fprintf(stderr, "%s: _residual is not NULL\n", #object); \
            abort();                                               \
        }                                                          \
    } while (0)
#endif

void (*standin_log_appender)(char level, const char *line) = NULL;

__thread char *g_isulad_errmsg = NULL;

static void set_message(const char *format, va_list args)
{
    free(g_isulad_errmsg);
    if (vasprintf(&g_isulad_errmsg, format, args) < 0) {
        abort();
    }
}

void isulad_set_error_message(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set_message(format, args);
    va_end(args);
}

void isulad_try_set_error_message(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (g_isulad_errmsg == NULL) {
        set_message(format, args);
    }
    va_end(args);
}

#ifdef ENABLE_USERNS_REMAP
const char *standin_userns_remap = NULL;

char *conf_get_isulad_userns_remap(void)
{
    return standin_userns_remap == NULL ? NULL : strdup(standin_userns_remap);
}
#endif

void free_json_map_string_string(json_map_string_string *map)
{
    size_t i;

    if (map == NULL) {
        return;
    }
    for (i = 0; i < map->len; i++) {
        free(map->keys[i]);
        free(map->values[i]);
    }
    free(map->keys);
    free(map->values);
    free(map);
}

int append_json_map_string_string(json_map_string_string *map, const char *key, const char *val)
{
    char **keys = realloc(map->keys, (map->len + 1) * sizeof(char *));
    char **values = realloc(map->values, (map->len + 1) * sizeof(char *));

    if (keys == NULL || values == NULL) {
        abort();
    }
    map->keys = keys;
    map->values = values;
    map->keys[map->len] = strdup(key);
    map->values[map->len] = strdup(val);
    map->len++;
    return 0;
}

void free_container_inspect_graph_driver(container_inspect_graph_driver *driver)
{
    if (driver == NULL) {
        return;
    }
    CHECK_RESIDUAL(driver);
    if (driver->data != NULL) {
        CHECK_RESIDUAL(driver->data);
        free(driver->data->lower_dir);
        free(driver->data->merged_dir);
        free(driver->data->upper_dir);
        free(driver->data->work_dir);
        free(driver->data->device_id);
        free(driver->data->device_name);
        free(driver->data->device_size);
        free(driver->data);
    }
    free(driver->name);
    free(driver);
}

void free_imagetool_fs_info(imagetool_fs_info *info)
{
    size_t i;

    if (info == NULL) {
        return;
    }
    CHECK_RESIDUAL(info);
    for (i = 0; i < info->image_filesystems_len; i++) {
        imagetool_fs_info_image_filesystems_element *one = info->image_filesystems[i];
        if (one->fs_id != NULL) {
            CHECK_RESIDUAL(one->fs_id);
            free(one->fs_id->mountpoint);
            free(one->fs_id);
        }
        if (one->used_bytes != NULL) {
            CHECK_RESIDUAL(one->used_bytes);
            free(one->used_bytes);
        }
        if (one->inodes_used != NULL) {
            CHECK_RESIDUAL(one->inodes_used);
            free(one->inodes_used);
        }
        free(one);
    }
    free(info->image_filesystems);
    free(info);
}
