"""Size and start time of each form: ``make bench-start``.

The results are medians of wall-clock time in milliseconds, next to ``bash -c true``. The forms take turns.
The benchmark runs in its own network namespace, where this process is the metadata service and records
the first connection.
"""

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.support.built import BARE, REQUEST, installed, one_file, tree

ROUNDS = 30
IMDS = "169.254.169.254"
INSIDE = "--inside"
OCIR_REQUEST = REQUEST.replace(b"docker.io", b"fra.ocir.io")
# Limits in ms on an idle machine with two cores: one-file form, installed form.
LIMITS = {"version": (80, 50), "no network": (50, 25), "first packet": (60, 35)}


def seconds(command: list[str], request: bytes) -> float:
    """Return the duration of a call, from exec to its end."""
    reading, writing = os.pipe()
    os.write(writing, request)
    os.close(writing)
    started = time.monotonic()
    process = start(command, reading)
    _, status = os.waitpid(process, 0)
    elapsed = time.monotonic() - started
    os.close(reading)
    if status:
        raise RuntimeError(f"{command} failed with status {status}")
    return elapsed


def start(command: list[str], stdin: int) -> int:
    """Start a program with its output discarded. Returns its process ID."""
    nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), *nowhere]
    return os.posix_spawn(command[0], command, BARE, file_actions=actions)


def seconds_to_imds(command: list[str], listener: socket.socket) -> float:
    """Return the time from exec to the first connection to the metadata service."""
    reading, writing = os.pipe()
    os.write(writing, OCIR_REQUEST)
    os.close(writing)
    started = time.monotonic()
    process = start(command, reading)
    connection, _ = listener.accept()
    elapsed = time.monotonic() - started
    os.kill(process, 15)
    os.waitpid(process, 0)
    # Further connections of the same call.
    listener.setblocking(False)
    try:
        while True:
            listener.accept()[0].close()
    except BlockingIOError:
        listener.settimeout(10)
    connection.close()
    os.close(reading)
    return elapsed


def measure(forms: dict[str, str], listener: socket.socket) -> dict[str, dict[str, float]]:
    """Return medians in ms, by measurement and form."""
    kinds: dict[str, Callable[[str], float]] = {
        "version": lambda form: seconds([form, "version"], b""),
        "no network": lambda form: seconds([form], REQUEST),
        "first packet": lambda form: seconds_to_imds([form], listener),
    }
    found: dict[str, dict[str, float]] = {}
    for kind, run in kinds.items():
        times: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(ROUNDS):
            for name, form in forms.items():
                times[name].append(run(form))
        found[kind] = {name: median(values) * 1000 for name, values in times.items()}
    return found


def inside() -> None:
    """Measure and print, inside the network namespace."""
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "addr", "add", f"{IMDS}/32", "dev", "lo"],
    ):
        subprocess.run(command, check=True)
    listener = socket.create_server((IMDS, 80), backlog=64)
    listener.settimeout(10)
    forms = {
        "one file": str(one_file()),
        "installed": str(installed()),
        "source": str(Path(sys.executable).parent / "oke-credential-provider"),
    }
    bash = median(seconds(["/bin/bash", "-c", "true"], b"") for _ in range(ROUNDS)) * 1000
    found = measure(forms, listener)

    unpacked = sum(path.stat().st_size for path in tree().rglob("*") if path.is_file())
    print(
        f"size: one file {one_file().stat().st_size / 1e6:.1f} MB (limit: 32), installed {unpacked / 1e6:.1f} MB"
    )
    print(f"medians of {ROUNDS} in ms; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
          f"{platform.machine()}, Python {platform.python_version()}")  # fmt: skip
    print(f"{'':<14}" + "".join(f"{name:>12}" for name in forms) + f"{'limits':>12}")
    for kind, values in found.items():
        limits = "{} / {}".format(*LIMITS[kind])
        print(f"{kind:<14}" + "".join(f"{values[name]:>12.1f}" for name in forms) + f"{limits:>12}")
    print(f"{'bash -c true':<14}{bash:>12.1f}")


def main() -> None:
    """Run the benchmark in a new network namespace."""
    if INSIDE in sys.argv:
        inside()
        return
    command = ["unshare", "--net", sys.executable, "-m", "tests.campaigns.bench_start", INSIDE]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
