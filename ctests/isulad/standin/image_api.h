/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Stand-in for iSulad: what `isula info` shows of the driver. */
#ifndef STANDIN_IMAGE_API_H
#define STANDIN_IMAGE_API_H

struct graphdriver_status {
    char *driver_name;
    char *backing_fs;
    char *status;
};

#endif
