"""The whole cloud: namespace, stand-in, and real parts when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from functools import cached_property
from types import TracebackType
from typing import Literal

from tests.cloud.control import Control
from tests.cloud.namespace import REPOSITORY, Namespace
from tests.cloud.registry import Registry


class Cloud:
    """A running test cloud; `ns` runs programs inside, `control` steers the stand-in."""

    def __init__(
        self,
        *,
        log: Literal["journal", "devlog", ""] = "journal",
        tmp: Literal["host", "fresh", "noexec"] = "host",
    ) -> None:
        self.ns = Namespace(log=log, tmp=tmp)
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
            raise RuntimeError("the stand-in did not start; its stderr says why")
        return process

    @cached_property
    def registry(self) -> Registry:
        """The real registry; started when first asked for, and from then on behind OCIR."""
        return Registry(self.ns, self.control)

    def reset(self) -> None:
        """As at the start, for the next test: stand-in, hosts, log and the program's folders."""
        self.control.reset()
        self.ns.hosts()
        self.ns.log()

    def close(self) -> None:
        self.control.close()
        self.ns.close()
        self._standin.wait(10)
        assert self._standin.stdout is not None
        self._standin.stdout.close()

    def __enter__(self) -> Cloud:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
