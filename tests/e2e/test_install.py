"""``install`` and ``uninstall`` of the built binary: a working program is in place at each moment."""

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from provider import __version__
from provider.commands.config import ALL, write
from provider.commands.kubelet_config import validate
from tests.e2e.test_cloud_init import FLAGS, FOLDER, MANAGED, SCRIPT, joined_with
from tests.support.built import BARE, REQUEST, one_file, tree, write_manifest
from tests.support.node import REPOSITORY, Node, World, recorder
from tests.support.processes import AS_OTHER, OTHER, Done
from tests.support.processes import kubelet as kubelet_at

NAME, ALIAS = "oke-credential-provider", "credential-provider-oke"
EXECUTABLE = f"bin/{NAME}"
OLD = "0.0.9"
# With no process of the machine, and an empty /run.
ALONE = (
    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("sh", "-c", 'mount -t tmpfs -o mode=755 none /run && exec "$@"', "sh"),
)
# For each path: type and mode, content, inode, time of the last change.
Snapshot = Mapping[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Target:
    """The paths of an installation below one directory of the test."""

    folder: Path

    @property
    def bin_dir(self) -> Path:
        return self.folder / "bin"

    @property
    def config(self) -> Path:
        return self.folder / "etc" / "credential-provider-config.yaml"

    @property
    def prefix(self) -> Path:
        return self.folder / "lib"

    @property
    def link(self) -> Path:
        return self.bin_dir / NAME

    @property
    def current(self) -> str:
        """The name of the version in use."""
        return Path(os.readlink(self.link)).parents[1].name

    @property
    def versions(self) -> set[str]:
        return {path.name for path in self.prefix.iterdir() if path.is_dir()}

    def install(self, *args: str, program: Path | None = None, before: Sequence[str] = ()) -> Done:
        """Run install with the one-file binary, as arguments of ``before``, without a network."""
        places: list[str | Path] = [
            *("--prefix", self.prefix),
            *("--bin-dir", self.bin_dir),
            *("--config-dir", self.config.parent),
            "--create-bin-dir",
        ]
        program = program or one_file()
        return run(["unshare", "--net", *before, program, "install", *places, *args])

    def uninstall(self, *args: str, kubelet: Sequence[str] = ()) -> Done:
        """Run uninstall of the installed program in its own PID namespace, perhaps with a kubelet."""
        program = self.prefix / self.current / EXECUTABLE
        script = '"$PROGRAM" uninstall --prefix "$PREFIX" $OPTIONS'
        if kubelet:
            path = kubelet_at(self.folder.parent / "kubelet")
            wait = f'until [ "$(readlink /proc/$!/exe)" = {path} ]; do sleep 0.01; done'
            script = f'{path} "$@" >/dev/null 2>&1 & {wait}; {script}'
        return run(
            [*ALONE, "bash", "-c", script, "bash", *kubelet],
            PROGRAM=str(program),
            PREFIX=str(self.prefix),
            OPTIONS=" ".join(args),
        )

    def works(self, name: str = NAME) -> str:
        """Check that the kubelet could run the program. Returns its version."""
        assert os.access(self.bin_dir / name, os.X_OK)
        return version_of(self.bin_dir / name)

    def snapshot(self) -> Snapshot:
        return {str(path): state(path) for path in sorted(self.folder.rglob("*"))}

    def older(self, version: str = OLD) -> Path:
        """Write another version and switch to it, as its install would."""
        folder = self.prefix / version
        executable = folder / EXECUTABLE
        executable.parent.mkdir(parents=True)
        executable.write_text(f'#!/bin/sh\necho "{NAME} {version}"\n')
        executable.chmod(0o755)
        for number in range(3):
            (folder / "bin" / f"part{number}").write_text(version)
        write_manifest(folder)
        self.bin_dir.mkdir(exist_ok=True)
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(executable)
        return folder


def run(argv: Sequence[str | Path], stdin: bytes = b"", **environ: str) -> Done:
    done = subprocess.run(
        [*map(str, argv)],
        input=stdin,
        env={**BARE, **environ},
        cwd="/",
        capture_output=True,
        timeout=120,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def version_of(program: Path) -> str:
    said = run([program, "version"]).check().stdout.splitlines()[0]
    return said.removeprefix(f"{NAME} ")


def state(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    content = os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
    return status.st_mode, content, status.st_ino, status.st_mtime_ns


@pytest.fixture
def target(tmp_path: Path) -> Target:
    folder = tmp_path / "node"
    folder.mkdir()
    return Target(folder)


# ---- the result --------------------------------------------------------------------------------


def test_both_names_run_the_unpacked_program_and_the_config_is_valid(
    target: Target,
) -> None:
    target.install().check()
    assert target.works() == target.works(ALIAS) == __version__
    answer = run([target.bin_dir / ALIAS], REQUEST).check().stdout
    assert json.loads(answer)["kind"] == "CredentialProviderResponse"
    assert target.link.resolve() == target.prefix / __version__ / EXECUTABLE
    assert target.config.read_text() == write(ALL, (), as_json=False)
    assert validate(target.config.read_text()) == []


def test_the_files_equal_the_build_and_are_readable_with_any_umask(target: Target) -> None:
    target.install(before=["sh", "-c", 'umask 077; exec "$@"', "sh"]).check()
    folder = target.prefix / __version__
    assert {p.relative_to(folder) for p in folder.rglob("*")} == {
        path.relative_to(tree()) for path in tree().rglob("*")
    }
    for path in target.folder.rglob("*"):
        if path.is_symlink():
            continue
        wanted = 0o755 if path.is_dir() else 0o644
        if path.is_relative_to(folder):
            built = tree() / path.relative_to(folder)
            wanted = 0o755 if path.is_dir() or os.access(built, os.X_OK) else 0o644
            assert path.is_dir() or path.read_bytes() == built.read_bytes()
        if os.access(path, os.X_OK):
            wanted = 0o755
        assert path.stat().st_mode & 0o777 == wanted, path


def test_a_second_install_changes_nothing(target: Target) -> None:
    target.install().check()
    before = target.snapshot()
    again = target.install().check()
    assert "nothing to change" in again.stdout
    assert target.snapshot() == before


def test_the_installed_program_can_install_itself(target: Target) -> None:
    target.install().check()
    before = target.snapshot()
    target.install(program=target.link).check()
    assert target.snapshot() == before


def test_a_dry_run_prints_the_changes_and_makes_none(target: Target) -> None:
    dry = target.install("--dry-run")
    assert dry.code == 2
    assert not list(target.folder.iterdir())
    *done, last = target.install().check().stdout.splitlines()
    assert dry.stdout.replace("would be ", "").splitlines() == done
    assert last == f"{NAME} node={platform.node()} version={__version__} state=installed"
    assert target.install("--dry-run").code == 0
    before = target.snapshot()
    dry = target.uninstall("--dry-run")
    assert dry.code == 2
    assert target.snapshot() == before
    assert dry.stdout.replace("would be ", "") == target.uninstall().check().stdout
    assert not list(target.folder.iterdir())
    assert run([one_file(), "uninstall", "--dry-run", "--prefix", target.prefix]).code == 0


def test_the_json_has_the_changes_or_the_error(target: Target) -> None:
    dry = target.install("--dry-run", "-o", "json")
    assert dry.code == 2
    done = target.install("--output", "json").check()
    for each, is_dry in (dry, True), (done, False):
        content = json.loads(each.stdout)
        assert (content["action"], content["dry_run"]) == ("install", is_dry)
        assert (content["version"], content["node"]) == (__version__, platform.node())
        assert (content["path"], content["changed"], content["error"]) == (
            str(target.link),
            True,
            None,
        )
        assert [change["path"] for change in content["changes"]] == [
            str(target.prefix / __version__),
            str(target.prefix / "installed.json"),
            str(target.link),
            str(target.bin_dir / ALIAS),
            str(target.config),
        ]
    assert content["log"][-1].endswith("state=installed")
    content = json.loads(target.install("-o", "json").check().stdout)
    assert (content["changed"], content["changes"]) == (False, [])
    target.config.write_text("providers: [")
    failed = target.install("-o", "json")
    assert failed.code == 73
    content = json.loads(failed.stdout)
    assert content["error"]["code"] == "cannot-install"
    assert content["log"] == [
        f"{NAME} node={platform.node()} version={__version__} state=failed cause=cannot-install"
    ]
    content = json.loads(target.uninstall("-o", "json").check().stdout)
    assert (content["action"], content["path"]) == ("uninstall", str(target.prefix))
    assert {"path": str(target.link), "change": "removed"} in content["changes"]


def test_the_json_of_a_bug_has_its_error_too() -> None:
    script = (
        "import sys, provider.__main__, provider.commands.install as commands\n"
        "commands.install = lambda *_: 1 / 0\n"
        "sys.exit(provider.__main__.run(sys.argv[1:], {}))\n"
    )
    done = run([sys.executable, "-c", script, "install", "-o", "json"])
    assert done.code == 70
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["message"]) == ("internal", "unexpected ZeroDivisionError")


def test_the_source_cannot_be_installed(tmp_path: Path) -> None:
    done = run(
        [sys.executable, "-m", "provider", "install", "--prefix", tmp_path / "lib"],
        PYTHONPATH=str(REPOSITORY),
    )
    assert done.code == 73
    assert "only the standalone binary can be installed" in done.stderr
    assert not list(tmp_path.iterdir())


# ---- versions ------------------------------------------------------------------------------------


def test_the_previous_version_is_kept_and_older_ones_are_removed(
    target: Target,
) -> None:
    for version in ("0.0.7", "0.0.8", OLD):
        target.older(version)
    target.install().check()
    assert target.works() == __version__
    assert target.versions == {OLD, __version__}


def test_an_older_version_can_replace_a_newer_one(target: Target) -> None:
    target.older("9.9.9")
    said = target.install("--allow-downgrade").check().stdout
    assert "downgrade: 9.9.9 was active" in said
    assert target.works() == __version__
    assert target.versions == {"9.9.9", __version__}


# The version's directory on the node, and whether this program (0.1.0) is older.
ACTIVE = {
    "9.9.9": True,
    "0.1.1": True,
    "0.1.1-rc.1": True,
    "0.10.0+2": True,
    "0.1.0": False,
    "0.1.0+2": False,
    "0.1.0-rc.1": False,
    "0.0.99": False,
    "local": False,
}


@pytest.mark.parametrize("active", ACTIVE)
def test_a_newer_version_is_replaced_only_if_that_is_asked_for(target: Target, active: str) -> None:
    assert __version__ == "0.1.0"
    target.older(active)
    before = target.snapshot()
    done = target.install()
    if not ACTIVE[active]:
        done.check()
        assert target.works() == __version__
        return
    assert done.code == 78
    assert f"newer-installed: {active} is active on this node" in done.stderr
    version = active.partition("+")[0]
    assert done.stdout == (
        f"{NAME} node={platform.node()} version={version} state=failed cause=newer-installed\n"
    )
    assert "--allow-downgrade" in done.stderr
    assert target.install("--dry-run").code == 78
    assert target.snapshot() == before


def test_the_kept_version_can_be_installed_again(target: Target) -> None:
    target.install().check()
    target.older("9.9.9")
    kept = target.prefix / __version__ / EXECUTABLE
    target.install("--allow-downgrade", program=kept).check()
    assert target.works() == __version__
    assert target.versions == {"9.9.9", __version__}


def test_a_running_version_is_not_removed(target: Target) -> None:
    runs = target.older("0.0.7")
    shutil.copy("/bin/sleep", runs / EXECUTABLE)
    write_manifest(runs)
    target.older("0.0.8")
    target.older(OLD)
    with running([runs / EXECUTABLE, "60"]):
        target.install().check()
        assert target.versions == {"0.0.7", OLD, __version__}
    target.install().check()
    assert target.versions == {OLD, __version__}


def test_another_bin_dir_keeps_its_version(target: Target) -> None:
    target.install().check()
    target.older("0.0.8")
    target.older("0.0.7")
    other = target.folder / "bin2"
    target.install("--bin-dir", str(other)).check()
    assert target.works() == "0.0.7"
    assert target.versions == {"0.0.7", __version__}
    assert version_of(other / NAME) == __version__


def rebuild(folder: Path) -> None:
    some_file(folder).write_bytes(b"?")
    write_manifest(folder)


def some_file(folder: Path) -> Path:
    return folder / "bin" / "program" / "_internal" / "licenses.txt"


DAMAGE: Mapping[str, Callable[[Path], object]] = {
    "changed": lambda folder: some_file(folder).write_bytes(b"?"),
    "missing": lambda folder: some_file(folder).unlink(),
    "not executable": lambda folder: (folder / EXECUTABLE).chmod(0o644),
    "without a manifest": lambda folder: (folder / "MANIFEST").unlink(),
    "another build": rebuild,
    # Python's hashlib would import this module.
    "an additional file": lambda folder: (some_file(folder).parent / "_hashlib.py").write_text(
        "1/0"
    ),
    "a link instead of a directory": lambda folder: move_out(folder / "bin" / "program"),
}


def move_out(inner: Path) -> None:
    """Replace a directory with a symbolic link."""
    outside = inner.parents[3] / "outside"
    inner.rename(outside)
    inner.symlink_to(outside)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_version_is_replaced(target: Target, damage: str) -> None:
    target.install().check()
    DAMAGE[damage](target.prefix / __version__)
    target.install().check()
    assert target.works() == __version__
    assert target.current == f"{__version__}+2"
    before = target.snapshot()
    target.install().check()
    assert target.snapshot() == before
    # An intact build is kept for a rollback. Files that install did not write are kept, too.
    left = (
        "another build",
        "without a manifest",
        "an additional file",
        "a link instead of a directory",
    )
    assert (__version__ in target.versions) == (damage in left)


# ---- existing files ----------------------------------------------------------------------------

GO = b"\x7fELF...\xff Go buildinf:...path\tgithub.com/devrocks/credential-provider-oke/cmd..."


@pytest.mark.parametrize("name", [NAME, ALIAS])
@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"\x7fELF\xff Go buildinf:/other", b""])
def test_another_program_with_this_name_is_not_changed(
    target: Target, name: str, content: bytes
) -> None:
    target.bin_dir.mkdir()
    (target.bin_dir / name).write_bytes(content)
    before = target.snapshot()
    done = target.install()
    assert done.code == 73
    assert str(target.bin_dir / name) in done.stderr
    assert target.snapshot() == before


