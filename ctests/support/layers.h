/* Layers that several tests need. Every function ends the process when something fails. */
#ifndef LAYERS_H
#define LAYERS_H

#include "tar.h"

#include <graphdriver.h>

/* Makes a store (see store_make) and initialises the overlay2 driver there, its home being <root>/storage/overlay2. */
const char *start(const char *test);

/* Makes a read-only layer and unpacks the archive into it; frees the archive. */
void make_layer(const char *id, const char *parent, struct tar *tar);

/* A small root filesystem: etc/hosts, home/user/notes, index.html, bin -> usr/bin, usr/bin/tool and a hard link of it. */
void make_base(const char *id);

/* On top of a base: home deleted, index.html replaced, etc/motd added. */
void make_second(const char *id, const char *parent);

/* A read-write layer without options. */
void make_rw(const char *id, const char *parent);

/* Unmounts, and deletes the layer, then checks that it is gone. */
void drop(const char *id);

/* An image of 40 files, read by `read` of a struct tar, and a container upon it: made, mounted, looked at and dropped. */
void whole_life(io_read_func_t read);

/* Whether this kernel can be told of an overlay's lowers one by one (Linux 6.8): up to 500 then, else what fits into one page
   of options, about 130. Found out by trying, past the library; says which. */
bool kernel_stacks_one_by_one(void);

/* The value of a key of the layer's metadata, to free; NULL if it has none. */
char *metadata(const char *id, const char *key);

#endif
