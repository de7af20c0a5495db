/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Checks that say what they saw, and end the program at the first that fails. */
#ifndef CTESTS_ISULAD_CHECK_H
#define CTESTS_ISULAD_CHECK_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(holds)                                                                                                  \
    do {                                                                                                              \
        if (!(holds)) {                                                                                               \
            fprintf(stderr, "%s:%d: %s: failed check: %s (errno: %s)\n", __FILE__, __LINE__, __func__, #holds,         \
                    strerror(errno));                                                                                 \
            exit(1);                                                                                                  \
        }                                                                                                             \
    } while (0)

#define CHECK_STR(got, wanted)                                                                                        \
    do {                                                                                                              \
        const char *check_got = (got);                                                                                \
        const char *check_wanted = (wanted);                                                                          \
        if (check_got == NULL || strcmp(check_got, check_wanted) != 0) {                                              \
            fprintf(stderr, "%s:%d: %s: %s is\n  \"%s\"\ninstead of\n  \"%s\"\n", __FILE__, __LINE__, __func__, #got,   \
                    check_got == NULL ? "(null)" : check_got, check_wanted);                                          \
            exit(1);                                                                                                  \
        }                                                                                                             \
    } while (0)

#endif