@pytest.mark.parametrize("name", [NAME, ALIAS])
@pytest.mark.parametrize("form", ["Oracle's Go provider", "one file", "another installation"])
def test_an_existing_provider_is_renamed_and_restored_by_uninstall(
    target: Target, name: str, form: str
) -> None:
    target.bin_dir.mkdir()
    path = target.bin_dir / name
    if form == "another installation":
        path.symlink_to(tree() / EXECUTABLE)
    else:
        path.write_bytes(one_file().read_bytes() if form == "one file" else GO)
    before = state(path)
    args = ["--take-over"] if form == "Oracle's Go provider" else []
    dry = target.install("--dry-run", *args)
    assert f"{path}: would be renamed to {name}.before-install and linked to" in dry.stdout
    assert state(path) == before
    target.install(*args).check()
    assert target.works(name) == __version__
    target.install().check()
    assert target.works(name) == __version__
    target.uninstall().check()
    assert [path.name for path in target.bin_dir.iterdir()] == [name]
    assert state(path) == before


def go_node(target: Target) -> list[str]:
    """Write the Go provider and its config. Returns the flags of its kubelet."""
    target.bin_dir.mkdir()
    (target.bin_dir / ALIAS).write_bytes(GO)
    (target.bin_dir / ALIAS).chmod(0o755)
    target.config.parent.mkdir()
    target.config.write_text(USERS.replace(f"name: {NAME}", f"name: {ALIAS}"))
    return [
        f"--image-credential-provider-config={target.config}",
        f"--image-credential-provider-bin-dir={target.bin_dir}",
    ]


