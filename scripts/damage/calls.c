/* Calls of the C library that fail, end the process, or find the disk full: loaded with LD_PRELOAD, armed from Python.

   Only what happens to files below one folder counts. A table that parent and child share notes which files were
   written since they were last synced: a power cut may take those. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ANY, OPEN, MAKE, READ, WRITE, SYNC, RENAME, LINK, UNLINK, MKDIR, CUT, CLOSE, LIST, STAT };
enum { ONCE, FROM_THEN_ON, KILL };

static char prefix[PATH_MAX];
static size_t prefix_length;
static int armed, call_kind, call_mode, call_number;
static long call_which, counts[STAT + 2], room;
static struct entry { unsigned long inode; long dirty; } *table;
static long table_size;

void faults_arm(const char *below, int kind, long which, int number, int mode, long bytes, void *shared, long entries) {
    strncpy(prefix, below, sizeof prefix - 1);
    prefix_length = strlen(prefix);
    call_kind = kind; call_which = which; call_number = number; call_mode = mode; memset(counts, 0, sizeof counts); room = bytes;
    table = shared; table_size = entries; armed = 1;
}
void faults_disarm(void) { armed = 0; }
long faults_count(int kind) { return counts[kind]; }

static int below(const char *path) { return armed && path && strncmp(path, prefix, prefix_length) == 0; }
static int fd_below(int fd) {
    char link[40], path[PATH_MAX];
    if (!armed || fd < 3) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return below(path);
}
static int at_below(int dir, const char *path) { return path && path[0] != '/' && dir != AT_FDCWD ? fd_below(dir) : below(path); }

static int changes(int kind) { return kind != READ && kind != STAT && kind != OPEN && kind != LIST && kind != CLOSE; }
static int fails(int kind) {
    long now = ++counts[kind];
    if (changes(kind)) ++counts[ANY];
    if (call_kind == ANY && changes(kind)) now = counts[ANY];
    else if (call_kind != kind) return 0;
    if (call_which <= 0 || now < call_which || (now > call_which && call_mode != FROM_THEN_ON)) return 0;
    if (call_mode == KILL) { kill(getpid(), SIGKILL); pause(); }
    errno = call_number;
    return 1;
}
static int full(size_t size) {
    counts[STAT + 1] += size;
    if (room < 0) return 0;
    if ((long)size > room) { errno = ENOSPC; return 1; }
    room -= size;
    return 0;
}
static void mark(int fd, long dirty) {
    struct stat found;
    if (!table || fstat(fd, &found) || !S_ISREG(found.st_mode)) return;
    for (long n = 0; n < table_size; n++)
        if (table[n].inode == found.st_ino || (table[n].inode == 0 && dirty)) {
            table[n].inode = found.st_ino; table[n].dirty = dirty; return;
        }
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int opened(int flags) { return fails(flags & O_CREAT ? MAKE : OPEN); }
#define OPENS(name) \
int name(const char *path, int flags, ...) { \
    va_list more; va_start(more, flags); mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; va_end(more); \
    REAL(name); if (below(path) && opened(flags)) return -1; return real(path, flags, mode); }
OPENS(open) OPENS(open64)
#define OPENS_AT(name) \
int name(int dir, const char *path, int flags, ...) { \
    va_list more; va_start(more, flags); mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; va_end(more); \
    REAL(name); if (at_below(dir, path) && opened(flags)) return -1; return real(dir, path, flags, mode); }
OPENS_AT(openat) OPENS_AT(openat64)
#define FOPENS(name) \
FILE *name(const char *path, const char *how) { \
    REAL(name); if (below(path) && opened(how[0] == 'r' ? 0 : O_CREAT)) return NULL; return real(path, how); }
FOPENS(fopen) FOPENS(fopen64)

#define WRITES(name, extra, given) \
ssize_t name(int fd, const void *data, size_t size extra) { \
    REAL(name); if (!fd_below(fd)) return real(fd, data, size given); \
    if (fails(WRITE)) return -1; \
    if (room >= 0 && (long)size > room && room > 0) size = room; /* a short write first, as a disk that fills up does */ \
    if (full(size)) return -1; \
    mark(fd, 1); return real(fd, data, size given); }
