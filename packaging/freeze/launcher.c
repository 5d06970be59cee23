/*
 * The launcher of both frozen forms. It is linked statically, so that neither the node's libraries
 * nor its LD_* variables affect it.
 *
 * One-file form: a zip archive (stored, not compressed) follows this program. The launcher unpacks it
 * into a new folder and replaces itself with the program there. So no second process can survive a
 * SIGKILL and hold the kubelet's pipe. The program removes the folder when it ends
 * (provider/frozen.py). A later call removes the folder of a killed call.
 *
 * Installed form: there is no archive. The launcher runs the program in its own folder.
 *
 * A folder in use is locked with flock. The program inherits the descriptor and does not use it; the
 * kernel releases the lock when the program ends for any reason.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PREFIX "oke-credential-provider."
#define SUFFIX "XXXXXX"
/* A file in each unpacked folder: the PID of its process. Created first, removed last. */
#define MARKER "pid"
#define PROGRAM "bin/program/oke-credential-provider"
/* The exit codes of provider/errors.py. */
#define EXIT_CANNOT_UNPACK 71
#define EXIT_DAMAGED 72

static char reasons[4096];

static void because(const char *format, ...)
{
    size_t used = strlen(reasons);
    va_list values;
    va_start(values, format);
    vsnprintf(reasons + used, sizeof reasons - used, format, values);
    va_end(values);
}

/* Runs the program under folder. Returns only if that fails. */
static void run(const char *folder, char **argv)
{
    char program[PATH_MAX], libraries[PATH_MAX + 16];
    if (snprintf(program, sizeof program, "%s/" PROGRAM, folder) >= (int)sizeof program) {
        errno = ENAMETOOLONG;
        return;
    }
    snprintf(libraries, sizeof libraries, "%.*s/_internal", (int)(strrchr(program, '/') - program), program);
    unsetenv("LD_PRELOAD");
    unsetenv("LD_AUDIT");
    /* PyInstaller's bootloader would set LD_LIBRARY_PATH and start itself again. The next two
     * variables, its own, say that this is done. A bootloader without them would only repeat it. */
    setenv("LD_LIBRARY_PATH", libraries, 1);
    setenv("_PYI_ARCHIVE_FILE", program, 1);
    setenv("_PYI_PARENT_PROCESS_LEVEL", "-1", 1);
    unsetenv("_PYI_APPLICATION_HOME_DIR");
    execv(program, argv);
}

/* ---- the archive ------------------------------------------------------------------------------ */

struct archive {
    int file;
    const uint8_t *directory;
    unsigned entries;
    uint64_t size; /* of all entries, rounded up to blocks */
};

static uint32_t number(const uint8_t *at, int bytes)
{
    uint32_t value = 0;
    while (bytes--)
        value = value << 8 | at[bytes];
    return value;
}

/* Finds the archive that follows this program. False if there is none. */
static bool open_archive(struct archive *archive)
{
    struct stat status;
    archive->file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (archive->file < 0 || fstat(archive->file, &status) || status.st_size < 22)
        return false;
    const uint8_t *start = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, archive->file, 0);
    if (start == MAP_FAILED)
        return false;
    const uint8_t *end = start + status.st_size - 22; /* no comment follows */
    /* Written in parts: the launcher alone must not contain the signature of an archive. */
    if (end[0] != 'P' || end[1] != 'K' || number(end + 2, 2) != 0x0605)
        return false;
    archive->entries = number(end + 10, 2);
    archive->directory = start + number(end + 16, 4);
    archive->size = 0;
    const uint8_t *entry = archive->directory;
    for (unsigned i = 0; i < archive->entries; i++) {
        archive->size += (number(entry + 24, 4) / 4096 + 1) * 4096;
        entry += 46 + number(entry + 28, 2) + number(entry + 30, 2) + number(entry + 32, 2);
    }
    return true;
}

