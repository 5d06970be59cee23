"""The versions in the prefix: find, unpack, test and remove them."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from provider import __version__
from provider.commands.install.files import restore_labels, sync, sync_tree
from provider.commands.install.layout import (
    ASIDE,
    EXECUTABLE,
    MANIFEST,
    is_intact,
    manifest,
    remove,
    unpack,
)
from provider.commands.kubelet_config import ALIAS, PROVIDER_NAME
from provider.commands.kubelet_config.model import PROVIDER_API_VERSION
from provider.errors import CannotInstall, Damaged
from provider.root_only import PATH

_SELF_TEST_SECONDS: Final = 30.0
# The start of a version: 0.2.0, 0.2.0-rc.1, 0.2.0rc1. free_name() may append a number.
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:[-.]?([a-z]+)\.?(\d*))?")
_REQUEST: Final = {
    "apiVersion": PROVIDER_API_VERSION,
    "kind": "CredentialProviderRequest",
    "image": "docker.io/library/busybox",  # not in OCIR: the response needs no network
}


def version_directories(prefix: Path) -> list[Path]:
    """The versions in the prefix, complete or not. A directory without a readable manifest is left out,
    because install may not have written it.
    """
    found = []
    for path in sorted(prefix.glob(f"[!.]*/{MANIFEST}")):
        with suppress(Damaged):
            if manifest(path.parent):
                found.append(path.parent)
    return found


def find_copy(prefix: Path, running: Path, current: str | None) -> Path | None:
    """An intact copy of the running program in the prefix; the one in use if there are several."""
    wanted = manifest(running)
    directories = version_directories(prefix)
    for directory in sorted(directories, key=lambda directory: directory.name != current):
        if manifest(directory) == wanted and is_intact(directory):
            return directory
    return None


def is_older(version: str, other: str) -> bool:
    """True if ``version`` precedes ``other``. A pre-release (0.2.0-rc.1) precedes its release. A name
    that is not a version precedes and follows nothing.
    """
    found = _VERSION.match(version), _VERSION.match(other)
    return bool(found[0] and found[1] and _order(found[0]) < _order(found[1]))


def _order(version: re.Match[str]) -> tuple[list[int], bool, str, int]:
    *numbers, kind, number = version.groups()
    return [int(each) for each in numbers], not kind, kind or "", int(number or 0)


def free_name(prefix: Path) -> Path:
    """``<prefix>/<version>``, with +2 (and so on) if a damaged copy or another build has that name: a
    directory cannot be replaced in one step, but a link to it can.
    """
    path, number = prefix / __version__, 1
    while os.path.lexists(path):
        number += 1
        path = prefix / f"{__version__}+{number}"
    return path


def unpack_and_test(prefix: Path, running: Path, target: Path) -> None:
    """Create ``target``, completely or not at all. Raises OSError, CannotInstall, Damaged."""
    temporary = prefix / ASIDE
    try:
        unpack(running, temporary)
        sync_tree(temporary)
        restore_labels(temporary)
        self_test(temporary / EXECUTABLE)
        temporary.rename(target)
        sync(prefix)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def self_test(program: Path) -> None:
    """Raise CannotInstall unless the program runs, has this version, and answers a kubelet request."""
    try:
        facts = json.loads(_run(program, "version", "--output", "json"))
        response = json.loads(_run(program, stdin=json.dumps(_REQUEST)))
        passed = (
            facts["version"] == __version__
            and facts["frozen"] is True
            and response["kind"] == "CredentialProviderResponse"
            and not response["auth"]
        )
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()[:500]
        raise CannotInstall(f"the self-test of {program} failed: {reason}") from error
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError) as error:
        raise CannotInstall(f"the self-test of {program} failed: {type(error).__name__}") from error
    if not passed:
        raise CannotInstall(f"the self-test of {program} failed: unexpected output")


def _run(program: Path, *args: str, stdin: str = "") -> bytes:
    """Run a program as the kubelet does: in /, with a minimal environment. Returns its output."""
    return subprocess.run(
        [str(program), *args],
        input=stdin.encode(),
        env={"PATH": PATH, "LOG_LEVEL": "error"},
        cwd="/",
        capture_output=True,
        timeout=_SELF_TEST_SECONDS,
        check=True,
    ).stdout


def unneeded(prefix: Path, needed: Container[str | None]) -> list[Path]:
    """The versions whose names are not ``needed`` and that no process runs."""
    directories = version_directories(prefix)
    return [path for path in directories if path.name not in needed and not _is_running(path)]


def remove_if_possible(directory: Path) -> None:
    """Remove a version. If that fails, the installation is complete and the next run tries again."""
    with suppress(OSError, Damaged):
        remove(directory)


def _is_running(directory: Path) -> bool:
    """True if a process runs a program in ``directory``, or if that cannot be ruled out."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = os.readlink(process / "exe")
        except PermissionError:
            # A container without CAP_SYS_PTRACE can still read command lines.
            with suppress(OSError):
                name = (process / "cmdline").read_bytes().partition(b"\0")[0]
                if os.path.basename(name) in (PROVIDER_NAME.encode(), ALIAS.encode()):
                    return True
        except OSError:
            continue  # a kernel thread, or a process that has ended
        else:
            if Path(program).is_relative_to(directory):
                return True
    return False
