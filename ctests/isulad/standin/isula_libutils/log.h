/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Stand-in for isula_libutils: as there, the macros end in functions that each file compiles for itself. */
#ifndef STANDIN_LOG_H
#define STANDIN_LOG_H

#include <stdarg.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where lines end up: the letter of their level, and their text. */
extern void (*standin_log_appender)(char level, const char *line);

__attribute__((unused, format(printf, 2, 3))) static inline void standin_log(char level, const char *format, ...)
{
    char line[4096];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (standin_log_appender != NULL) {
        standin_log_appender(level, line);
    }
}

#define ERROR(...) standin_log('E', __VA_ARGS__)
#define WARN(...) standin_log('W', __VA_ARGS__)
#define INFO(...) standin_log('I', __VA_ARGS__)
#define DEBUG(...) standin_log('D', __VA_ARGS__)

#ifdef __cplusplus
}
#endif

#endif