#define COMMA ,
WRITES(write, , ) WRITES(pwrite, COMMA off_t at, COMMA at) WRITES(pwrite64, COMMA off64_t at, COMMA at)
ssize_t writev(int fd, const struct iovec *parts, int number) {
    REAL(writev); if (!fd_below(fd)) return real(fd, parts, number);
    size_t size = 0; for (int n = 0; n < number; n++) size += parts[n].iov_len;
    if (fails(WRITE) || full(size)) return -1;
    mark(fd, 1); return real(fd, parts, number);
}
ssize_t sendfile(int out, int in, off_t *at, size_t size) {
    REAL(sendfile); if (!fd_below(out)) return real(out, in, at, size);
    if (fails(WRITE) || full(size > 1 << 20 ? 1 << 20 : size)) return -1;
    mark(out, 1); return real(out, in, at, size);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range); if (!fd_below(out)) return real(in, from, out, to, size, flags);
    if (fails(WRITE) || full(size > 1 << 20 ? 1 << 20 : size)) return -1;
    mark(out, 1); return real(in, from, out, to, size, flags);
}
#define READS(name, extra, given) \
ssize_t name(int fd, void *data, size_t size extra) { \
    REAL(name); if (fd_below(fd) && fails(READ)) return -1; return real(fd, data, size given); }
READS(read, , ) READS(pread, COMMA off_t at, COMMA at) READS(pread64, COMMA off64_t at, COMMA at)

#define SYNCS(name) int name(int fd) { REAL(name); if (!fd_below(fd)) return real(fd); if (fails(SYNC)) return -1; mark(fd, 0); return real(fd); }
SYNCS(fsync) SYNCS(fdatasync)
int close(int fd) { /* as NFS and quotas do: the descriptor is closed, and what was written may be lost */
    REAL(close); int ours = fd_below(fd) && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY; int done = real(fd);
    return ours && fails(CLOSE) ? -1 : done;
}
#define ON_PATH(kind, name, declared, given, path) int name declared { REAL(name); if (below(path) && fails(kind)) return -1; return real given; }
#define ON_AT(kind, name, declared, given, dir, path) int name declared { REAL(name); if (at_below(dir, path) && fails(kind)) return -1; return real given; }
ON_PATH(RENAME, rename, (const char *a, const char *b), (a, b), b)
ON_AT(RENAME, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b), e, b)
ON_PATH(LINK, link, (const char *a, const char *b), (a, b), b)
ON_AT(LINK, linkat, (int d, const char *a, int e, const char *b, int f), (d, a, e, b, f), e, b)
ON_PATH(UNLINK, unlink, (const char *a), (a), a)
ON_PATH(UNLINK, rmdir, (const char *a), (a), a)
ON_AT(UNLINK, unlinkat, (int d, const char *a, int f), (d, a, f), d, a)
ON_PATH(MKDIR, mkdir, (const char *a, mode_t m), (a, m), a)
ON_AT(MKDIR, mkdirat, (int d, const char *a, mode_t m), (d, a, m), d, a)
#define CUTS(name, off) int name(int fd, off size) { REAL(name); if (fd_below(fd)) { if (fails(CUT)) return -1; mark(fd, 1); } return real(fd, size); }
CUTS(ftruncate, off_t) CUTS(ftruncate64, off64_t)
DIR *opendir(const char *path) { REAL(opendir); if (below(path) && fails(LIST)) return NULL; return real(path); }
ON_PATH(STAT, stat, (const char *a, struct stat *b), (a, b), a)
ON_PATH(STAT, lstat, (const char *a, struct stat *b), (a, b), a)
ON_PATH(STAT, stat64, (const char *a, struct stat64 *b), (a, b), a)
ON_PATH(STAT, lstat64, (const char *a, struct stat64 *b), (a, b), a)
ON_AT(STAT, fstatat, (int d, const char *a, struct stat *b, int f), (d, a, b, f), d, a)
ON_AT(STAT, fstatat64, (int d, const char *a, struct stat64 *b, int f), (d, a, b, f), d, a)
