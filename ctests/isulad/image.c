/* SPDX-License-Identifier: MulanPSL-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "driver.h"

#include "check.h"
#include "image.h"

void image_check_status(const char *driver_name)
{
    struct graphdriver_status *status = graphdriver_get_status();

    CHECK(status != NULL);
    CHECK_STR(status->driver_name, driver_name);
    CHECK_STR(status->backing_fs, "extfs");
    CHECK_STR(status->status, "Backing Filesystem: extfs\nSupports d_type: true\n");
    free_graphdriver_status(status);
}

void image_check_no_status(void)
{
    CHECK(graphdriver_get_status() == NULL);
    free_graphdriver_status(NULL);
}
