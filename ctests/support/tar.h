/* The smallest tar writer that makes layers to unpack, and the `read` function that hands them to the library. */
#ifndef TAR_H
#define TAR_H

#include <stddef.h>
#include <sys/types.h>

/* An archive in memory. Starts as {0}; tar_free() when done. */
struct tar {
    char *data;
    size_t size;
    size_t done; /* how much tar_read() has given away */
};

void tar_file(struct tar *tar, const char *name, unsigned mode, const char *content);
void tar_dir(struct tar *tar, const char *name, unsigned mode);
void tar_symlink(struct tar *tar, const char *name, const char *target);
void tar_hardlink(struct tar *tar, const char *name, const char *target);
/* An extension record about the entry that follows: `value` has `length` bytes, any. */
void tar_record(struct tar *tar, const char *key, const void *value, size_t length);
void tar_end(struct tar *tar);
void tar_free(struct tar *tar);

/* An io_read_func_t; `context` is the struct tar. */
ssize_t tar_read(void *context, void *buffer, size_t length);

#endif