def test_the_go_provider_is_kept_until_its_name_is_taken_over_and_uninstall_restores_it(
    target: Target,
) -> None:
    kubelet = go_node(target)
    go = state(target.bin_dir / ALIAS)
    for args in (["--dry-run"], [], []):
        said = target.install(*args).stdout
        assert f"{target.bin_dir / ALIAS}: kept, because it is Oracle's Go provider." in said
        assert "so the kubelet does not call this program" in said
        assert "install --take-over" in said
        assert state(target.bin_dir / ALIAS) == go
    assert target.works() == __version__
    assert target.uninstall("--dry-run", kubelet=kubelet).code == 2
    dry = target.install("--take-over", "--dry-run")
    assert (dry.code, state(target.bin_dir / ALIAS)) == (2, go)
    assert dry.stdout.splitlines()[0] == (
        f"{target.bin_dir / ALIAS}: would be renamed to {ALIAS}.before-install and linked to {NAME}"
    )
    assert "does not call" not in target.install("--take-over").check().stdout
    assert target.works(ALIAS) == __version__
    target.uninstall(kubelet=kubelet).check()
    assert state(target.bin_dir / ALIAS) == go
    assert [path.name for path in target.bin_dir.iterdir()] == [ALIAS]
    assert target.config.exists() and not target.prefix.exists()


