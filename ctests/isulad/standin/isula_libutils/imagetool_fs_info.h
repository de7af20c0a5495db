/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Stand-in for isula_libutils: filesystem usage for the CRI. */
#ifndef STANDIN_IMAGETOOL_FS_INFO_H
#define STANDIN_IMAGETOOL_FS_INFO_H

#include <stdint.h>

#include "isula_libutils/json_common.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char *mountpoint;
    STANDIN_RESIDUAL
} imagetool_fs_info_image_filesystems_fs_id;

typedef struct {
    uint64_t value;
    STANDIN_RESIDUAL
} imagetool_fs_info_image_filesystems_used_bytes;

typedef struct {
    uint64_t value;
    STANDIN_RESIDUAL
} imagetool_fs_info_image_filesystems_inodes_used;

typedef struct {
    int64_t timestamp;
    imagetool_fs_info_image_filesystems_fs_id *fs_id;
    imagetool_fs_info_image_filesystems_used_bytes *used_bytes;
    imagetool_fs_info_image_filesystems_inodes_used *inodes_used;
} imagetool_fs_info_image_filesystems_element;

typedef struct {
    imagetool_fs_info_image_filesystems_element **image_filesystems;
    size_t image_filesystems_len;
    STANDIN_RESIDUAL
} imagetool_fs_info;

void free_imagetool_fs_info(imagetool_fs_info *info);

#ifdef __cplusplus
}
#endif

#endif
