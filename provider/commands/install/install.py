"""``install``: everything is tried before the switch; the switch is one rename."""

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from provider import __version__
from provider.commands import config as configure
from provider.commands.install.files import (
    is_link_to,
    keep,
    link,
    make_folders,
    missing_folders,
    refuse_replaceable,
    restore_labels,
    sync,
    sync_tree,
    write_file,
)
from provider.commands.install.layout import (
    ASIDE,
    EXECUTABLE,
    MANIFEST,
    differences,
    manifest,
    remove,
    unpack,
)
from provider.commands.install.places import (
    KEPT,
    Places,
    Record,
    Say,
    Step,
    is_ours,
    locked,
    read_record,
    record_path,
    reported,
    take,
    version_folders,
    version_of_link,
    write_record,
)
from provider.commands.kubelet_config import ALIAS, PROVIDER_NAME, load, validate
from provider.commands.kubelet_config.model import PROVIDER_API_VERSION
from provider.commands.node.processes import find_kubelets, kubelet_version
from provider.errors import CannotInstall, Damaged
from provider.frozen import folder as running_folder
from provider.root_only import PATH, find_program

_SELF_TEST_SECONDS: Final = 30.0
_REQUEST: Final = {
    "apiVersion": PROVIDER_API_VERSION,
    "kind": "CredentialProviderRequest",
    "image": "docker.io/library/busybox",  # not OCI's: answered without a network
}


def install(places: Places, dry_run: bool, say: Say) -> None:
    """Put the running program in place and switch to it. Run again, it changes nothing.

    Raises CannotInstall, and Damaged when the running program is; nothing is switched then.
    """
    running = running_folder()
    if running is None:
        raise CannotInstall(
            "this is the source; only the standalone binary can be installed",
            "Take the binary from the releases, or make one: make binary",
        )
    os.umask(0o022)  # what is put in place is for everybody to read, from its first moment
    with reported():
        # This stays true: in such places nobody else can create what install has yet to make.
        folders = places.prefix, places.bin_dir, places.config_dir
        refuse_replaceable(*folders, record_path(places.prefix))
    with reported(), locked(places.prefix, dry_run) as made:
        _refuse_foreign(places)
        record = read_record(places.prefix)
        config, notes = _config_to_write(places, record)
        target = _whole_copy(places, Path(running))
        if target is not None:
            if not dry_run:
                restore_labels(target)
            _self_test(target / EXECUTABLE)
        steps = list(_steps(places, record, target, config, made))
        take(steps, dry_run, say)
        if not steps:
            say(f"{__version__} is installed and works; there is nothing to change")
        for note in notes:
            say(note)


def _steps(
    places: Places, record: Record, whole: Path | None, config: str | None, made: list[Path]
) -> Iterator[Step]:
    """The changes, in their order. ``whole`` is a copy of this program that is there already;
    ``made`` are folders that were made for it by now.
    """
    current = version_of_link(places.link, places.prefix)
    target = whole or _free_name(places.prefix)
    if whole is None:
        yield Step(target, "laid out and tested", partial(_lay_out, places.prefix, target))

    noted = _noted(places, record, current, target, config, made)
    if noted != record:
        path = record_path(places.prefix)
        yield Step(path, "written", partial(write_record, places.prefix, noted))

    links = {places.link: str(target / EXECUTABLE), **dict.fromkeys(places.aliases, PROVIDER_NAME)}
    for path, to in links.items():
        if not is_link_to(path, to):
            yield Step(path, f"linked to {to}", partial(_link, path, to, places.prefix))

    if config is not None:
        yield Step(places.config, "written", partial(_write_config, places, config))

    for old in _unneeded(places, noted, target):
        yield Step(old, "removed", partial(_remove, old))


def _noted(
    places: Places,
    record: Record,
    current: str | None,
    target: Path,
    config: str | None,
    made: list[Path],
) -> Record:
    """The record as it will be."""
    configs = dict(record.configs)
    made = [*made, *missing_folders(places.bin_dir)]
    if config is not None:
        configs[str(places.config)] = sha256(config.encode()).hexdigest()
        made += missing_folders(places.config_dir)
    previous = record.previous
    if current and current != target.name and _is_whole(places.prefix / current):
        previous = current
    return replace(
        record,
        bin_dirs=tuple(sorted({*record.bin_dirs, str(places.bin_dir)})),
        configs=tuple(sorted(configs.items())),
        folders=tuple(sorted({*record.folders, *map(str, made)})),
        previous="" if previous == target.name else previous,
    )


