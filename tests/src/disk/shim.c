/* Stands between a process and its files: tells every change below LA_DISK_DIR to the tape LA_DISK_TAPE, in
 * order, lets syncs fail while the file LA_DISK_BAD exists, which grows by a byte each time, and every change while LA_DISK_READONLY does, and
 * gives the file LA_DISK_BOOT for the boot id.
 * What is on the tape: kind, length of path and of data (little endian), offset, path, data. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, RESIZE, SYNC, RENAME, REMOVE };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name, ...) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static ssize_t plain_write(int fd, const void *data, size_t len) {
  REAL(write);
  return real(fd, data, len);
}

static int plain_open(const char *path, int flags, mode_t mode) {
  static int (*real)(const char *, int, ...);
  if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
  return real(path, flags, mode);
}

static int is_watched(const char *path) {
  const char *dir = getenv("LA_DISK_DIR");
  return dir && getenv("LA_DISK_TAPE") && strncmp(path, dir, strlen(dir)) == 0;
}

static int path_of(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t len = readlink(link, path, PATH_MAX - 1);
  if (len < 0) return 0;
  path[len] = 0;
  return is_watched(path);
}

static int is_read_only(void) {
  const char *flag = getenv("LA_DISK_READONLY");
  if (!flag || access(flag, F_OK) != 0) return 0;
  errno = EROFS;
  return 1;
}

/* Called with the lock held, so that the tape has the order of what happened. */
static void tell(uint8_t kind, const char *path, uint64_t offset, const void *data, size_t len) {
  static int tape = -1;
  if (tape < 0) tape = plain_open(getenv("LA_DISK_TAPE"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  size_t path_len = strlen(path);
  uint32_t sizes[2] = {(uint32_t)path_len, (uint32_t)len};
  char *entry = malloc(17 + path_len + len);
  entry[0] = (char)kind;
  memcpy(entry + 1, sizes, 8);
  memcpy(entry + 9, &offset, 8);
  memcpy(entry + 17, path, path_len);
  memcpy(entry + 17 + path_len, data, len);
  if (plain_write(tape, entry, 17 + path_len + len) < 0) abort();
  free(entry);
}

static int opened(const char *path, int flags, mode_t mode) {
  const char *boot = getenv("LA_DISK_BOOT");
  if (boot && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) path = boot;
  if (!(flags & (O_CREAT | O_TRUNC)) || !is_watched(path)) return plain_open(path, flags, mode);
  if (is_read_only()) return -1;
  pthread_mutex_lock(&lock);
  int was = access(path, F_OK) == 0;
  int fd = plain_open(path, flags, mode);
  if (fd >= 0 && !was) tell(CREATE, path, 0, "", 0);
  if (fd >= 0 && was && (flags & O_TRUNC)) tell(RESIZE, path, 0, "", 0);
  pthread_mutex_unlock(&lock);
  return fd;
}

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    return opened(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

static ssize_t written(int fd, const void *data, size_t len, off64_t at) {
  static ssize_t (*real)(int, const void *, size_t, off64_t);
  if (!real) real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
  char path[PATH_MAX];
  if (!path_of(fd, path)) return at < 0 ? plain_write(fd, data, len) : real(fd, data, len, at);
  if (is_read_only()) return -1;
  pthread_mutex_lock(&lock);
  off64_t offset = at;
  if (at < 0) {
    struct stat now;
    fstat(fd, &now);
    offset = (fcntl(fd, F_GETFL) & O_APPEND) ? now.st_size : lseek64(fd, 0, SEEK_CUR);
  }
  ssize_t done = at < 0 ? plain_write(fd, data, len) : real(fd, data, len, at);
  if (done > 0) tell(WRITE, path, (uint64_t)offset, data, (size_t)done);
  pthread_mutex_unlock(&lock);
  return done;
}

ssize_t write(int fd, const void *data, size_t len) { return written(fd, data, len, -1); }
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) { return written(fd, data, len, at); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return written(fd, data, len, at); }

static int resized(int fd, off64_t len) {
  static int (*real)(int, off64_t);
  if (!real) real = (int (*)(int, off64_t))dlsym(RTLD_NEXT, "ftruncate64");
  char path[PATH_MAX];
  int watched = path_of(fd, path);
  if (watched && is_read_only()) return -1;
  pthread_mutex_lock(&lock);
  int done = real(fd, len);
  if (done == 0 && watched) tell(RESIZE, path, (uint64_t)len, "", 0);
  pthread_mutex_unlock(&lock);
  return done;
}

int ftruncate64(int fd, off64_t len) { return resized(fd, len); }
int ftruncate(int fd, off_t len) { return resized(fd, len); }

static int synced(int fd, int (*real)(int)) {
  const char *bad = getenv("LA_DISK_BAD");
  int failing = bad ? plain_open(bad, O_WRONLY | O_APPEND | O_CLOEXEC, 0) : -1;
  if (failing >= 0) {
    plain_write(failing, "!", 1);
    close(failing);
    errno = EIO;
    return -1;
  }
  char path[PATH_MAX];
  int watched = path_of(fd, path);
  pthread_mutex_lock(&lock);
  int done = real(fd);
  if (done == 0 && watched) tell(SYNC, path, 0, "", 0);
  pthread_mutex_unlock(&lock);
  return done;
}

int fsync(int fd) {
  REAL(fsync);
  return synced(fd, real);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  return synced(fd, real);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  if (is_watched(to) && is_read_only()) return -1;
  pthread_mutex_lock(&lock);
  int done = real(from, to);
  if (done == 0 && is_watched(to)) tell(RENAME, from, 0, to, strlen(to));
  pthread_mutex_unlock(&lock);
  return done;
}

int unlink(const char *path) {
  REAL(unlink);
  if (is_watched(path) && is_read_only()) return -1;
  pthread_mutex_lock(&lock);
  int done = real(path);
  if (done == 0 && is_watched(path)) tell(REMOVE, path, 0, "", 0);
  pthread_mutex_unlock(&lock);
  return done;
}
