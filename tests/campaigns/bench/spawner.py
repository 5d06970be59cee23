"""Starts calls all at once and tells what each took. Runs as a script in a small Python of its own.

Small, because the kernel's peak memory of a child counts what its parent had when it started it:
this process's some 10 MB are the floor of what can be measured. One JSON line in, one out.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(start(order["argv"], order["env"], order["requests"])), flush=True)


def start(argv: list[str], env: dict[str, str], requests: list[str]) -> list[dict[str, object]]:
    """A process of `argv` for each of `requests`, which it finds on its standard input.

    An answer is there when its process has ended: the kubelet waits for just that. `seconds` count
    from before the first process was started.
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
    """All of a pipe whose writer has ended. More than the pipe holds would have stopped the writer."""
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read().decode(errors="replace")


if __name__ == "__main__":
    main()