# ---- what is in the bin dir ----------------------------------------------------------------------


def _refuse_foreign(places: Places) -> None:
    """Raise CannotInstall when one of our names is some other program's."""
    for path in (places.link, *places.aliases):
        if os.path.lexists(path) and not (is_ours(path, places.prefix) or _is_known_program(path)):
            raise CannotInstall(
                f"{path} is there already, and is neither this program nor Oracle's Go provider",
                "Move it away, or choose another --bin-dir.",
            )


def _is_known_program(path: Path) -> bool:
    """True for this program in any form (a copy of the one file, or another prefix's), and for the
    Go provider, by the module path in its build information.
    """
    real = path.resolve()
    try:
        if real.name == PROVIDER_NAME and (real.parent.parent / MANIFEST).is_file():
            return True
        if zipfile.is_zipfile(real):
            with zipfile.ZipFile(real) as archive:
                return {EXECUTABLE, MANIFEST} <= set(archive.namelist())
        content = real.read_bytes()
    except (OSError, zipfile.BadZipFile):
        return False
    go = content.startswith(b"\x7fELF") and b"\xff Go buildinf:" in content
    return go and b"/credential-provider-oke" in content


def _link(path: Path, to: str, prefix: Path) -> None:
    make_folders(path.parent)
    if os.path.lexists(path) and not is_ours(path, prefix):
        keep(path, path.with_name(path.name + KEPT))
    link(path, to)


# ---- the config ----------------------------------------------------------------------------------


def _config_to_write(places: Places, record: Record) -> tuple[str | None, list[str]]:
    """The config's new text, None when the one that is there stays; and what to say of it.

    Raises CannotInstall when the kubelet would not start with it.
    """
    text = configure.write(configure.ALL, (), as_json=False)
    try:
        # With what newlines it has: it is compared to the byte.
        present = places.config.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        present = None
    if present is None or present == text:
        _refuse_config(places, text)
        return (None if present else text), []
    digest = sha256(present.encode()).hexdigest()
    if dict(record.configs).get(str(places.config)) == digest:
        _refuse_config(places, text)
        return text, []
    notes = [
        f"{places.config}: yours is kept; ours would be: {PROVIDER_NAME} config",
        *_refuse_config(places, present),
    ]
    return None, notes


def _refuse_config(places: Places, text: str) -> list[str]:
    """Raise CannotInstall when the kubelet would not start with this config. Returns what else there
    is to say against it.
    """
    findings = []
    for version in sorted(_kubelet_versions(), key=str):
        findings += [f for f in validate(text, kubelet_version=version) if f not in findings]
    for finding in findings:
        if finding.severity == "fatal":
            raise CannotInstall(
                f"with {places.config} the kubelet would not start:"
                f" {finding.path}: {finding.message}",
                finding.hint or "Correct it or move it away, and run install again.",
            )
    names = [provider.name for provider in load(text).providers]
    for name in names:
        if name not in (PROVIDER_NAME, ALIAS) and not os.access(places.bin_dir / name, os.X_OK):
            raise CannotInstall(
                f"with {places.config} the kubelet would not start: it names {name}, which is not in"
                f" {places.bin_dir}",
                f"Put it there, or take it out; this program's name is {PROVIDER_NAME}.",
            )
    said = [f"{places.config}: {f.path}: {f.message}. {f.hint}".rstrip() for f in findings]
    if not {PROVIDER_NAME, ALIAS} & set(names):
        said.append(f"{places.config}: names neither {PROVIDER_NAME} nor {ALIAS}")
    return said


def _kubelet_versions() -> set[str | None]:
    """Those of this node's kubelets: the running ones, and the one that would be started next. Their
    rules count. None for the newest that is known, when there is no kubelet.
    """
    versions = {kubelet.version for kubelet in find_kubelets(ask_version=True).proven}
    if program := find_program("kubelet"):
        versions.add(kubelet_version(program))
    return versions - {None} or {None}


