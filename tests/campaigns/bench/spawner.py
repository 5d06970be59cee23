"""Starts calls in parallel and measures each. Runs as a script in a small Python process.

The process is small because the peak memory of a child includes that of its parent at the start: 10 MB
is the least that can be measured. It reads one JSON line per order and writes one.
"""

import json
import os
import sys
import time


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(start(order["argv"], order["env"], order["requests"])), flush=True)


def start(argv: list[str], env: dict[str, str], requests: list[str]) -> list[dict[str, object]]:
    """Start `argv` once for each of `requests`, which is its standard input.

    A call ends when its process ends, because the kubelet waits for that. `seconds` counts from before
    the first start.
    """
    began = time.perf_counter()
    streams = {}
    for request in requests:
        stdin, into = os.pipe()
        stdout, out = os.pipe()
        stderr, err = os.pipe()
        os.write(into, request.encode())
        os.close(into)
        places = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate((stdin, out, err))]
        pid = os.posix_spawn(argv[0], argv, env, file_actions=places)
        for fd in (stdin, out, err):
            os.close(fd)
        streams[pid] = (request, stdout, stderr)
    ended = []
    for _ in requests:
        pid, status, used = os.wait3(0)
        ended.append((pid, status, used, time.perf_counter() - began))
    calls: list[dict[str, object]] = []
    for pid, status, used, seconds in ended:
        request, stdout, stderr = streams[pid]
        calls.append(
            {
                "request": request,
                "seconds": seconds,
                "cpu_seconds": used.ru_utime + used.ru_stime,
                "peak_mb": used.ru_maxrss / 1024,
                "exit": os.waitstatus_to_exitcode(status),
                "stdout": _read(stdout),
                "stderr": _read(stderr),
            }
        )
    return calls


def _read(fd: int) -> str:
    """Read a pipe whose writer has ended. The writer would have blocked on more than the pipe's size."""
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read().decode(errors="replace")


if __name__ == "__main__":
    main()
