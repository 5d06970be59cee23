"""The process that keeps the namespaces of a test cloud open. It uses only the standard library to start fast.

`unshare` runs this file as a script. The first line on stdin is a JSON `Layout`. The process prepares the
namespaces, prints "ready", records datagrams on the log sockets and returns them on request. When stdin
ends, for example because its owner was killed, it kills all processes in its network namespace.
"""

import array
import base64
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import time
from typing import TypedDict

_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_MOVE, _MS_REC = 2, 4, 4096, 8192, 16384
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP = 1
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx", "fuse", "net", "kvm")
_CERTS = "/etc/ssl/certs"

_libc = ctypes.CDLL(None, use_errno=True)


class Layout(TypedDict):
    """The layout of the namespaces. `log` is "journal", "devlog" or "".

    `keep` names directories that every user must be able to enter.
    """

    folder: str  # the owner's directory; the owner removes it
    hosts: str  # the file that is mounted at /etc/hosts
    bundles: dict[str, str]  # path of a CA bundle on this machine: the file that is mounted there
    imds: str
    log: str
    keep: list[str]


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()):
        error = ctypes.get_errno()
        raise OSError(error, f"mount {kind or 'bind'} on {target}: {os.strerror(error)}")


def tmpfs(target: str, mode: str = "0755") -> None:
    mount("tmpfs", target, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode={mode}")


def bind(source: str, target: str) -> None:
    mount(source, target, "", _MS_BIND | _MS_REC)


def network(imds: str) -> None:
    """Bring up lo and add the address of the metadata service."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
        for request, address in ((_SIOCSIFADDR, imds), (_SIOCSIFNETMASK, "255.255.255.255")):
            packed = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, request, packed)


def private_dev() -> None:
    """Mount a private /dev, so that its /dev/log is visible only inside."""
    os.mkdir("/run/dev")
    tmpfs("/run/dev")
    for name in _DEVICES:
        source, target = f"/dev/{name}", f"/run/dev/{name}"
        if os.path.isdir(source):
            os.mkdir(target)
        elif os.path.exists(source):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        else:
            continue
        bind(source, target)
    for name, path in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{path}", f"/run/dev/{name}")
    os.mkdir("/run/dev/shm")
    tmpfs("/run/dev/shm", "1777")
    mount("/run/dev", "/dev", "", _MS_MOVE)
    os.rmdir("/run/dev")


def private_certificates() -> None:
    """Mount a writable copy of the hashed certificate directory, to which `Namespace.trust` adds."""
    folder = os.path.realpath(_CERTS)
    if not os.path.isdir(folder):
        return
    os.mkdir("/run/certs")
    tmpfs("/run/certs")
    for entry in os.scandir(folder):
        copy = f"/run/certs/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), copy)
        elif entry.is_file():
            shutil.copyfile(entry.path, copy)
    mount("/run/certs", folder, "", _MS_MOVE)
    os.rmdir("/run/certs")


def closed(path: str) -> str | None:
    """Return the topmost parent of `path` that other users cannot enter, for example /root."""
    parts = path.split("/")
    above = ("/".join(parts[:end]) for end in range(2, len(parts)))
    return next((folder for folder in above if not os.stat(folder).st_mode & 0o001), None)


def open_up(layout: Layout) -> None:
    """Make the kept directories accessible to every user: hide the closed ones above them."""
    # The cloud's own directory stays closed: only root uses it.
    wanted = (path for path in layout["keep"] if path != layout["folder"])
    covers = set(filter(None, map(closed, wanted)))
    kept = {
        path: os.open(path, os.O_PATH)
        for path in layout["keep"]
        if any(path.startswith(f"{cover}/") for cover in covers)
    }
    for cover in covers:
        tmpfs(cover)
    for path, descriptor in kept.items():
        os.makedirs(path, exist_ok=True)
        bind(f"/proc/self/fd/{descriptor}", path)
        os.close(descriptor)


def files(layout: Layout) -> None:
    open_up(layout)
    resolver = os.path.realpath("/etc/resolv.conf")
    tmpfs("/run")
    private_dev()
    private_certificates()
    for path, replacement in layout["bundles"].items():
        bind(replacement, os.path.realpath(path))
    bind(layout["hosts"], os.path.realpath("/etc/hosts"))
    # Nothing listens there, so an unknown name fails immediately.
    text = "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n"
    if os.path.exists(resolver):
        with open("/run/resolv.conf", "w") as file:
            file.write(text)
        bind("/run/resolv.conf", resolver)
        os.unlink("/run/resolv.conf")
    else:  # it was in /run
        os.makedirs(os.path.dirname(resolver), exist_ok=True)
        with open(resolver, "w") as file:
            file.write(text)


def log_socket(kind: str) -> socket.socket | None:
    if not kind:
        return None
    path = "/dev/log" if kind == "devlog" else "/run/systemd/journal/socket"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open("/proc/sys/net/unix/max_dgram_qlen", "w") as file:
            # systemd's value. With the kernel's 10, parallel calls would lose lines.
            file.write("512")
    except OSError:
        pass
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    listening.bind(path)
    os.chmod(path, 0o666)
    return listening


def receive(listening: socket.socket) -> bytes:
    """Receive one datagram. Clients of journald send a large one as a memfd."""
    size = array.array("i").itemsize
    data, ancillary, _, _ = listening.recvmsg(1 << 20, socket.CMSG_SPACE(size))
    for _, kind, payload in ancillary:
        if kind == socket.SCM_RIGHTS:
            descriptor = array.array("i", payload[:size])[0]
            with open(descriptor, "rb") as file:
                file.seek(0)
                data += file.read()
    return data


def kill_all() -> None:
    """Kill every other process in this network namespace."""
    ours = os.readlink("/proc/self/ns/net")
    for _ in range(100):
        found = False
        for name in os.listdir("/proc"):
            if not name.isdecimal() or int(name) == os.getpid():
                continue
            try:
                if os.readlink(f"/proc/{name}/ns/net") != ours:
                    continue
                with open(f"/proc/{name}/stat") as file:
                    if file.read().rpartition(")")[2].split()[0] == "Z":
                        continue
                os.kill(int(name), signal.SIGKILL)
                found = True
            except OSError:
                continue
        if not found:
            return
        time.sleep(0.01)


def main() -> None:
    # Ctrl-C is for the owner; this process ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    layout: Layout = json.loads(sys.stdin.readline())
    network(layout["imds"])
    files(layout)
    listening = log_socket(layout["log"])
    print("ready", flush=True)
    received: list[str] = []
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    if listening is not None:
        poll.register(listening, select.POLLIN)
    while True:
        for descriptor, _ in sorted(poll.poll(), reverse=True):  # datagrams before commands
            if descriptor != 0:
                assert listening is not None
                received.append(base64.b64encode(receive(listening)).decode())
            elif sys.stdin.readline() == "":
                kill_all()
                shutil.rmtree(layout["folder"], ignore_errors=True)
                return
            else:  # the only command: return the datagrams
                while listening is not None and select.select([listening], [], [], 0)[0]:
                    received.append(base64.b64encode(receive(listening)).decode())
                print(json.dumps(received), flush=True)
                received.clear()


if __name__ == "__main__":
    main()
