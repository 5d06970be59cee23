"""Processes for tests: a program named kubelet, and another user."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path

# Debian's nobody; a user of the node who is not root.
OTHER = 65534
AS_OTHER = ("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups")

# What a check asks of a kubelet. It is no script, since a script's executable is its interpreter.
_SOURCE = """
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--version"))
        return puts("Kubernetes v1.34.1") < 0;
    for (;;)
        pause();
}
"""


@cache
def _compiled() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "kubelet")
        command = ["musl-gcc", "-static", "-s", "-o", str(program), "-xc", "-"]
        subprocess.run(command, input=_SOURCE, text=True, check=True)
        return program.read_bytes()


def kubelet(path: Path, version: str = "1.34.1") -> Path:
    """Put a kubelet at `path`: it tells this version, or waits to be killed."""
    assert len(version) == len("1.34.1")
    path.write_bytes(_compiled().replace(b"v1.34.1", b"v" + version.encode()))
    path.chmod(0o755)
    return path