def test_the_go_provider_is_restored_even_if_a_copy_of_the_program_took_its_name_since(
    target: Target,
) -> None:
    go_node(target)
    target.install("--take-over").check()
    (target.bin_dir / ALIAS).unlink()
    shutil.copy(one_file(), target.bin_dir / ALIAS)
    assert f"{ALIAS}: linked to {NAME}" in target.install().check().stdout
    target.uninstall().check()
    assert (target.bin_dir / ALIAS).read_bytes() == GO


def test_a_go_provider_with_the_programs_own_name_is_refused(target: Target) -> None:
    target.bin_dir.mkdir()
    target.link.write_bytes(GO)
    before = target.snapshot()
    done = target.install()
    assert done.code == 73
    assert f"{target.link} is Oracle's Go provider" in done.stderr
    assert "--take-over" in done.stderr
    assert target.snapshot() == before


# What would keep the kubelet from working after uninstall.
BREAKS: Mapping[str, Callable[[Target], object]] = {
    "the restored program is not executable": lambda target: (
        target.bin_dir / f"{ALIAS}.before-install"
    ).chmod(0o644),
    "the config also names this program": lambda target: target.config.write_text(
        USERS + target.config.read_text().partition("providers:\n")[2]
    ),
    "the kubelet started with an earlier config": lambda target: os.utime(
        target.config, (2**31, 2**31)
    ),
    "the config cannot be read": lambda target: target.config.write_text("providers: ["),
}


@pytest.mark.parametrize("how", BREAKS)
def test_uninstall_refuses_if_the_kubelet_would_not_work_with_what_it_restores(
    target: Target, how: str
) -> None:
    kubelet = go_node(target)
    target.install("--take-over").check()
    BREAKS[how](target)
    before = target.snapshot()
    assert target.uninstall(kubelet=kubelet).code == 74
    assert target.snapshot() == before


@pytest.mark.parametrize("bin_dir", ["missing", "a file"])
def test_a_bin_dir_that_does_not_exist_is_created_only_if_that_is_asked_for(
    target: Target, bin_dir: str
) -> None:
    if bin_dir == "a file":
        target.bin_dir.write_text("")
    before = target.snapshot()
    places: list[str | Path] = ["--prefix", target.prefix, "--bin-dir", target.bin_dir]
    done = run([one_file(), "install", *places, "--config-dir", target.config.parent])
    assert done.code == 73
    assert f"--bin-dir {target.bin_dir} is not a directory" in done.stderr
    assert "--create-bin-dir" in done.stderr
    assert target.snapshot() == before


