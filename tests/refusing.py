"""Simulates file system errors with a library that is preloaded before libc.

The library makes one kind of system call on chosen paths fail, or holds it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_refused(const char *call, const char *path) {
    static int seen;
    const char *calls = getenv("REFUSE_CALL"), *part = getenv("REFUSE_PATH"), *held = getenv("REFUSE_HELD");
    if (!calls || !part || strcmp(calls, call) || !path || !strstr(path, part)) return 0;
    if (seen++ < atoi(getenv("REFUSE_AFTER"))) return 0;
    if (held) { /* once, until the file is deleted; EINTR then lets Python handle a pending signal */
        if (seen > atoi(getenv("REFUSE_AFTER")) + 1) return 0;
        NEXT(close)(NEXT(open)(held, O_CREAT | O_WRONLY, 0600));
        while (access(held, F_OK) == 0) nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    errno = held ? EINTR : atoi(getenv("REFUSE_ERRNO"));
    return 1;
}

static const char *path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4095);
    if (n < 0) return NULL;
    path[n] = 0;
    return path;
}

ssize_t write(int fd, const void *data, size_t n) {
    char path[4096];
    return is_refused("write", path_of(fd, path)) ? -1 : NEXT(write)(fd, data, n);
}
ssize_t read(int fd, void *data, size_t n) {
    char path[4096];
    return is_refused("read", path_of(fd, path)) ? -1 : NEXT(read)(fd, data, n);
}
int fsync(int fd) {
    char path[4096];
    return is_refused("fsync", path_of(fd, path)) ? -1 : NEXT(fsync)(fd);
}
int close(int fd) {
    char path[4096];
    if (!is_refused("close", path_of(fd, path))) return NEXT(close)(fd);
    int error = errno;
    NEXT(close)(fd);
    errno = error;
    return -1;
}
int rename(const char *from, const char *to) { return is_refused("rename", to) ? -1 : NEXT(rename)(from, to); }
int link(const char *from, const char *to) { return is_refused("link", to) ? -1 : NEXT(link)(from, to); }
int mkdir(const char *path, mode_t mode) { return is_refused("mkdir", path) ? -1 : NEXT(mkdir)(path, mode); }
int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return is_refused("open", path) ? -1 : NEXT(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return is_refused("open", path) ? -1 : NEXT(open64)(path, flags, mode);
}
"""


def build(folder: Path) -> Path:
    """Compiles the library in `folder`, and returns its path; skips the test if this is not possible."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler (cc)")
    source, library = folder / "refusing.c", folder / "refusing.so"
    source.write_text(_SOURCE)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cc cannot build the library: {done.stderr[:200]}")
    return library


def refuse(library: Path, call: str, path: object, number: int, *, after: int = 0) -> dict[str, str]:
    """Returns the environment of a process in which a system call fails.

    Args:
        library: result of `build`.
        call: write, read, fsync, close, rename, link, mkdir or open.
        path: the call fails if its path contains this text (rename: the new path).
        number: errno of the failure.
        after: number of such calls that succeed first.
    """
    variables = {"REFUSE_CALL": call, "REFUSE_PATH": str(path), "REFUSE_ERRNO": str(number), "REFUSE_AFTER": str(after)}
    return {**os.environ, "LD_PRELOAD": str(library), **variables}


def hold(library: Path, call: str, path: object, held: Path, *, after: int = 0) -> dict[str, str]:
    """Returns the environment of a process that creates the file `held` in a call, and waits there for its deletion."""
    return refuse(library, call, path, 0, after=after) | {"REFUSE_HELD": str(held)}