static bool unpack_entry(const struct archive *archive, const uint8_t *entry, int folder)
{
    char name[256];
    unsigned length = number(entry + 28, 2);
    if (length >= sizeof name)
        return false;
    memcpy(name, entry + 46, length);
    name[length] = 0;
    for (char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdirat(folder, name, 0700) && errno != EEXIST)
            return false;
        *slash = '/';
    }
    uint8_t header[30];
    off_t at = number(entry + 42, 4);
    if (pread(archive->file, header, sizeof header, at) != sizeof header)
        return false;
    at += sizeof header + number(header + 26, 2) + number(header + 28, 2);
    size_t left = number(entry + 24, 4);
    mode_t mode = number(entry + 38, 4) >> 16 & 0100 ? 0700 : 0600;
    int file = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (file < 0)
        return false;
    while (left > 0) {
        ssize_t copied = sendfile(file, archive->file, &at, left);
        if (copied <= 0)
            break;
        left -= copied;
    }
    int error = errno;
    /* The umask may have removed the owner's permissions. */
    bool complete = !fchmod(file, mode) && left == 0;
    close(file);
    errno = error;
    return complete;
}

static bool unpack(const struct archive *archive, int folder)
{
    char pid[16];
    int length = snprintf(pid, sizeof pid, "%d\n", getpid());
    int marker = openat(folder, MARKER, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (marker < 0 || write(marker, pid, length) != length || fchmod(marker, 0600))
        return false;
    close(marker);
    const uint8_t *entry = archive->directory;
    for (unsigned i = 0; i < archive->entries; i++) {
        if (!unpack_entry(archive, entry, folder))
            return false;
        entry += 46 + number(entry + 28, 2) + number(entry + 30, 2) + number(entry + 32, 2);
    }
    return true;
}

/* ---- folders ---------------------------------------------------------------------------------- */

/* Removes the folder name in parent. Follows no symbolic link. At the top, it removes the marker
 * last, so that a later call can continue an interrupted removal. */
static void remove_tree(int parent, const char *name, bool top)
{
    int folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *listing = folder < 0 ? NULL : fdopendir(folder);
    if (listing) {
        for (struct dirent *entry; (entry = readdir(listing));) {
            const char *child = entry->d_name;
            if (!strcmp(child, ".") || !strcmp(child, "..") || (top && !strcmp(child, MARKER)))
                continue;
            if (unlinkat(folder, child, 0) && errno == EISDIR)
                remove_tree(folder, child, false);
        }
        if (top)
            unlinkat(folder, MARKER, 0);
        closedir(listing);
    } else if (folder >= 0) {
        close(folder);
    }
    unlinkat(parent, name, AT_REMOVEDIR);
}

/* Removes the folders of killed calls in base: with this program's prefix and marker, owned by this
 * user, closed to other users, not locked. */
static void sweep(int base)
{
    int copy = openat(base, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = copy < 0 ? NULL : fdopendir(copy);
    if (!listing)
        return;
    for (struct dirent *entry; (entry = readdir(listing));) {
        const char *name = entry->d_name;
        struct stat status;
        if (strncmp(name, PREFIX, strlen(PREFIX)) || strlen(name) != strlen(PREFIX SUFFIX))
            continue;
        int folder = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (folder < 0)
            continue;
        if (!fstat(folder, &status) && status.st_uid == geteuid() && (status.st_mode & 07777) == 0700
            && !flock(folder, LOCK_EX | LOCK_NB)) {
            if (!faccessat(folder, MARKER, F_OK, 0))
                remove_tree(base, name, true);
            else
                unlinkat(base, name, AT_REMOVEDIR); /* killed before the marker: empty */
        }
        close(folder);
    }
    closedir(listing);
}

/* Opens one component of a path. Fails with EPERM if another user owns it or can write to it. A sticky
 * folder is allowed: other users cannot rename this user's files in it. */
static int open_component(int folder, const char *name, struct stat *status)
{
    int fd = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, status))
        return -1;
    mode_t mode = status->st_mode;
    if ((status->st_uid && status->st_uid != geteuid())
        || (!S_ISLNK(mode) && mode & 022 && !(mode & S_ISVTX))) {
        close(fd);
        errno = EPERM;
        return -1;
    }
    return fd;
}

/* True if only root and this user can replace the folder at path: the program opens its files by path
 * while it runs. Resolves path as the kernel does, and checks each folder and symbolic link by the
 * rule of provider/root_only.py. If false, errno has the reason. */
