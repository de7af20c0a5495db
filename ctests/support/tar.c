#include "tar.h"
#include "check.h"

/* A ustar header: POSIX.1-1988, all members text, numbers octal. */
struct header {
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2];
    char uname[32], gname[32], major[8], minor[8], prefix[155], pad[12];
};

static void append(struct tar *tar, const void *bytes, size_t length)
{
    size_t padded = (length + 511) / 512 * 512;
    tar->data = realloc(tar->data, tar->size + padded);
    CHECK(tar->data || tar->size + padded == 0);
    if (length)
        memcpy(tar->data + tar->size, bytes, length);
    if (padded > length)
        memset(tar->data + tar->size + length, 0, padded - length);
    tar->size += padded;
}

static void entry_of(struct tar *tar, char type, const char *name, unsigned mode, const char *link, const char *content,
                     size_t length)
{
    struct header header;
    CHECK(sizeof header == 512 && strlen(name) <= sizeof header.name && strlen(link) <= sizeof header.link);
    memset(&header, 0, sizeof header);
    memcpy(header.name, name, strlen(name));
    memcpy(header.link, link, strlen(link));
    snprintf(header.mode, sizeof header.mode, "%07o", mode & 07777);
    memcpy(header.uid, "0000000", 8);
    memcpy(header.gid, "0000000", 8);
    snprintf(header.size, sizeof header.size, "%011lo", (unsigned long)length & 077777777777UL);
    memcpy(header.mtime, "14000000000", 12);
    memset(header.checksum, ' ', sizeof header.checksum);
    header.type = type;
    memcpy(header.magic, "ustar", 6);
    memcpy(header.version, "00", 2);
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof header; i++)
        sum += ((const unsigned char *)&header)[i];
    snprintf(header.checksum, sizeof header.checksum, "%06o", sum);
    append(tar, &header, sizeof header);
    append(tar, content, length);
}

static void entry(struct tar *tar, char type, const char *name, unsigned mode, const char *link, const char *content)
{
    entry_of(tar, type, name, mode, link, content, content ? strlen(content) : 0);
}

void tar_file(struct tar *tar, const char *name, unsigned mode, const char *content)
{
    entry(tar, '0', name, mode, "", content);
}

void tar_dir(struct tar *tar, const char *name, unsigned mode)
{
    entry(tar, '5', name, mode, "", NULL);
}

void tar_symlink(struct tar *tar, const char *name, const char *target)
{
    entry(tar, '2', name, 0777, target, NULL);
}

void tar_hardlink(struct tar *tar, const char *name, const char *target)
{
    entry(tar, '1', name, 0644, target, NULL);
}

void tar_record(struct tar *tar, const char *key, const void *value, size_t length)
{
    /* "length key=value\n", where the length counts its own digits: five are always enough, and may be zeros. */
    char record[70000];
    size_t whole = 5 + 1 + strlen(key) + 1 + length + 1;
    CHECK(whole < sizeof record);
    int head = snprintf(record, sizeof record, "%05zu %s=", whole, key);
    memcpy(record + head, value, length);
    record[whole - 1] = '\n';
    entry_of(tar, 'x', "pax", 0644, "", record, whole);
}

void tar_end(struct tar *tar)
{
    static const char zeros[1024];
    append(tar, zeros, sizeof zeros);
}

void tar_free(struct tar *tar)
{
    free(tar->data);
    memset(tar, 0, sizeof *tar);
}

ssize_t tar_read(void *context, void *buffer, size_t length)
{
    struct tar *tar = context;
    size_t left = tar->size - tar->done;
    if (length > left)
        length = left;
    if (length)
        memcpy(buffer, tar->data + tar->done, length);
    tar->done += length;
    return (ssize_t)length;
}
