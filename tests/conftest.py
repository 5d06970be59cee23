"""Fixtures: one test cloud per worker, reset for each test, and the program in each of its forms."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pytest

from tests.cloud.client import Client
from tests.cloud.harness import Cloud
from tests.cloud.namespace import REPOSITORY, Completed
from tests.support import built
from tests.support.kubelet import Credentials, read_response, request

ONE_FILE, INSTALLED = "one file", "installed"


@dataclass(frozen=True, slots=True)
class Program:
    """One form of the program: the command line and environment that start it."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    def behind(self, *prefix: str) -> Self:
        """Return the program with a command in front of its own."""
        return replace(self, argv=(*prefix, *self.argv))

    def run(
        self,
        cloud: Cloud,
        *args: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Completed:
        """Run the program inside `cloud` until it ends. See Namespace.run."""
        return cloud.ns.run(
            [*self.argv, *args], stdin=stdin, env={**self.env, **(env or {})}, timeout=timeout
        )

    def credentials(
        self, cloud: Cloud, image: str, env: Mapping[str, str] | None = None
    ) -> Credentials:
        """Return the response to a kubelet's request, which must succeed."""
        return read_response(self.run(cloud, stdin=request(image), env=env).check().stdout)

    def start(
        self, cloud: Cloud, image: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a call with a kubelet's request, and do not wait for its end."""
        process = cloud.ns.popen(self.argv, env={**self.env, **(env or {})}, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(request(image))
        process.stdin.close()
        process.stdin = None  # communicate() has nothing to write
        return process


def run_together(
    cloud: Cloud, programs: Sequence[Program], stdin: bytes, env: Mapping[str, str] | None = None
) -> list[Completed]:
    """Run one call of each program at the same time, each without the credential cache."""
    env = {"TOKEN_CACHE": "disabled", **(env or {})}
    with ThreadPoolExecutor(len(programs)) as pool:
        return list(pool.map(lambda program: program.run(cloud, stdin=stdin, env=env), programs))


def programs() -> list[Program]:
    """Return the forms in PROGRAMS, JSON `{"name": ["argv", ...]}`; without it, the source form."""
    if text := os.environ.get("PROGRAMS"):
        return [Program(name, tuple(argv)) for name, argv in json.loads(text).items()]
    script = Path(sys.executable).with_name("oke-credential-provider")
    if script.exists():
        # During `make coverage`, these variables make coverage measure the program too.
        measured = {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_PROCESS_")}
        return [Program("source", (str(script),), measured)]
    path = {"PYTHONPATH": str(REPOSITORY)}
    return [Program("source", (sys.executable, "-m", "provider"), path)]


def forms() -> list[Program]:
    """Return the forms in PROGRAMS; without it, the source form and what `make binary` built.

    During `make coverage`, return only the source form: the binary would run it too.
    """
    found = programs()
    if "PROGRAMS" not in os.environ and built.exists() and not built.is_measured():
        found.append(Program(ONE_FILE, (str(built.one_file()),)))
        found.append(Program(INSTALLED, (str(built.installed()),)))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with `program` for the source form, or for each form if it has the mark `every_form`.

    A test with `all_programs` gets all forms at once. Long waits then cost their time only once.
    """
    if "all_programs" in metafunc.fixturenames:
        every = forms()
        metafunc.parametrize("all_programs", [every], ids=["+".join(form.name for form in every)])
    if "program" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("every_form")
        chosen = forms() if marked else programs()
        metafunc.parametrize("program", chosen, ids=lambda form: form.name)


@pytest.fixture(scope="session")
def _cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def cloud(_cloud: Cloud) -> Cloud:
    """The worker's cloud in its initial state. Its registry starts when a test first uses it."""
    _cloud.reset()
    return _cloud


@pytest.fixture
def client(cloud: Cloud) -> Client:
    """A plain HTTP client inside the cloud."""
    return cloud.client


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory like tmp_path that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="open-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
