/*
 * The program of a binary that coverage measures (see built.py). It runs the source by this
 * repository's Python, with what the frozen program knows about itself. Where that Python cannot
 * be run, as another user below a closed folder, it runs the frozen program, which is not measured.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char frozen[PATH_MAX], *options[] = {PYTHON, "-I", "-X", "utf8", START};
    int count = sizeof options / sizeof *options;
    char **all = calloc(count + argc, sizeof *all);

    memcpy(all, options, sizeof options);
    memcpy(all + count, argv + 1, (argc - 1) * sizeof *argv);
    if (!access(START, R_OK)) {
        setenv("MEASURED_NAME", argv[0], 1);
        setenv("COVERAGE_PROCESS_CONFIG", CONFIG, 1);
        execv(PYTHON, all);
    }
    snprintf(frozen, sizeof frozen, "%s.frozen", getenv("_PYI_ARCHIVE_FILE"));
    setenv("_PYI_ARCHIVE_FILE", frozen, 1);
    execv(frozen, argv);
    return 127;
}
