/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Stand-in for iSulad: how the storage module is initialised. */
#ifndef STANDIN_STORAGE_H
#define STANDIN_STORAGE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct storage_module_init_options {
    char *storage_run_root;
    char *storage_root;
    char *driver_name;
    char **driver_opts;
    size_t driver_opts_len;
    bool integration_check;
#ifdef ENABLE_REMOTE_LAYER_STORE
    bool enable_remote_layer;
    pthread_rwlock_t *remote_lock;
#endif
};

#ifdef __cplusplus
}
#endif

#endif
