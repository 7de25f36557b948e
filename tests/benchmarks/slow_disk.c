/* A disk that takes its time, to be preloaded into a process: its fsync and fdatasync sleep SLOW_DISK_MS first.
 *
 * Built by disk.py: cc -O2 -shared -fPIC slow_disk.c -ldl.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static int late(const char *name, int fd) {
    const char *said = getenv("SLOW_DISK_MS");
    long ms = said ? atol(said) : 0;
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&pause, NULL);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
}

int fsync(int fd) { return late("fsync", fd); }

int fdatasync(int fd) { return late("fdatasync", fd); }
