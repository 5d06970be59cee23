"""The complete cloud: namespace, stand-in, and real programs on demand."""

import os
import shutil
import signal
import subprocess
import sys
from functools import cached_property
from typing import Literal

from tests.cloud.client import Client
from tests.cloud.control import Control
from tests.cloud.namespace import REPOSITORY, Closing, Namespace
from tests.cloud.registry import REGISTRY_PORT, Registry

# The directories where the program may keep the credential cache.
STORES = ("/run/oke-credential-provider", f"/dev/shm/oke-credential-provider-{os.geteuid()}")


class Cloud(Closing):
    """A running test cloud. `ns` runs programs inside, `control` controls the stand-in."""

    def __init__(self, *, log: Literal["journal", "devlog", ""] = "journal") -> None:
        self._registry: Registry | None = None
        self.ns = Namespace(log=log)
        try:
            self._standin = self._start()
            self.control = Control(self.ns.folder / "control")
            self.ca = (self.ns.folder / "ca.pem").read_text()
            self.ns.trust(self.ca)
        except BaseException:
            self.ns.close()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        process = self.ns.popen(
            [sys.executable, "-m", "tests.cloud.standin", str(self.ns.folder)],
            cwd=str(REPOSITORY),
            stderr=None,
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the stand-in did not start; see its stderr")
        return process

    @property
    def registry(self) -> Registry:
        """The real registry. It starts on first use and serves OCIR's images until the next reset."""
        if self._registry is None:
            self._registry = Registry(self.ns, self.control)
        self.control.upstream(REGISTRY_PORT)
        return self._registry

    @cached_property
    def client(self) -> Client:
        """A plain HTTP client inside, for requests without the program."""
        return Client(self.ns)

    def strays(self) -> list[int]:
        """Return the PIDs inside that are not the cloud's own: processes that a program left running."""
        own = {self._standin.pid}
        if "client" in self.__dict__:
            own.add(self.client.pid)
        if self._registry is not None:
            own |= self._registry.pids()
        return [pid for pid in self.ns.processes() if pid not in own]

    def reset(self) -> None:
        """Restore the initial state: stand-in, hosts, log, credential cache, no stray processes."""
        for pid in self.strays():
            os.kill(pid, signal.SIGKILL)
        self.control.reset()
        self.control.upstream(None)
        self.ns.hosts()
        self.ns.log()
        for folder in STORES:
            path = self.ns.path(folder)
            if path.is_symlink() or path.is_file():
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        self.control.close()
        if "client" in self.__dict__:
            self.client.close()
        self.ns.close()
        self._standin.wait(10)
        if self._registry is not None:
            self._registry.reap()
        assert self._standin.stdout is not None
        self._standin.stdout.close()
