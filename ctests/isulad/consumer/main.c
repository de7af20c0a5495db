/* SPDX-License-Identifier: MulanPSL-2.0 */
/* A file of iSulad's, after the swap. */
#include <stdio.h>

#include "driver.h"
#include "driver_overlay2.h"

int main(void)
{
    struct storage_module_init_options opts;

    memset(&opts, 0, sizeof(opts));
    opts.storage_root = (char *)"not/absolute";
    opts.driver_name = (char *)"overlay";
    if (graphdriver_init(NULL) != -1 || graphdriver_init(&opts) != -1 || graphdriver_layer_exists("layer")) {
        return 1;
    }
    puts("works");
    return 0;
}