static bool is_safe(const char *path)
{
    char left[2 * PATH_MAX], target[PATH_MAX], *name = left;
    if (strlen(path) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return false;
    }
    strcpy(left, path);
    int links = 0, here = open("/", O_PATH | O_CLOEXEC);
    while (*(name += strspn(name, "/"))) {
        struct stat status;
        char *rest = name + strcspn(name, "/"), end = *rest;
        *rest = 0;
        int next = open_component(here, name, &status);
        *rest = end;
        if (next < 0)
            break;
        if (!S_ISLNK(status.st_mode)) {
            name = rest;
        } else {
            ssize_t length = readlinkat(next, "", target, sizeof target);
            close(next);
            if (length < 0 || ++links > 40 || length + strlen(rest) >= sizeof left) {
                errno = ELOOP;
                break;
            }
            memmove(left + length, rest, strlen(rest) + 1);
            name = memcpy(left, target, length);
            next = *name == '/' ? open("/", O_PATH | O_CLOEXEC) : dup(here);
        }
        close(here);
        here = next;
    }
    close(here);
    return !*name;
}

/* Opens a folder to unpack in, or gives a reason and returns -1. */
static int open_base(const char *path, uint64_t size)
{
    struct statvfs system;
    bool safe = is_safe(path);
    int base = safe ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (!safe && errno == EPERM) {
        because("%s: other users could replace its files; ", path);
    } else if (base < 0 || fstatvfs(base, &system)) {
        because("%s: %s; ", path, strerror(errno));
    } else if (system.f_flag & ST_RDONLY) {
        because("%s: read-only; ", path);
    } else {
        sweep(base); /* before the check for free space */
        if (system.f_flag & ST_NOEXEC)
            because("%s: mounted noexec; ", path);
        else if (fstatvfs(base, &system) || (uint64_t)system.f_bavail * system.f_frsize < size)
            because("%s: full; ", path);
        else
            return base;
    }
    if (base >= 0)
        close(base);
    return -1;
}

/* Unpacks in the folder at path and runs the program there. Returns only if that fails. */
static void run_in(const char *path, const struct archive *archive, char **argv)
{
    char name[PATH_MAX];
    int base = open_base(path, archive->size);
    if (base < 0)
        return;
    for (int attempt = 0; attempt < 3; attempt++) {
        snprintf(name, sizeof name, "%s/" PREFIX SUFFIX, path);
        if (!mkdtemp(name)) {
            because("%s: %s; ", path, strerror(errno));
            break;
        }
        /* Not closed on exec: the program keeps the lock. */
        int folder = open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        struct stat status;
        /* Another call's sweep may have removed the new folder: try again. */
        if (folder < 0 || fchmod(folder, 0700) || flock(folder, LOCK_EX | LOCK_NB)
            || fstat(folder, &status) || status.st_nlink == 0) {
            if (folder >= 0)
                close(folder);
            continue;
        }
        if (unpack(archive, folder))
            run(name, argv);
        because("%s: %s; ", path, strerror(errno));
        remove_tree(base, strrchr(name, '/') + 1, true);
        close(folder);
        break;
    }
    close(base);
}

int main(int argc, char **argv)
{
    (void)argc;
    /* A closed standard descriptor must not become the descriptor of another file. */
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_WRONLY : O_RDONLY) != fd)
            return EXIT_CANNOT_UNPACK;

    struct archive archive;
    if (open_archive(&archive)) {
        const char *const bases[] = {getenv("TMPDIR"), "/tmp", "/var/tmp", "/run", "/dev/shm"};
        for (size_t i = 0; i < sizeof bases / sizeof *bases; i++)
            if (bases[i] && bases[i][0] == '/')
                run_in(bases[i], &archive, argv);
        fprintf(stderr,
                "oke-credential-provider: cannot-unpack: %s| Set TMPDIR to a directory with 40 MB of"
                " free space that is not mounted noexec. Then run the command install: the installed"
                " program does not unpack itself.\n",
                reasons);
        return EXIT_CANNOT_UNPACK;
    }
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length > 0) {
        self[length] = 0;
        /* self is FOLDER/bin/NAME; symbolic links are resolved. */
        for (int up = 0; up < 2 && strrchr(self, '/'); up++)
            *strrchr(self, '/') = 0;
        run(self, argv);
    }
    fprintf(stderr,
            "oke-credential-provider: damaged: the program next to %s cannot run: %s | Install it"
            " again.\n",
            length > 0 ? self : "this file", strerror(errno));
    return EXIT_DAMAGED;
}
