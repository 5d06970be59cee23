"""The setup of an unprepared machine: packages, virtual environment, sudo, and the demo."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.cloud.namespace import PATH, REPOSITORY
from tests.support.processes import AS_OTHER, OTHER

PACKAGING = REPOSITORY / "packaging"


def run(
    argv: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env={"PATH": PATH, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


# --- packages: a package with services, on a copy of this machine -------------------------------

POSTINST = """#!/bin/sh
# As debhelper generates it.
set -e
for user in "" --user; do
    unit=fresh-service$user.service
    deb-systemd-helper $user unmask $unit >/dev/null || true
    if deb-systemd-helper $user --quiet was-enabled $unit; then
        deb-systemd-helper $user enable $unit >/dev/null || true
    else
        deb-systemd-helper $user update-state $unit >/dev/null || true
    fi
done
update-rc.d fresh-service defaults >/dev/null
deb-systemd-invoke start fresh-service.service >/dev/null || true
invoke-rc.d --skip-systemd-native fresh-service start
"""
UNIT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy={}\n"
INIT = """#!/bin/sh
### BEGIN INIT INFO
# Provides: fresh-service
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
### END INIT INFO
echo "init $1" >>/record
"""
CONTROL = """Package: fresh-service
Version: 1
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: a package that starts and enables services
"""
# An overlay of this machine's files, with a fake apt-get and systemctl.
ON_A_COPY = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cp -r "$1"/machine/. /mnt/root/
cp -r "$2" /mnt/root/packaging
mount -t proc proc /mnt/root/proc
mount -t tmpfs tmpfs /mnt/root/run
mkdir -p /mnt/root/run/systemd/system
mount --bind /dev /mnt/root/dev
rm -f /mnt/root/bin/systemctl /mnt/root/usr/bin/systemctl
chroot /mnt/root sh -c "$3" >"$1/stdout" 2>"$1/stderr" </dev/null || echo $? >"$1/failed"
cp /mnt/root/record "$1"/record
"""
ENABLED = "find /etc/systemd /etc/rc?.d -name '*fresh*' ! -name 'K*' >>/record"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with the files to add to the copy of this machine."""
    package = tmp_path / "package"
    for folder, target in (("system", "multi-user"), ("user", "default")):
        unit = package / f"usr/lib/systemd/{folder}"
        unit.mkdir(parents=True)
        name = "fresh-service.service" if folder == "system" else "fresh-service--user.service"
        (unit / name).write_text(UNIT.format(f"{target}.target"))
    script(package / "etc/init.d/fresh-service", INIT.partition("\n")[2])
    script(package / "DEBIAN/postinst", POSTINST.partition("\n")[2])
    (package / "DEBIAN/control").write_text(CONTROL)
    machine = tmp_path / "machine"
    machine.mkdir()
    assert run(["dpkg-deb", "--build", package, machine / "service.deb"]).returncode == 0
    (machine / "record").touch()
    install = "[ $1 != install ] || dpkg --install /service.deb"
    script(
        machine / "usr/local/bin/apt-get",
        f'echo "apt-get $1 $DEBIAN_FRONTEND" >>/record\n{install}\n',
    )
    script(machine / "usr/local/bin/systemctl", 'echo "systemctl $*" >>/record; echo enabled\n')
    return tmp_path


def on_a_copy(machine: Path, commands: str) -> list[str]:
    """Run shell commands on the copy. Returns the lines of its /record."""
    done = run(["unshare", "--mount", "sh", "-euc", ON_A_COPY, "sh", machine, PACKAGING, commands])
    assert done.returncode == 0, done.stderr
    assert not (machine / "failed").exists(), (machine / "stderr").read_text()
    return (machine / "record").read_text().splitlines()


def test_the_package_of_these_tests_starts_and_enables_services(machine: Path) -> None:
    """The control: without packages.sh, its services are started and enabled."""
    record = on_a_copy(machine, f"rm -f /usr/sbin/policy-rc.d; apt-get install; {ENABLED}")
    assert started(record)
    for place in ("/etc/systemd/system/", "/etc/systemd/user/", "/etc/rc2.d/S"):
        assert any(line.startswith(place) for line in record), place


def started(record: list[str]) -> list[str]:
    return [line for line in record if re.search(r"(systemctl .*|init )\b(re)?start\b", line)]


@pytest.mark.parametrize("policy", ["exit 104", ""], ids=["with a policy", "without"])
def test_no_service_is_started_or_enabled(machine: Path, policy: str) -> None:
    path = "/usr/sbin/policy-rc.d"
    before = f"printf '{policy}' >{path}; chmod 755 {path}" if policy else f"rm -f {path}"
    show = f"echo installed >>/record; cat {path}* >>/record || true; echo >>/record"
    # An upgrade with the user's apt: a disabled service stays disabled.
    upgrade = "dpkg --install /service.deb >/dev/null"
    setup = "/packaging/setup/packages.sh fresh-service"
    record = on_a_copy(machine, f"{before}; {setup} && {ENABLED}; {show}; {upgrade}; {ENABLED}")
    end = record.index("installed")
    assert [line for line in record[:end] if line.startswith("apt-get")] == [
        "apt-get update noninteractive",
        "apt-get install noninteractive",
    ]
    assert started(record[:end]) == []
    assert record[end + 1] == policy
    assert [line for line in record if line.startswith("/etc/")] == []
    assert re.fullmatch(
        r"Installing Debian packages: fresh-service \(.*\) \.\.\. \d+ s\n",
        (machine / "stdout").read_text(),
    )
    assert (machine / "stderr").read_text().count("packages.sh") == 0


def test_what_cannot_be_installed_is_said_in_one_line(machine: Path) -> None:
    apt = 'echo noise; echo "E: Unable to locate package $5" >&2; exit 100\n'
    script(machine / "machine/usr/local/bin/apt-get", apt)
    on_a_copy(machine, "! /packaging/setup/packages.sh fresh-service")
    assert (machine / "stdout").read_text().endswith(" ... failed\n")
    [line] = [
        line for line in (machine / "stderr").read_text().splitlines() if "policy" not in line
    ]
    assert line.startswith("E: Unable to locate package fresh-service (complete output: /tmp/")


def test_parts_of_python_are_the_distributions_alone() -> None:
    """Packages with % belong to /usr/bin/python3.N. Another Python needs none."""
    done = run([PACKAGING / "setup/packages.sh", "no-such-%"], {"PYTHON": sys.executable})
    distributions = Path(sys.executable).resolve().is_relative_to("/usr/bin")
    if distributions:
        assert f"no-such-3.{sys.version_info.minor}" in done.stdout + done.stderr
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- a user who is not root ----------------------------------------------------------------------


@pytest.fixture
def clone() -> Iterator[Path]:
    """A folder with the setup scripts, owned by the user nobody."""
    with tempfile.TemporaryDirectory(prefix="clone-") as folder:
        place = Path(folder)
        shutil.copytree(PACKAGING, place / "packaging")
        (place / "bin").mkdir()
        for path in (place, *place.rglob("*")):
            os.chown(path, OTHER, OTHER)
        place.chmod(0o755)
        yield place


def as_nobody(clone: Path, *argv: str, sudo: bool) -> subprocess.CompletedProcess[str]:
    """Run a command without root. With `sudo`, a script prints the arguments of sudo."""
    tools = ("bash", "id", "dirname", "readlink", "dpkg-query", "sed", "tr", "sort", "comm", "env")
    for tool in (*tools, "apt-get"):
        found = shutil.which(tool, path=PATH)
        assert found is not None
        (clone / "bin" / tool).symlink_to(found)
    if sudo:
        script(clone / "bin" / "sudo", 'echo "sudo $*"\n')
    env = {"PATH": str(clone / "bin"), "PYTHON": "/nowhere/python"}
    return run([shutil.which("setpriv", path=PATH) or "", *AS_OTHER[1:], *argv], env, clone)


PACKAGES = ("packaging/setup/packages.sh", "no-such-package", "python%-venv")
ROOT = ("packaging/setup/as_root.sh", "touch", "made")


@pytest.mark.parametrize("command", [PACKAGES, ROOT], ids=lambda command: command[0])
def test_without_sudo_one_line_says_what_is_needed(clone: Path, command: Sequence[str]) -> None:
    done = as_nobody(clone, *command, sudo=False)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "there is no sudo" in line
    assert "root" in line
    assert command is not PACKAGES or line.startswith("missing packages: no-such-package. ")


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (PACKAGES, "sudo packaging/setup/packages.sh no-such-package"),
        (ROOT, f"sudo --set-home {' '.join(ROOT)}"),
    ],
    ids=lambda value: value[0],
)
def test_sudo_is_asked_for_what_needs_root(clone: Path, command: Sequence[str], asked: str) -> None:
    done = as_nobody(clone, *command, sudo=True)
    assert (done.returncode, done.stderr) == (0, "")
    why, line = done.stdout.splitlines()
    assert why.endswith("Running sudo.")
    assert line == asked


@pytest.mark.parametrize("code", [0, 3])
def test_what_root_makes_is_given_to_the_owner(clone: Path, code: int) -> None:
    made = f"mkdir -p build/deep && touch build/deep/file && ln -s /etc/passwd link; exit {code}"
    done = run(["packaging/setup/as_root.sh", "sh", "-c", made], cwd=clone)
    assert done.returncode == code
    assert {path.lstat().st_uid for path in (clone, *clone.rglob("*"))} == {OTHER}
    assert os.stat("/etc/passwd").st_uid == 0


def test_the_emulated_system_stays_roots(clone: Path) -> None:
    done = run(["packaging/setup/as_root.sh", "mkdir", "-p", "build/roots/system/etc"], cwd=clone)
    assert done.returncode == 0
    assert (clone / "build").stat().st_uid == OTHER
    assert (clone / "build/roots/system/etc").stat().st_uid == 0


# --- virtual environment ------------------------------------------------------------------------

# Records its calls, and creates the files that `-m venv` creates.
FAKE_PYTHON = """
case "$*" in
    *sys.version*) echo "${VERSION-1}" ;;
    *compileall*) ;;
    *venv*) rm -rf "$4"; mkdir -p "$4/bin"; ln -s "$0" "$4/bin/python"; echo venv >>record ;;
    *editable*) echo program >>record ;;
    *requirement*) echo packages >>record ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository, with a Python that records its calls."""
    (tmp_path / "packaging/setup").mkdir(parents=True)
    for name in ("venv.sh", "step.sh"):
        shutil.copy(PACKAGING / "setup" / name, tmp_path / "packaging/setup")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "locked.txt").write_text("a==1 \\\n    --hash=sha256:0\nb==1\n")
    script(tmp_path / "fake", FAKE_PYTHON)
    return tmp_path


def made(project: Path, *options: str, **environ: str) -> list[str]:
    """The steps of venv.sh."""
    (project / "record").write_text("")
    env = {"PYTHON": str(project / "fake"), **environ}
    done = run([project / "packaging/setup/venv.sh", "venv", "locked.txt", "1 MB", *options], env)
    assert (done.returncode, done.stderr) == (0, "")
    return (project / "record").read_text().split()


def test_the_environment_is_made_anew_only_for_other_requirements(project: Path) -> None:
    assert made(project, "--editable") == ["venv", "packages", "program"]
    assert made(project, "--editable") == []
    (project / "locked.txt").touch()
    assert made(project, "--editable") == []
    with (project / "pyproject.toml").open("a") as file:
        file.write('name = "x"\n')
    assert made(project, "--editable") == ["program"]
    with (project / "locked.txt").open("a") as file:
        file.write("c==1\n")
    assert made(project) == ["venv", "packages"]
    assert made(project, VERSION="2") == ["venv", "packages"]


def test_the_environment_is_made_again_after_a_failure(project: Path) -> None:
    script(project / "fake", FAKE_PYTHON.replace("echo packages", "exit 1; echo packages"))
    failed = run(
        [project / "packaging/setup/venv.sh", "venv", "locked.txt", "1 MB"],
        {"PYTHON": str(project / "fake")},
    )
    assert failed.returncode == 1
    script(project / "fake", FAKE_PYTHON)
    assert made(project) == ["venv", "packages"]


def test_the_demo_needs_packages_of_the_one_lock() -> None:
    lock = (PACKAGING / "locks/requirements.txt").read_text().splitlines()
    demo = (PACKAGING / "locks/demo.txt").read_text().splitlines()
    assert [
        line for line in demo if line.rstrip(" \\") not in {each.rstrip(" \\") for each in lock}
    ] == []
    names = {line.partition("==")[0] for line in demo if "==" in line}
    assert names == {"certifi", "cffi", "cryptography", "pycparser"}


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        ({"python3": 13}, "python3"),
        ({"python3": 10, "python3.12": 12, "python3.11": 11}, "python3.12"),
        ({"python3": 10}, "python3.11"),
        ({}, "python3.11"),
    ],
)
def test_a_python_that_is_new_enough_is_chosen(
    tmp_path: Path, versions: Mapping[str, int], chosen: str
) -> None:
    for name, minor in versions.items():
        script(tmp_path / name, f"[ {minor} -ge 11 ]\n")
    (tmp_path / "bash").symlink_to("/bin/bash")
    assert run([PACKAGING / "setup/python.sh"], {"PATH": str(tmp_path)}).stdout == f"{chosen}\n"


# --- the demo -----------------------------------------------------------------------------------


def test_the_demo_tells_its_story_in_order_and_frightens_nobody() -> None:
    """With a pipe for output, and with only the packages that the demo installs."""
    wanted = (PACKAGING / "locks/demo.txt").read_text()
    heavy = {"oci", "click", "yaml", "pytest", "trustme"}
    assert not [name for name in heavy if re.search(rf"^{name}==", wanted, re.M)]
    guard = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({heavy!r}))
sys.argv = ["tests.demo"]
runpy.run_module("tests.demo", run_name="__main__")
"""
    argv = [sys.executable, "-c", guard]
    done = subprocess.run(
        argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    told = done.stdout
    parts = [
        "skopeo: refused, as expected: ",
        "the kubelet has the response",
        "ctr: pulled",
        "skopeo: pulled",
    ]
    assert [part for part in parts if part not in told] == []
    assert sorted(parts, key=told.index) == parts
    assert not re.search(r"level=|Traceback|[Ff]atal|[Ww]arning|ERROR", told)
