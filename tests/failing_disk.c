// A disk that fails: loaded before libc (LD_PRELOAD), it makes the k-th write below a folder fail, and every later one too.
// A write is anything that changes the disk: creating, writing, syncing, renaming, linking, making a folder.
// Half of what a failing write was given is on the disk afterwards, as when a disk runs full.
//
//     fail_below(folder, k, errno): from now on, in this process; k counts from 1, 0 means never
//     writes_seen(): below that folder, since then

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[PATH_MAX];
static long seen, fails_at;
static int number;

void fail_below(const char *folder, long at, int error) {
    strncpy(below, folder, sizeof below - 1);
    seen = 0, fails_at = at, number = error;
}

long writes_seen(void) { return seen; }

static int hits(const char *path) {
    if (!below[0] || strncmp(path, below, strlen(below))) return 0;
    long now = __sync_add_and_fetch(&seen, 1);
    return fails_at && now >= fails_at;
}

static int hits_file(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return hits(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL return errno = number, -1

ssize_t write(int file, const void *bytes, size_t count) {
    if (!hits_file(file)) return REAL(write)(file, bytes, count);
    if (count > 1 && seen == fails_at) REAL(write)(file, bytes, count / 2);
    FAIL;
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    if (!hits_file(file)) return REAL(writev)(file, parts, count);
    FAIL;
}
int fsync(int file) { if (!hits_file(file)) return REAL(fsync)(file); FAIL; }
int rename(const char *from, const char *to) { if (!hits(to)) return REAL(rename)(from, to); FAIL; }
int link(const char *from, const char *to) { if (!hits(to)) return REAL(link)(from, to); FAIL; }
int mkdir(const char *path, mode_t mode) { if (!hits(path)) return REAL(mkdir)(path, mode); FAIL; }

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        mode_t mode = va_arg(rest, mode_t);                               \
        va_end(rest);                                                     \
        if (!(flags & O_CREAT) || !hits(path)) return REAL(name)(path, flags, mode); \
        FAIL;                                                             \
    }
OPEN(open)
OPEN(open64)
