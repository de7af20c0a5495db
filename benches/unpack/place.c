/*
 * The place floor: makes the files of a plain GNU tar and does nothing else. One thread, the archive mapped into memory,
 * no checks, no confinement, no attributes. usage: place ARCHIVE DIRECTORY
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static long octal(const char *field, int length)
{
    char text[16] = { 0 };
    memcpy(text, field, (size_t)length);
    return strtol(text, NULL, 8);
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

int main(int argc, char **argv)
{
    struct stat st;
    int archive = argc == 3 ? open(argv[1], O_RDONLY) : -1;
    if (archive < 0 || fstat(archive, &st) != 0 || chdir(argv[2]) != 0) {
        die("place");
    }
    const char *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, archive, 0);
    const char *end = at + st.st_size;
    char long_name[4096] = "", long_link[4096] = "";
    umask(0);
    while (at < end && *at != '\0') {
        char name[4096] = "", link[4096] = "";
        char type = at[156];
        long size = octal(at + 124, 12);
        const char *data = at + 512;
        mode_t mode = (mode_t)octal(at + 100, 8);
        uid_t uid = (uid_t)octal(at + 108, 8);
        gid_t gid = (gid_t)octal(at + 116, 8);
        struct timespec times[2] = { { octal(at + 136, 12), 0 }, { octal(at + 136, 12), 0 } };
        if (type == 'L' || type == 'K') {
            memcpy(type == 'L' ? long_name : long_link, data, (size_t)size);
            at = data + (size + 511) / 512 * 512;
            continue;
        }
        strncpy(name, long_name[0] ? long_name : at, long_name[0] ? sizeof(name) - 1 : 100);
        strncpy(link, long_link[0] ? long_link : at + 157, long_link[0] ? sizeof(link) - 1 : 100);
        long_name[0] = long_link[0] = '\0';
        at = type == '0' || type == '\0' ? data + (size + 511) / 512 * 512 : data;
        if (type == '5') {
            if (mkdir(name, mode) != 0 && strcmp(name, "./") != 0) {
                die(name);
            }
        } else if (type == '2') {
            if (symlink(link, name) != 0 || utimensat(AT_FDCWD, name, times, AT_SYMLINK_NOFOLLOW) != 0) {
                die(name);
            }
        } else if (type == '1') {
            if (linkat(AT_FDCWD, link, AT_FDCWD, name, 0) != 0) {
                die(name);
            }
        } else {
            int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, mode);
            if (fd < 0) {
                die(name);
            }
            while (size > 0) {
                ssize_t got = write(fd, data, (size_t)size);
                if (got < 0) {
                    die(name);
                }
                data += got;
                size -= got;
            }
            if (((uid || gid) && fchown(fd, uid, gid) != 0) || futimens(fd, times) != 0 || close(fd) != 0) {
                die(name);
            }
        }
    }
    return 0;
}
