/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Stand-in for iSulad: where a layer's data comes from. */
#ifndef STANDIN_IO_WRAPPER_H
#define STANDIN_IO_WRAPPER_H

#include <sys/types.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef ssize_t (*io_read_func_t)(void *context, void *buf, size_t len);
typedef int (*io_close_func_t)(void *context, char **err);

struct io_read_wrapper {
    void *context;
    io_read_func_t read;
    io_close_func_t close;
#ifdef STANDIN_IO_TYPE
    int io_type; /* v2.0.18, and v2.1.1 onwards */
#endif
};

#ifdef __cplusplus
}
#endif

#endif
