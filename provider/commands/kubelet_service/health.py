"""The kubelet's health: main process, command line, healthz endpoint, the node's containers."""

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

# The kubelet's defaults: pkg/kubelet/apis/config/v1beta1/defaults.go
_ADDRESS: Final = "127.0.0.1"
_PORT: Final = 10248
_PROBE_SECONDS: Final = 2.0
_POLL: Final = 0.2
_LISTEN: Final = "0A"  # TCP_LISTEN in /proc/net/tcp


class Unhealthy(Exception):
    """The kubelet is not healthy; the message says why."""


class Expected(NamedTuple):
    """What a healthy kubelet has."""

    flags: Mapping[str, str]
    healthz: tuple[str, int] | None  # None: disabled


def healthz_address(kubelet: Kubelet) -> tuple[str, int] | None:
    """The address of /healthz: from its flags, its config files or its defaults, in this order."""
    config = _config(kubelet)
    address = kubelet.flag("--healthz-bind-address") or config.get("healthzBindAddress")
    port = kubelet.flag("--healthz-port")
    if port is None:
        port = config.get("healthzPort", _PORT)
    try:
        number = int(port)
        ip = ipaddress.ip_address(str(address or _ADDRESS))
    except (TypeError, ValueError):
        return _ADDRESS, _PORT
    if number <= 0:
        return None
    if ip.is_unspecified:
        ip = ipaddress.ip_address("::1" if ip.version == 6 else _ADDRESS)
    return str(ip), number


def _config(kubelet: Kubelet) -> dict[str, Any]:
    """Its KubeletConfiguration. Files of --config-dir override the file of --config."""
    paths = [kubelet.flag("--config")]
    if folder := kubelet.flag("--config-dir"):
        paths += sorted(map(str, Path(folder).glob("*.conf")))
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) if path else None
        except (OSError, ValueError, yaml.YAMLError):
            continue  # the kubelet itself reports an invalid config
        if isinstance(content, dict):
            merged |= content
    return merged


def kubelet_containers() -> frozenset[str]:
    """The pods' cgroups that have a process: one for each container.

    They are read from the mounted hierarchy, where only root can create a top-level "kubepods". The
    cgroups in /proc/PID/cgroup depend on the reader's cgroup namespace.
    """
    for root in (
        "/sys/fs/cgroup",
        *sorted(glob.glob("/sys/fs/cgroup/*")),
    ):  # v2, and each v1 hierarchy
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
        return False  # it was removed


def judge_containers(before: frozenset[str], after: frozenset[str]) -> int:
    """The number of containers that still run. Raises Unhealthy if more than half have ended: a job can
    end at any time, but the restart of a kubelet ends no container.
    """
    still = len(before & after)
    if still * 2 < len(before):
        raise Unhealthy(f"only {still} of {len(before)} containers still run")
    return still


def why_unhealthy(service: Service, expected: Expected) -> str | None:
    """The reason why the kubelet is unhealthy at this moment; None if it is healthy."""
    if not service.is_running:
        return f"{service.active} ({service.sub})"
    command_line = _command_line(service.main_pid)
    for flag, value in expected.flags.items():
        if (given := command_line.flag(flag)) != value:
            return f"it runs with {flag}={given}" if given else f"it runs without {flag}"
    return _probe(*expected.healthz) if expected.healthz else None


def wait_until_healthy(expected: Expected, timeout: float, watch: float) -> int:
    """Wait until the restarted kubelet has been healthy for ``watch`` seconds without interruption, for at
    most ``timeout`` + ``watch`` seconds. Returns its pid. Raises Unhealthy, CannotEnable.
    """
    started = time.monotonic()
    first = show()
    since = None
    while True:
        service = show()
        ended = service.main_pid != first.main_pid or service.restarts != first.restarts
        if ended or service.active not in ("active", "activating") or not service.main_pid:
            after = time.monotonic() - started
            raise Unhealthy(f"it exited {after:.0f} s after its start: {service.active}")
        reason = why_unhealthy(service, expected)
        now = time.monotonic()
        if reason is None:
            since = now if since is None else since
            if now - since >= watch:
                return service.main_pid
        else:
            since = None
        if now - started > timeout + (watch if since is not None else 0):
            raise Unhealthy(
                f"not healthy within {timeout:g} s: {reason or 'it was healthy only at times'}"
            )
        time.sleep(_POLL)


def _command_line(pid: int) -> Kubelet:
    try:
        words = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).rstrip("\0").split("\0")
    except OSError:
        words = [""]
    return Kubelet(pid, tuple(words))


def _probe(address: str, port: int) -> str | None:
    """Request /healthz. Returns the reason for a failure."""
    where = f"http://{address if '.' in address else f'[{address}]'}:{port}/healthz"
    if others := _listeners(port) - {0}:
        return f"port {port} is held by user {min(others)}, not by the kubelet"
    connection = http.client.HTTPConnection(address, port, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{where}: {getattr(error, 'strerror', None) or type(error).__name__}"
    finally:
        connection.close()
    return None if status == 200 else f"{where} returned {status}"


def _listeners(port: int) -> set[int]:
    """The users that listen on a TCP port: any user can, while the kubelet does not."""
    users = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue  # IPv6 is off
        fields: Sequence[list[str]] = [line.split() for line in lines]
        users |= {int(f[7]) for f in fields if f[3] == _LISTEN and f[1].endswith(f":{port:04X}")}
    return users
