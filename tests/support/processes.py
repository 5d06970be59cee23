"""Processes of a node: results of commands, a program named kubelet, another user."""

import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

# Debian's nobody: a user of the node other than root.
OTHER = 65534
AS_OTHER = ("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups")

# A kubelet that answers --version. It is not a script, because the executable of a script is its
# interpreter.
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


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a command."""

    code: int
    stdout: str
    stderr: str

    def check(self) -> Self:
        """Raise AssertionError unless the command succeeded."""
        assert self.code == 0, f"{self.stdout}\n{self.stderr}"
        return self


@cache
def compiled(source: str) -> bytes:
    """A static program from C source."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program")
        command = ["musl-gcc", "-static", "-s", "-o", str(program), "-xc", "-"]
        subprocess.run(command, input=source, text=True, check=True)
        return program.read_bytes()


def kubelet(path: Path, version: str = "1.34.1") -> Path:
    """Write a kubelet to `path` that prints this version, or waits for a signal."""
    assert len(version) == len("1.34.1")
    path.write_bytes(compiled(_SOURCE).replace(b"v1.34.1", b"v" + version.encode()))
    path.chmod(0o755)
    return path
