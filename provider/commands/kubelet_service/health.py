"""Is the kubelet healthy: its main process, its command line, its healthz, the node's containers."""

import glob
import http.client
import ipaddress
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from provider.commands.kubelet_service.systemd import Service, show
from provider.commands.node.processes import Kubelet

# Those of the kubelet: pkg/kubelet/apis/config/v1beta1/defaults.go
_ADDRESS: Final = "127.0.0.1"
_PORT: Final = 10248
_PROBE_SECONDS: Final = 2.0
_POLL: Final = 0.5
_LISTEN: Final = "0A"


class Unhealthy(Exception):
    """The kubelet is not healthy; the message says why."""


class Expected(NamedTuple):
    """What a healthy kubelet looks like. A flag whose value is None is one that it must not have."""

    flags: Mapping[str, str | None]
    healthz: tuple[str, int] | None  # None: it serves none


def healthz_address(kubelet: Kubelet) -> tuple[str, int] | None:
    """Where it serves /healthz: by its flags, else its config files, else its defaults."""
    config = _config(kubelet)
    address = kubelet.flag("--healthz-bind-address") or config.get("healthzBindAddress")
    port = kubelet.flag("--healthz-port")
    if port is None:
        port = config.get("healthzPort", _PORT)
    try:
        number = int(port)
        listens = ipaddress.ip_address(str(address or _ADDRESS))
    except (TypeError, ValueError):
        return _ADDRESS, _PORT
    if number <= 0:
        return None
    if listens.is_unspecified:
        listens = ipaddress.ip_address("::1" if listens.version == 6 else _ADDRESS)
    return str(listens), number


def _config(kubelet: Kubelet) -> dict[str, Any]:
    """Its KubeletConfiguration; a file of --config-dir counts for more than the file of --config."""
    paths = [kubelet.flag("--config")]
    if folder := kubelet.flag("--config-dir"):
        paths += sorted(map(str, Path(folder).glob("*.conf")))
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) if path else None
        except (OSError, ValueError, yaml.YAMLError):
            continue  # the kubelet reads it, or does not start: that is its own matter
        if isinstance(content, dict):
            merged |= content
    return merged


def kubelet_containers() -> frozenset[str]:
    """The cgroups of pods in which a process runs: one for each container.

    They are read from the mounted hierarchy, in which root alone can make a "kubepods" at the top.
    What /proc says of a process depends on the reader's cgroup namespace.
    """
    for root in ("/sys/fs/cgroup", *sorted(glob.glob("/sys/fs/cgroup/*"))):  # v2, and each of v1
        found = {
            folder
            for top in glob.glob(f"{root}/kubepods*")
            for folder, _, _ in os.walk(top)
            if _has_processes(folder)
        }
        if found:
            return frozenset(found)
    return frozenset()


def _has_processes(cgroup: str) -> bool:
    try:
        return Path(cgroup, "cgroup.procs").read_text() != ""
    except OSError:
        return False  # it is gone


def judge_containers(before: frozenset[str], after: frozenset[str]) -> int:
    """How many of the containers still run. Raises Unhealthy when more than half are gone: a job may
    end at any time, a restart of the kubelet ends no container.
    """
    still = len(before & after)
    if still * 2 < len(before):
        raise Unhealthy(f"of {len(before)} containers only {still} still run")
    return still


def why_unhealthy(service: Service, expected: Expected) -> str | None:
    """What is wrong with the kubelet at this moment; None when nothing is."""
    if not service.is_running:
        return f"{service.active} ({service.sub})"
    command_line = _command_line(service.main_pid)
    for flag, value in expected.flags.items():
        if (given := command_line.flag(flag)) != value:
            return f"it runs with {flag}={given}" if given else f"it runs without {flag}"
    return _probe(*expected.healthz) if expected.healthz else None


def wait_until_healthy(expected: Expected, timeout: float, watch: float) -> int:
    """Wait until a kubelet that was just started is healthy for ``watch`` seconds without a break, in
    ``timeout`` + ``watch`` seconds at most. Returns its pid. Raises Unhealthy, CannotEnable.
    """
    started = time.monotonic()
    first = show()
    since = None
    reason: str | None = "it has not answered"
    while True:
        service = show()
        ended = service.main_pid != first.main_pid or service.restarts != first.restarts
        if ended or service.active not in ("active", "activating") or not service.main_pid:
            after = time.monotonic() - started
            raise Unhealthy(f"it ended {after:.0f} s after its start: {service.active}")
        reason = why_unhealthy(service, expected)
        now = time.monotonic()
        if reason is None:
            since = now if since is None else since
            if now - since >= watch:
                return service.main_pid
        else:
            since = None
        if now - started > timeout + (watch if since is not None else 0):
            raise Unhealthy(f"not healthy within {timeout:g} s: {reason or 'it came and went'}")
        time.sleep(_POLL)


def _command_line(pid: int) -> Kubelet:
    try:
        words = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).rstrip("\0").split("\0")
    except OSError:
        words = [""]
    return Kubelet(pid, tuple(words))


def _probe(address: str, port: int) -> str | None:
    """Ask for /healthz. Returns what is wrong with the answer."""
    where = f"http://{address if '.' in address else f'[{address}]'}:{port}/healthz"
    if strangers := _listeners(port) - {0}:
        return f"port {port} is held by user {min(strangers)}, not by the kubelet"
    connection = http.client.HTTPConnection(address, port, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{where}: {getattr(error, 'strerror', None) or type(error).__name__}"
    finally:
        connection.close()
    return None if status == 200 else f"{where} answers {status}"


def _listeners(port: int) -> set[int]:
    """The users who listen on a TCP port: any user can, while the kubelet does not."""
    users = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue  # IPv6 is off
        fields: Sequence[list[str]] = [line.split() for line in lines]
        users |= {int(f[7]) for f in fields if f[3] == _LISTEN and f[1].endswith(f":{port:04X}")}
    return users
