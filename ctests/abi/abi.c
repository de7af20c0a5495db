/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The ABI, in a form that abidw can read: one pointer per export, so that its debug information holds the export's
 * arguments and every struct they lead to. (The library's own says nothing of types that a C compiler would recognise.)
 *
 * An export is added here and in nothing else of this directory; see abi.sh.
 */
#include <graphdriver.h>

#define EXPORT(name) __typeof__(&name) abi_##name = 0

EXPORT(graphdriver_init);
EXPORT(graphdriver_create_rw);
EXPORT(graphdriver_create_ro);
EXPORT(graphdriver_rm_layer);
EXPORT(graphdriver_mount_layer);
EXPORT(graphdriver_umount_layer);
EXPORT(graphdriver_layer_exists);
EXPORT(graphdriver_apply_diff);
EXPORT(graphdriver_get_layer_metadata);
EXPORT(graphdriver_get_status);
EXPORT(graphdriver_cleanup);
EXPORT(graphdriver_init_at);
EXPORT(graphdriver_unpack_layer);
EXPORT(graphdriver_try_repair_lowers);
EXPORT(graphdriver_get_layer_usage);
EXPORT(graphdriver_last_error);
EXPORT(graphdriver_set_log_callback);
EXPORT(graphdriver_set_error_callback);
EXPORT(graphdriver_version);
EXPORT(graphdriver_abi_version);
EXPORT(free_graphdriver_status);
EXPORT(free_graphdriver_mount_opts);
EXPORT(free_driver_create_opts);
EXPORT(free_driver_mount_opts);
EXPORT(graphdriver_free_map);
