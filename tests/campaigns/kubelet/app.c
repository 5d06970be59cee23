/* The program in the images of the pods: it runs until the runtime stops it. */
#include <signal.h>
#include <unistd.h>

static void stop(int number) {
    (void)number;
    _exit(0);
}

int main(void) {
    signal(SIGTERM, stop);
    for (;;)
        pause();
}