def test_the_config_is_for_the_realm_and_the_hosts_that_were_given(target: Target) -> None:
    hosts = ("ocir.my.cloud", "ocir.*.oci.my.cloud")
    args = ("--realm", "oc1", *(word for host in hosts for word in ("--host", host)))
    wanted = run([one_file(), "config", *args]).check().stdout
    assert wanted != write(ALL, (), as_json=False)
    target.install(*args).check()
    assert target.config.read_text() == wanted
    before = target.snapshot()
    target.install().check()
    assert target.snapshot() == before
    target.config.unlink()
    target.install().check()
    assert target.config.read_text() == wanted
    target.install("--realm", "all").check()
    assert target.config.read_text() == write(ALL, (), as_json=False)
    for wrong in ("--realm", "oc0"), ("--host", "a b"):
        done = target.install(*wrong)
        assert (done.code, done.stdout) == (2, "")
        assert f"Invalid value for {wrong[0]}" in done.stderr
    target.uninstall().check()
    assert not list(target.folder.iterdir())


def test_the_credential_helper_is_an_additional_name(target: Target) -> None:
    target.install().check()
    target.install("--credential-helper").check()
    helper = target.bin_dir / "docker-credential-ocir"
    assert run([helper, "version"]).check().stdout.startswith("docker-credential-ocir")
    before = target.snapshot()
    target.install().check()
    assert target.snapshot() == before
    target.uninstall().check()
    assert not list(target.folder.iterdir())


USERS: str = write(ALL, (), as_json=False).replace("5m", "7m")


def test_a_config_of_the_user_is_kept(target: Target) -> None:
    target.config.parent.mkdir()
    target.config.write_text(USERS)
    before = state(target.config)
    said = target.install().check().stdout
    assert "kept, because install did not write it" in said
    assert state(target.config) == before
    target.uninstall().check()
    assert state(target.config) == before


def test_a_config_that_install_wrote_is_updated(target: Target) -> None:
    target.install().check()
    target.config.write_text(USERS)
    record = target.prefix / "installed.json"
    content = json.loads(record.read_text())
    content["configs"][str(target.config)] = hashlib.sha256(USERS.encode()).hexdigest()
    record.write_text(json.dumps(content))
    target.install().check()
    assert target.config.read_text() == write(ALL, (), as_json=False)


def test_a_config_with_the_go_providers_name_is_accepted(target: Target) -> None:
    target.config.parent.mkdir()
    target.config.write_text(USERS.replace(f"name: {NAME}", f"name: {ALIAS}"))
    assert f"neither {NAME}" not in target.install().check().stdout


REFUSED = {
    "an unknown field": USERS + "    unknown: field\n",
    "no YAML": "providers: [",
    "a program that is not there": USERS.replace(f"name: {NAME}", "name: ecr-credential-provider"),
}


@pytest.mark.parametrize("config", REFUSED)
def test_nothing_is_installed_if_the_kubelet_would_not_start_with_the_config(
    target: Target, config: str
) -> None:
    target.older()
    target.config.parent.mkdir()
    target.config.write_text(REFUSED[config])
    before = target.snapshot()
    for args in ([], ["--dry-run"]):
        done = target.install(*args)
        assert done.code == 73
        assert "the kubelet would not start" in done.stderr
        assert target.snapshot() == before


def test_a_config_that_does_not_name_the_program_is_reported(target: Target) -> None:
    target.config.parent.mkdir()
    target.bin_dir.mkdir()
    target.config.write_text(REFUSED["a program that is not there"])
    (target.bin_dir / "ecr-credential-provider").write_text("#!/bin/sh\n")
    (target.bin_dir / "ecr-credential-provider").chmod(0o755)
    assert f"names neither {NAME} nor {ALIAS}" in target.install().check().stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [("size=16m", "No space left on device"), ("noexec", "mounted noexec"), ("ro", "Read-only")],
)
def test_the_previous_version_stays_if_the_new_one_cannot_be_unpacked_or_run(
    target: Target, options: str, says: str
) -> None:
    target.older()
    before = target.snapshot()
    mount = f'mount -t tmpfs -o mode=755,{options} none {target.prefix} && exec "$@"'
    done = target.install(before=["unshare", "--mount", "sh", "-c", mount, "sh"])
    assert done.code == 73
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert target.snapshot() == before


def test_without_permission_it_fails_and_leaves_nothing(target: Target) -> None:
    target.folder.chmod(0o755)
    program = target.folder.parent / "program"
    shutil.copy(one_file(), program)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = run([*nobody, program, "install", "--dry-run"])
    assert done.code == 2, done.stderr
    done = run([*nobody, program, "install", "--prefix", "/usr/local/lib/of-nobody"])
    assert done.code == 73
    assert "Run it as root." in done.stderr


