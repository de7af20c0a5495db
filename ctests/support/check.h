/* CHECK(condition): the whole of our test framework. A test is a main() that returns 0; a failed check ends it. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Weak: the tests that load the library with dlopen() do not link it. */
extern const char *graphdriver_last_error(void) __attribute__((weak));

#define CHECK(condition) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))
#define CHECK_STR(actual, expected) check_strings(__FILE__, __LINE__, #actual, (actual), (expected))

static inline _Noreturn void check_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: failed: %s\n  errno: %s\n", file, line, what, strerror(errno));
    if (graphdriver_last_error)
        fprintf(stderr, "  last error: %s\n", graphdriver_last_error());
    exit(1);
}

static inline void check_strings(const char *file, int line, const char *what, const char *actual, const char *expected)
{
    if (actual && strcmp(actual, expected) == 0)
        return;
    fprintf(stderr, "got \"%s\", not \"%s\"\n", actual ? actual : "(null)", expected);
    check_failed(file, line, what);
}

#endif
