"""One test cloud for each worker, as new for each test; and the program in each of its forms."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cloud.client import Client
from tests.cloud.harness import Cloud
from tests.cloud.namespace import REPOSITORY, Completed
from tests.support import built

ONE_FILE, INSTALLED = "one file", "installed"


@dataclass(frozen=True, slots=True)
class Program:
    """One form of the program under test: how the kubelet would start it."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        cloud: Cloud,
        *args: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Completed:
        """Run it inside `cloud` to its end; see Namespace.run."""
        return cloud.ns.run(
            [*self.argv, *args], stdin=stdin, env={**self.env, **(env or {})}, timeout=timeout
        )


def programs() -> list[Program]:
    """The forms to test: PROGRAMS, as JSON `{"name": ["argv", ...]}`, else the source."""
    if text := os.environ.get("PROGRAMS"):
        return [Program(name, tuple(argv)) for name, argv in json.loads(text).items()]
    script = Path(sys.executable).with_name("oke-credential-provider")
    if script.exists():
        # Coverage measures the program too, when it is asked to.
        measured = {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_PROCESS_")}
        return [Program("source", (str(script),), measured)]
    path = {"PYTHONPATH": str(REPOSITORY)}
    return [Program("source", (sys.executable, "-m", "provider"), path)]


def forms() -> list[Program]:
    """The forms that PROGRAMS names, else the source and what `make binary` left.

    While coverage measures, the source alone: the binary runs it too.
    """
    found = programs()
    if "PROGRAMS" not in os.environ and built.exists() and not built.is_measured():
        found.append(Program(ONE_FILE, (str(built.one_file()),)))
        found.append(Program(INSTALLED, (str(built.installed()),)))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a `program` is run with the source; one that is marked so, with every form."""
    if "program" in metafunc.fixturenames:
        every = metafunc.definition.get_closest_marker("every_form")
        metafunc.parametrize(
            "program", forms() if every else programs(), ids=lambda form: form.name
        )


@pytest.fixture(scope="session")
def _cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def cloud(_cloud: Cloud) -> Cloud:
    """The worker's cloud as at its start; its registry runs once a test has asked for it."""
    _cloud.reset()
    return _cloud


@pytest.fixture
def client(cloud: Cloud) -> Client:
    """A plain HTTP client inside the cloud."""
    return cloud.client


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Like tmp_path, but every user can enter it."""
    with tempfile.TemporaryDirectory(prefix="open-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