# Shell: create and print a path in the directory $1 where another user can put files.
UNSAFE_PLACES = {
    "another's": 'mkdir "$1/theirs"; chown $OTHER "$1/theirs"; echo "$1/theirs"',
    "another's, above": 'mkdir -p "$1/theirs/mine"; chown $OTHER "$1/theirs"; echo "$1/theirs/mine"',
    "a group's": 'mkdir -m 775 "$1/theirs"; echo "$1/theirs"',
    "everybody's": 'mkdir -m 1777 "$1/theirs"; echo "$1/theirs"',
    "everybody's, above": 'mkdir -m 1777 "$1/theirs"; echo "$1/theirs/new"',
    "another's link": (
        'mkdir -m 1777 "$1/theirs"; mkdir "$1/mine"; ln -s "$1/mine" "$1/theirs/link";'
        ' chown -h $OTHER "$1/theirs/link"; echo "$1/theirs/link"'
    ),
}


@pytest.mark.parametrize("option", ["--prefix", "--bin-dir", "--config-dir"])
@pytest.mark.parametrize("unsafe", UNSAFE_PLACES)
def test_where_another_user_could_put_other_files_nothing_is_installed(
    target: Target, option: str, unsafe: str
) -> None:
    script = UNSAFE_PLACES[unsafe].replace("$OTHER", str(OTHER))
    place = run(["sh", "-c", script, "sh", target.folder]).check().stdout.strip()
    before = target.snapshot()
    for args in ([], ["--dry-run"]):
        done = target.install(option, place, *args)
        assert done.code == 73
        assert "cannot-install" in done.stderr
        assert "whoever can write there would own the node" in done.stderr
        assert "chown root:root" in done.stderr
        assert target.snapshot() == before


def test_an_unprivileged_user_can_install_to_their_own_directories(open_folder: Path) -> None:
    shutil.copy(one_file(), open_folder / "program")
    target = Target(open_folder / "home")
    target.folder.mkdir()
    os.chown(target.folder, OTHER, OTHER)
    target.install(program=open_folder / "program", before=AS_OTHER).check()
    assert target.works() == __version__


NO_CACHE_TYPE = USERS + (
    "    tokenAttributes: {serviceAccountTokenAudience: x, requireServiceAccount: true}\n"
)


@pytest.mark.parametrize("versions", [("1.33.5",), ("1.33.5", "1.34.1"), ("1.34.1", "1.33.5")])
def test_the_config_must_be_valid_for_each_running_kubelet(
    target: Target, versions: Sequence[str]
) -> None:
    target.config.parent.mkdir()
    target.config.write_text(NO_CACHE_TYPE)
    script = ""
    for version in versions:
        folder = target.folder.parent / version
        folder.mkdir()
        path = kubelet_at(folder / "kubelet", version)
        script += (
            f'{path} >/dev/null 2>&1 & until [ "$(readlink /proc/$!/exe)" = {path} ]; do :; done;'
        )
    # Hide the installed kubelets, so that only the running ones count.
    script += 'for folder in /usr/local/sbin /usr/local/bin; do mount -t tmpfs none $folder; done; "$@"; exit $?'
    done = target.install(before=[*ALONE, "bash", "-c", script, "bash"])
    if versions == ("1.33.5",):
        done.check()
    else:
        assert done.code == 73
        assert "cacheType" in done.stderr


@pytest.mark.parametrize("mode", ["755", "775"])
def test_an_installed_kubelet_is_run_only_if_only_root_can_replace_it(
    target: Target, mode: str
) -> None:
    mark = target.folder.parent / "mark"
    kubelet = target.folder.parent / "kubelet"
    kubelet.write_text(f"#!/bin/sh\ntouch {mark}\necho Kubernetes v1.34.1\n")
    kubelet.chmod(0o755)
    script = f'mount -t tmpfs -o mode={mode} none /usr/local/sbin && cp {kubelet} /usr/local/sbin && "$@"'
    target.install(before=["unshare", "--mount", "sh", "-c", script, "sh"]).check()
    assert mark.exists() == (mode == "755")


# ---- interrupted ---------------------------------------------------------------------------------

# The system calls by which Python changes the file system. The launcher, which unpacks to TMPDIR, uses
# mkdirat(2) and openat(2).
CHANGES = "mkdir,rename,symlink,unlink,rmdir,linkat,fsync"


def trace(target: Target, log: Path, *options: str) -> Done:
    before = ["strace", "-o", str(log), "-y", "-e", f"trace={CHANGES}", *options]
    return target.install("--take-over", before=before)


