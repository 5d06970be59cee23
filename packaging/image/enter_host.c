/*
 * The entry point of the installer image. It is linked statically: the image has no other files than
 * this program and the one-file binary.
 *
 *   enter-host wait         waits for SIGTERM
 *   enter-host ARGUMENT...  runs the image's binary with these arguments in the host's root
 *
 * The binary runs through a descriptor that is opened before chroot, so no file of the host is executed
 * in its place, and none is written. Its environment has only PATH and NODE_NAME: the pod's
 * KUBERNETES_SERVICE_HOST, for example, is one of its settings.
 *
 * This program stays the first process of the container. It passes SIGTERM on and reaps processes:
 * process 1, which it is without hostPID, ignores signals that have no handler.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAME "oke-credential-provider"
#define BINARY "/" NAME
#define HOST "/host"
#define PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
/* The exit codes of provider/errors.py. */
#define EXIT_CANNOT_UNPACK 71
#define EXIT_ROLLED_BACK 76
#define EXIT_KUBELET_UNHEALTHY 77

/* Prints the line for the inventory of versions, in the form of install, where install cannot. */
static void report(const char *cause)
{
    const char *node = getenv("NODE_NAME");
    printf(NAME " node=%s version=unknown state=failed cause=%s\n", node ? node : "unknown", cause);
    fflush(stdout);
}

/* Adds the sticky bit to the folder for temporary files, which is an emptyDir that all users can write
 * to. The binary unpacks itself only where no other user could rename its folder. */
static void protect_temporary_files(void)
{
    struct stat status;
    int folder = open("/tmp", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder >= 0 && !fstat(folder, &status) && status.st_uid == 0 && !(status.st_mode & S_ISVTX))
        fchmod(folder, (status.st_mode & 07777) | S_ISVTX);
    if (folder >= 0)
        close(folder);
}

/* Runs the binary in the host's root. Returns only if that fails. */
static void run(char **argv)
{
    char *node = getenv("NODE_NAME"), variable[512] = "";
    char *environment[] = {PATH, variable, NULL};
    if (node)
        snprintf(variable, sizeof variable, "NODE_NAME=%s", node);
    else
        environment[1] = NULL;
    int binary = open(BINARY, O_RDONLY | O_CLOEXEC);
    if (binary < 0 || chroot(HOST) || chdir("/"))
        return;
    protect_temporary_files();
    argv[0] = NAME;
    fexecve(binary, argv, environment);
}

static bool terminated;

/* Waits for the child, and passes signals on to it. Returns its status. Without a child, it waits for a
 * signal. */
static int wait_for(const sigset_t *signals, pid_t child)
{
    for (;;) {
        int status, signal = sigwaitinfo(signals, NULL);
        if (signal == SIGCHLD) {
            for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) > 0;)
                if (ended == child)
                    return status;
        } else if (signal > 0) {
            terminated = true;
            if (!child)
                return 0;
            kill(child, signal);
        }
    }
}

int main(int argc, char **argv)
{
    sigset_t signals, before;
    if (argc < 2) {
        fprintf(stderr, "usage: enter-host wait | enter-host ARGUMENT...\n");
        return 2;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, &before);
    if (!strcmp(argv[1], "wait"))
        return wait_for(&signals, 0);

    pid_t child = fork();
    if (child == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        run(argv);
        fprintf(stderr,
                NAME ": cannot-enter-host: %s | Mount the host's root at " HOST ", and add the"
                     " capability SYS_CHROOT.\n",
                strerror(errno));
        report("cannot-enter-host");
        return 1;
    }
    if (child < 0) {
        perror(NAME ": fork");
        return 1;
    }
    int status = wait_for(&signals, child), code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) {
        report("killed");
        return 128 + WTERMSIG(status);
    }
    if (code == EXIT_CANNOT_UNPACK)
        report("cannot-unpack");
    if ((code == EXIT_ROLLED_BACK || code == EXIT_KUBELET_UNHEALTHY) && !terminated) {
        /* The end of this container would start it again, and with it the next trial. */
        fprintf(stderr, NAME ": enable is not tried again in this pod. To try again, delete the pod.\n");
        wait_for(&signals, 0);
    }
    return code;
}
