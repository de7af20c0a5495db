/* A filesystem to test on, and what to look at around the calls. Nothing of it outlives the process, whatever ends it. */
#ifndef STORE_H
#define STORE_H

#include <stdbool.h>
#include <stddef.h>

/* Makes a new ext4 filesystem on a loop device, mounts it in a mount namespace of this process alone, and returns the path
   of its root. Call once, before any thread starts. `name` sets this test's leftovers apart from those of others. Ends the
   process if it cannot: a test that cannot run has failed. */
const char *store_make(const char *name);

/* At the end of a test that passed, the overlay2 store in it (<root>/overlay2 or <root>/storage/overlay2) is checked: a test ends
   with a sound one. One that leaves damage on purpose says so. */
void store_leaves_damage(void);

/* `format` below the store's root, as a path; valid for some 16 further calls on this thread. */
const char *store_path(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Runs a program found on PATH and returns its exit status, or -1 if a signal ended it. The list ends with NULL. */
int run(const char *program, ...) __attribute__((sentinel));

/* The content of a small file as a string to free; NULL if there is none. */
char *read_file(const char *path);
void write_file(const char *path, const char *text);
bool path_exists(const char *path);

/* How many of each this process has now. */
size_t count_fds(void);
size_t count_threads(void);

/* Waits until the library has no thread of its own any more: it has one while something is left to delete or to look after. */
void wait_until_idle(void);
size_t count_mounts(void);
size_t count_children(void);
size_t resident_kib(void);

/* Whether a line of this thread's mountinfo has exactly this mount point. */
bool is_mounted(const char *path);

#endif
