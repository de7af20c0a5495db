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
    /* Two lines that scripts read; what follows them may change. */
    CHECK(strstr(status->status, "Backing Filesystem: extfs\nSupports d_type: true\n") == status->status);
    free_graphdriver_status(status);
}

void image_check_no_status(void)
{
    CHECK(graphdriver_get_status() == NULL);
    free_graphdriver_status(NULL);
}