def test_killed_at_any_step_it_leaves_a_working_program_and_the_next_run_completes(
    tmp_path: Path,
) -> None:
    def node(name: str) -> Target:
        target = Target(tmp_path / name)
        target.folder.mkdir()
        target.older("0.0.8")
        target.older()
        target.bin_dir.joinpath(ALIAS).write_bytes(GO)
        return target

    whole = node("whole")
    log = tmp_path / "log"
    trace(whole, log).check()
    # All of these calls except fsync, which has no visible effect; every 30th of those that write the
    # version's files; none in the directory to which the launcher unpacks.
    counted: dict[str, int] = {}
    inside = 0
    points = []
    for line in log.read_text().splitlines():
        call = line.partition("(")[0]
        counted[call] = counted.get(call, 0) + 1
        if str(whole.folder) not in line or " = -1 " in line:
            continue
        inside += "/.aside/" in line
        if inside % 30 == 0 if "/.aside/" in line else call != "fsync":
            points.append((call, counted[call]))
    assert {"mkdir", "rename", "symlink", "unlink", "rmdir", "linkat"} <= {
        call for call, _ in points
    }
    seen = set()
    for number, (call, count) in enumerate(points):
        target = node(str(number))
        killed = trace(target, log, "-e", f"inject={call}:signal=SIGKILL:when={count}")
        assert killed.code in (-signal.SIGKILL, 128 + signal.SIGKILL), (call, count, killed)
        seen.add(target.works())
        target.install("--take-over").check()
        assert target.works() == target.works(ALIAS) == __version__
        assert layout(target) == layout(whole), (call, count)
        shutil.rmtree(target.folder)
    assert seen == {OLD, __version__}


def layout(target: Target) -> dict[str, tuple[object, ...]]:
    """All files, without inodes, times and the test's own directory."""
    found: dict[str, tuple[object, ...]] = {}
    for path in target.folder.rglob("*"):
        mode, content, *_ = state(path)
        if isinstance(content, bytes) and path.suffix in (".json", ".yaml"):
            content = content.decode()
        if isinstance(content, str):
            content = content.replace(str(target.folder), "")
            content = re.sub("[0-9a-f]{64}", "", content)
        found[str(path.relative_to(target.folder))] = (mode, content)
    return found


def test_all_files_are_synced_before_the_switch(target: Target, tmp_path: Path) -> None:
    log = tmp_path / "log"
    trace(target, log).check()
    synced = set()
    for line in log.read_text().splitlines():
        if found := re.match(r"fsync\(\d+<(.*)>\)", line):
            synced.add(found[1].replace("/.aside", f"/{__version__}"))
        if line.startswith("rename(") and f'"{target.link}"' in line:
            break
    else:
        raise AssertionError("nothing was switched")
    folder = target.prefix / __version__
    assert {str(path) for path in [target.prefix, folder, *folder.rglob("*")]} <= synced


def test_concurrent_installs_run_one_after_the_other(target: Target) -> None:
    argv = [str(one_file()), "install", "--prefix", str(target.prefix)]
    argv += ["--bin-dir", str(target.bin_dir), "--config-dir", str(target.config.parent)]
    argv += ["--create-bin-dir"]
    both = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    # The one that waits may have created the prefix. Then it writes the record, too.
    assert sorted("unpacked" in stdout for stdout, _ in said) == [False, True]
    assert target.works() == __version__
    assert target.versions == {__version__}


# ---- uninstall -----------------------------------------------------------------------------------


def test_uninstall_keeps_other_files(target: Target) -> None:
    target.install().check()
    others = [
        target.bin_dir / "ecr-credential-provider",
        target.config.parent / "kubelet.conf",
        target.prefix / "notes",
        target.prefix / __version__ / "bin" / "notes",
    ]
    for path in others:
        path.write_text("somebody's")
    target.config.write_text(USERS)
    target.uninstall().check()
    assert {p for p in target.folder.rglob("*") if p.is_file()} == {*others, target.config}


# The flag, and the function that makes its value, which leads to an installed file.
USES: Mapping[str, tuple[str, Callable[[Target, Path], Path]]] = {
    "the bin dir": ("bin-dir", lambda target, _: target.bin_dir),
    "a link to the bin dir": ("bin-dir", lambda target, other: linked(other, target.bin_dir)),
    "a bin dir in the prefix": ("bin-dir", lambda target, _: target.link.resolve().parent),
    "a link in another bin dir": (
        "bin-dir",
        lambda target, other: linked(other / "ocir", target.bin_dir / ALIAS).parent,
    ),
    "a chain of links": (
        "bin-dir",
        lambda target, other: linked(other / NAME, linked(other / "x" / "y", target.link)).parent,
    ),
    "a link to an inner file": (
        "bin-dir",
        lambda target, other: (
            linked(other / NAME, target.prefix / __version__ / "bin/program" / NAME).parent
        ),
    ),
    "a hard link": ("bin-dir", lambda target, other: hard_linked(other / NAME, target.link).parent),
    "the config": ("config", lambda target, _: target.config),
    "the config's directory": ("config", lambda target, _: target.config.parent),
    "a link in a config directory": (
        "config",
        lambda target, other: linked(other / "ocir.yaml", target.config).parent,
    ),
}