def _write_config(places: Places, text: str) -> None:
    make_folders(places.config_dir)
    write_file(places.config, text)


# ---- versions ------------------------------------------------------------------------------------


def _whole_copy(places: Places, running: Path) -> Path | None:
    """A folder of the prefix that holds just what is running; the one in use if it does."""
    wanted = manifest(running)
    current = version_of_link(places.link, places.prefix)
    folders = version_folders(places.prefix)
    for folder in sorted(folders, key=lambda folder: folder.name != current):
        with suppress(Damaged):
            if manifest(folder) == wanted and not differences(folder):
                return folder
    return None


def _is_whole(folder: Path) -> bool:
    try:
        return not differences(folder)
    except Damaged:
        return False


def _free_name(prefix: Path) -> Path:
    """``<prefix>/<version>``; with +2 (and so on) when a damaged one or another build has the name: a
    folder cannot be replaced in one step, a link to it can.
    """
    path, number = prefix / __version__, 1
    while os.path.lexists(path):
        number += 1
        path = prefix / f"{__version__}+{number}"
    return path


def _lay_out(prefix: Path, target: Path) -> None:
    """Make ``target``, which is there whole or not at all."""
    fresh = prefix / ASIDE
    try:
        unpack(fresh)
        sync_tree(fresh)
        restore_labels(fresh)
        _self_test(fresh / EXECUTABLE)
        fresh.rename(target)
        sync(prefix)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _self_test(program: Path) -> None:
    """Raise CannotInstall unless it runs, is what we are, and answers a kubelet."""
    try:
        told = json.loads(_run([str(program), "version", "--output", "json"]).stdout)
        answer = json.loads(_run([str(program)], json.dumps(_REQUEST)).stdout)
        passed = (
            told["version"] == __version__
            and told["frozen"] is True
            and answer["kind"] == "CredentialProviderResponse"
            and not answer["auth"]
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()[:500]
        raise CannotInstall(f"the self-test of {program} failed: {said}") from error
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError) as error:
        raise CannotInstall(f"the self-test of {program} failed: {type(error).__name__}") from error
    if not passed:
        raise CannotInstall(f"the self-test of {program} failed: it answers other than this one")


def _run(argv: list[str], stdin: str = "") -> "subprocess.CompletedProcess[bytes]":
    """Run a program as the kubelet would: from /, with little in the environment."""
    return subprocess.run(
        argv,
        input=stdin.encode(),
        env={"PATH": PATH, "LOG_LEVEL": "error"},
        cwd="/",
        capture_output=True,
        timeout=_SELF_TEST_SECONDS,
        check=True,
    )


def _unneeded(places: Places, noted: Record, target: Path) -> list[Path]:
    """Versions that nothing leads to: not the one now in use, nor the one before (to roll back), nor
    one that another bin dir has, nor one of which a call still runs.
    """
    linked = (
        version_of_link(Path(bin_dir) / PROVIDER_NAME, places.prefix)
        for bin_dir in noted.bin_dirs
        if bin_dir != str(places.bin_dir)
    )
    kept = {target.name, noted.previous, *linked}
    old = [folder for folder in version_folders(places.prefix) if folder.name not in kept]
    return [folder for folder in old if not _is_running(folder)]


def _is_running(folder: Path) -> bool:
    """True when a process runs a program in ``folder``, or may do so where we cannot see it."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = os.readlink(process / "exe")
        except PermissionError:
            # In a container without CAP_SYS_PTRACE; command lines can still be seen.
            with suppress(OSError):
                name = (process / "cmdline").read_bytes().partition(b"\0")[0]
                if os.path.basename(name) in (PROVIDER_NAME.encode(), ALIAS.encode()):
                    return True
        except OSError:
            continue  # a thread of the kernel's, or gone
        else:
            if Path(program).is_relative_to(folder):
                return True
    return False


def _remove(folder: Path) -> None:
    # What is left of it the next run takes; this one has done its work.
    with suppress(OSError, Damaged):
        remove(folder)
