/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Stand-in for isula_libutils: the part of `isula inspect` that the driver fills. */
#ifndef STANDIN_CONTAINER_INSPECT_H
#define STANDIN_CONTAINER_INSPECT_H

#include "isula_libutils/json_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char *lower_dir;
    char *merged_dir;
    char *upper_dir;
    char *work_dir;
    char *device_id;
    char *device_name;
    char *device_size;
    STANDIN_RESIDUAL
} container_inspect_graph_driver_data;

typedef struct {
    container_inspect_graph_driver_data *data;
    char *name;
    STANDIN_RESIDUAL
} container_inspect_graph_driver;

void free_container_inspect_graph_driver(container_inspect_graph_driver *driver);

#ifdef __cplusplus
}
#endif

#endif