def linked(path: Path, to: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)
    return path


def hard_linked(path: Path, to: Path) -> Path:
    path.parent.mkdir()
    path.hardlink_to(to.resolve())
    return path


@pytest.mark.parametrize("how", USES)
def test_uninstall_refuses_while_the_kubelet_uses_an_installed_file(
    target: Target, how: str
) -> None:
    target.install().check()
    before = target.snapshot()
    name, use = USES[how]
    flag = f"--image-credential-provider-{name}={use(target, target.folder.parent / 'other')}"
    kubelet = flag.split("=") if how == "the config" else [flag]
    done = target.uninstall(kubelet=kubelet)
    assert done.code == 74
    assert f"runs with {flag}" in done.stderr
    assert target.snapshot() == before
    target.uninstall("--force", kubelet=kubelet).check()
    assert not list(target.folder.iterdir())


def test_uninstall_ignores_a_kubelet_that_uses_other_files(target: Target) -> None:
    target.install().check()
    other = linked(target.folder.parent / "other" / "link", Path("/bin/true")).parent
    (other / "broken").symlink_to("nowhere")
    target.uninstall(kubelet=[f"--image-credential-provider-bin-dir={other}"]).check()


def test_uninstall_succeeds_if_nothing_is_installed(target: Target) -> None:
    done = run([one_file(), "uninstall", "--prefix", target.prefix]).check()
    assert "nothing is installed" in done.stdout


# ---- nodes ---------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path / "worker")
    node.machine("x86_64")
    return node


def github() -> World:
    """A managed node, and a release with the built binary."""
    asset = one_file().name
    content = one_file().read_bytes()
    sums = f"{hashlib.sha256(content).hexdigest()}  {asset}\n".encode()
    return World(MANAGED, {f"{FOLDER}/{asset}": content, f"{FOLDER}/SHA256SUMS": sums})


def test_cloud_init_installs_the_real_binary_and_passes_the_flags(node: Node) -> None:
    run = node.run(github(), SCRIPT)
    assert run.returncode == 0, run.stderr
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS]
    run = node.run(World(MANAGED, None), SCRIPT)
    assert f"{__version__} is already installed" in run.stderr
    assert os.listdir(node.path("usr/local/lib")) == [NAME]


def newer_version(node: Node) -> Path:
    """Install 9.9.9 on the node. Returns the link to it."""
    folder = f"usr/local/lib/{NAME}/9.9.9"
    node.program(f"{folder}/{EXECUTABLE}", f'#!/bin/sh\necho "{NAME} 9.9.9"\n')
    write_manifest(node.path(folder))
    link = node.path(f"usr/local/bin/{NAME}")
    link.parent.mkdir()
    link.symlink_to(f"/{folder}/{EXECUTABLE}")
    return link


def test_a_new_node_gets_the_scripts_version_even_if_its_image_has_a_newer_one(
    node: Node,
) -> None:
    link = newer_version(node)
    run = node.run(github(), SCRIPT)
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS]
    assert "downgrade: 9.9.9 was active" in run.stderr
    assert __version__ in os.readlink(link)


INSTALL = "cp /cloud/binary /root/binary && /root/binary install\n"


def selinux_node(node: Node, then: str = "") -> None:
    node.write("sys/fs/selinux/enforce", "1")
    node.write("cloud/script", "")
    shutil.copy(one_file(), node.path("cloud/binary"))
    if then:
        node.program("usr/sbin/restorecon", recorder("restorecon", then))


def test_files_get_their_selinux_labels_before_the_switch(node: Node) -> None:
    selinux_node(node, f"test ! -e /usr/local/bin/{NAME} || echo switched >>/calls/late\n")
    done = node.run(World({}, None), INSTALL)
    assert done.returncode == 0, done.stderr
    first, *others = [call[1:] for call in node.calls("restorecon")]
    assert first == ["-R", f"/usr/local/lib/{NAME}/.aside"]
    assert ["-R", f"/usr/local/bin/.{NAME}.new"] in others
    assert ["-R", "/etc/kubernetes/.credential-provider-config.yaml.new"] in others
    assert node.run(World({}, None), INSTALL).returncode == 0
    # The policy may have changed since.
    assert node.calls("restorecon")[-1][1:] == ["-R", f"/usr/local/lib/{NAME}/{__version__}"]


@pytest.mark.parametrize(
    ("then", "says"), [("", "no restorecon"), ("echo no policy >&2; exit 1\n", "no policy")]
)
def test_without_selinux_labels_nothing_is_installed(node: Node, then: str, says: str) -> None:
    selinux_node(node, then)
    done = node.run(World({}, None), INSTALL)
    assert done.returncode == 73
    assert says in done.stderr
    assert not list(node.path("usr/local").glob("*/*"))


@contextmanager
def running(argv: Sequence[str | Path]) -> Iterator[None]:
    process = subprocess.Popen([*map(str, argv)])
    try:
        yield
    finally:
        process.kill()
        process.wait()
