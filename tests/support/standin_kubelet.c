/* The executable that systemd starts as the kubelet. It runs standin_kubelet.py and exits with its exit
   status. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    pid_t child = fork();
    if (child == 0) {
        char *arguments[argc + 2];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        arguments[0] = PYTHON;
        arguments[1] = SCRIPT;
        for (int i = 1; i <= argc; i++)
            arguments[i + 1] = argv[i];
        execv(PYTHON, arguments);
        _exit(127);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) < 0)
        return 126;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
