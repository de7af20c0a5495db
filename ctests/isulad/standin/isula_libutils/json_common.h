/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Stand-in for isula_libutils: string maps. */
#ifndef STANDIN_JSON_COMMON_H
#define STANDIN_JSON_COMMON_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char **keys;
    char **values;
    size_t len;
} json_map_string_string;

void free_json_map_string_string(json_map_string_string *map);
int append_json_map_string_string(json_map_string_string *map, const char *key, const char *val);

/*
 * Generated structs end with a member for JSON text that the schema does not know. isula_libutils before July 2020 did
 * not have it (STANDIN_NO_RESIDUAL). It must be NULL in objects that were not parsed: the free functions check.
 */
#ifdef STANDIN_NO_RESIDUAL
#define STANDIN_RESIDUAL
#else
#define STANDIN_RESIDUAL void *_residual;
#endif

#ifdef __cplusplus
}
#endif

#endif
