"""The frozen forms on difficult nodes: unusable /tmp, kills, empty and hostile environments."""

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from provider.errors import CannotUnpack, Damaged
from provider.frozen import clean_environment
from tests.support.built import BARE, CONTENTS, REQUEST, installed, one_file, tree
from tests.support.processes import AS_OTHER, OTHER

Form = Callable[[], Path]
FORMS = pytest.mark.parametrize("form", [one_file, installed], ids=["one file", "installed"])

NOEXEC = "mount -t tmpfs -o noexec none {}\n"
# The other folders where the one-file form can unpack itself.
ELSEWHERE = "".join(NOEXEC.format(place) for place in ("/var/tmp", "/run", "/dev/shm"))

# The test has its own mount namespace. The program's folder is at /mnt and the test's folder at /media,
# because the mounts may hide their paths.
NODE = """
set -e
root=$1 name=$2 folder=$3 umask=$4
shift 4
mount --bind "$root" /mnt
mount --bind "$folder" /media
for place in /tmp /var/tmp /run /dev/shm; do
    mount -t tmpfs -o mode=1777 none "$place"
done
{setup}
cd /
umask "$umask"
code=0
"/mnt/$name" "$@" || code=$?
for place in /tmp /var/tmp /run /dev/shm; do
    ls -d "$place"/oke-credential-provider.* 2>/dev/null || true
done >/media/left
exit $code
"""


IN_NAMESPACE = ("unshare", "--mount", "--net", "sh", "-c")


class Done(NamedTuple):
    """The result of a call on a node. ``left``: the program's folders that remain."""

    code: int
    stdout: bytes
    stderr: str
    left: list[str]


def on_node(form: Form, folder: Path, setup: str = "", umask: str = "022", **environ: str) -> Done:
    """Answer a request on a node that the shell commands ``setup`` prepared."""
    program = form()
    root = tree() if form is installed else program.parent
    name = str(program.relative_to(root))
    done = subprocess.run(
        [*IN_NAMESPACE, NODE.format(setup=setup), "sh", str(root), name, str(folder), umask],
        input=REQUEST,
        env={**BARE, **environ},
        capture_output=True,
        timeout=60,
    )
    left = (folder / "left").read_text().split()
    return Done(done.returncode, done.stdout, done.stderr.decode(), left)


def assert_answered(done: Done) -> None:
    assert (done.code, done.stderr, done.left) == (0, "", [])
    assert_response(done.stdout)


def assert_response(stdout: bytes) -> None:
    assert json.loads(stdout)["kind"] == "CredentialProviderResponse"


def assert_answers(program: Path, *argv: str | Path, **environ: str) -> None:
    """The program answers a request with only these variables. ``argv``: not its path."""
    done = subprocess.run(
        argv or [program], executable=program, input=REQUEST, env=environ, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert_response(done.stdout)


@FORMS
@pytest.mark.parametrize(
    "setup",
    [
        NOEXEC.format("/tmp"),
        "mount -t tmpfs -o ro none /tmp",
        "mount -t tmpfs -o size=1m none /tmp",
        # Space for bytes but not for files: unpacking fails halfway.
        "mount -t tmpfs -o nr_inodes=20 none /tmp",
        "mount -t tmpfs -o mode=0777 none /tmp",
        NOEXEC.format("/tmp") + NOEXEC.format("/var/tmp") + NOEXEC.format("/run"),
        # The test's mount, and the machine's.
        "umount /dev/shm\numount /dev/shm 2>/dev/null || true",
    ],
    ids=["noexec", "read-only", "full", "no inodes", "not sticky", "only /dev/shm", "no /dev/shm"],
)
def test_answers_with_an_unusable_tmp(form: Form, setup: str, tmp_path: Path) -> None:
    assert_answered(on_node(form, tmp_path, setup))


@pytest.mark.parametrize(
    ("tmp", "reason"),
    [
        (NOEXEC.format("/tmp"), "/tmp: mounted noexec;"),
        ("mount -t tmpfs -o ro none /tmp\n", "/tmp: read-only;"),
        ("mount -t tmpfs -o size=1m none /tmp\n", "/tmp: full;"),
        ("mount -t tmpfs -o nr_inodes=20 none /tmp\n", "/tmp: No space left on device;"),
        ("mount -t tmpfs -o mode=0777 none /tmp\n", "/tmp: other users could replace its files;"),
    ],
)
def test_the_one_file_form_reports_why_it_cannot_unpack(
    tmp: str, reason: str, tmp_path: Path
) -> None:
    done = on_node(one_file, tmp_path, tmp + ELSEWHERE)
    assert done.code == CannotUnpack.exit_code
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"oke-credential-provider: {CannotUnpack.code}: ")
    assert done.stderr.endswith(f"| {CannotUnpack.default_hint}\n")
    assert reason in done.stderr
    assert done.stdout == b""
    assert done.left == []


def test_the_one_file_form_unpacks_in_tmpdir(tmp_path: Path) -> None:
    setup = NOEXEC.format("/tmp") + ELSEWHERE
    done = on_node(one_file, tmp_path, setup, TMPDIR="/media")
    assert_answered(done)
    assert [path.name for path in tmp_path.iterdir()] == ["left"]


def test_a_damaged_installation_is_reported(tmp_path: Path) -> None:
    lonely = tmp_path / "bin" / "oke-credential-provider"
    lonely.parent.mkdir()
    lonely.write_bytes(installed().read_bytes())
    lonely.chmod(0o755)
    done = subprocess.run([lonely], capture_output=True, text=True)
    assert done.returncode == Damaged.exit_code
    assert done.stderr.startswith(f"oke-credential-provider: {Damaged.code}: ")
    assert done.stderr.endswith(f"| {Damaged.default_hint}\n")


def test_planted_folders_and_links_are_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "pid").write_text("1\n")
    setup = """
    cd /tmp
    ln -s /media/precious oke-credential-provider.aaaaaa
    mkdir -m 700 oke-credential-provider.bbbbbb oke-credential-provider.cccccc
    touch oke-credential-provider.bbbbbb/not-our-marker
    touch oke-credential-provider.cccccc/pid
    chown -R nobody oke-credential-provider.cccccc
    mkdir -m 755 oke-credential-provider.dddddd
    touch oke-credential-provider.dddddd/pid oke-credential-provider.eeeeee
    mkdir -m 700 oke-credential-provider.backups _MEI0000
    touch oke-credential-provider.backups/pid
    # The program's own folder, but its content is a link.
    mkdir -m 700 oke-credential-provider.ffffff
    echo 1 >oke-credential-provider.ffffff/pid
    ln -s /media/precious oke-credential-provider.ffffff/bin
    """
    done = on_node(one_file, tmp_path, setup)
    assert done.code == 0, done.stderr
    assert [Path(path).suffix for path in done.left] == [
        *(".aaaaaa", ".backups", ".bbbbbb", ".cccccc", ".dddddd", ".eeeeee")
    ]
    assert (precious / "pid").exists()


# Shell commands: make a folder for TMPDIR in $1 that another user can replace.
SWAPPED = {
    "another user's": 'mkdir "$1/other"; chown $OTHER "$1/other"; echo "$1/other"',
    "below another user's": 'mkdir -p "$1/other/t"; chown $OTHER "$1/other"; echo "$1/other/t"',
    "below a group-writable one": 'mkdir -p "$1/other/t"; chmod 775 "$1/other"; echo "$1/other/t"',
    "another user's link": (
        'mkdir -m 1777 "$1/all"; mkdir "$1/t"; ln -s "$1/t" "$1/all/link";'
        ' chown -h $OTHER "$1/all/link"; echo "$1/all/link"'
    ),
    "link below another user's": 'mkdir -p "$1/other/t"; chown $OTHER "$1/other"; ln -s other/t "$1/l"; echo "$1/l"',
}
SAFE = {
    "root's": 'mkdir "$1/t"; echo "$1/t/"',
    "in a sticky folder": 'mkdir -m 1777 "$1/all"; mkdir "$1/all/t"; echo "$1/all/../all/./t"',
    "root's links": 'mkdir "$1/t"; ln -s t "$1/l"; ln -s "$1/l/." "$1/m"; echo "$1/m"',
}


@pytest.mark.parametrize("how", [*SWAPPED, *SAFE])
def test_the_launcher_unpacks_only_where_nobody_else_can_swap_its_folder(
    how: str, tmp_path: Path
) -> None:
    script = {**SWAPPED, **SAFE}[how].replace("$OTHER", str(OTHER))
    made = subprocess.run(["sh", "-c", script, "sh", tmp_path], check=True, capture_output=True)
    with started(one_file(), Path(made.stdout.decode().strip())) as process:
        until = time.monotonic() + 10
        while (program := os.readlink(f"/proc/{process.pid}/exe")) == str(one_file()):
            assert time.monotonic() < until
            time.sleep(0.01)
        answer, _ = process.communicate(REQUEST, timeout=30)
    assert program.startswith(str(tmp_path)) == (how in SAFE)
    assert_response(answer)


# Another user's attack: replace the program as soon as it is unpacked in $1/t.
SWAP = """
mark=$2
cd "$1"
while :; do
    for found in t/oke-credential-provider.??????; do
        [ -d "$found" ] || continue
        mv t was
        mkdir -p "$found/bin/program"
        printf '#!/bin/sh\\nid -u >%s\\n' "$mark" >"$found/bin/program/oke-credential-provider"
        chmod 755 "$found/bin/program/oke-credential-provider"
        exit
    done
done
"""


def test_another_user_who_swaps_the_folder_below_his_own_has_nothing_run(open_folder: Path) -> None:
    home = open_folder / "home"
    (home / "t").mkdir(parents=True)
    os.chown(home, OTHER, OTHER)
    mark = home / "mark"
    with subprocess.Popen([*AS_OTHER, "bash", "-c", SWAP, "bash", home, mark]) as attacker:
        for _ in range(3):
            with started(one_file(), home / "t") as process:
                process.communicate(REQUEST, timeout=30)
        attacker.kill()
    assert not mark.exists()


@contextmanager
def started(program: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the program, which unpacks itself in ``folder`` and waits for its request."""
    with subprocess.Popen(
        [program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**BARE, "TMPDIR": str(folder)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def is_closed(pipe: int) -> bool:
    """True if the pipe has no writer left within two seconds."""
    ready, _, _ = select.select([pipe], [], [], 2)
    return bool(ready) and os.read(pipe, 1) == b""


@FORMS
def test_a_kill_at_any_moment_leaves_no_process_and_one_folder(form: Form, tmp_path: Path) -> None:
    for milliseconds in (*range(0, 20, 2), 25, 30, 40, 60, 100, 200):
        with started(form(), tmp_path) as process:
            time.sleep(milliseconds / 1000)
            process.kill()
            assert process.stdout is not None
            assert is_closed(process.stdout.fileno()), f"killed after {milliseconds} ms"
        assert len(list(tmp_path.iterdir())) <= 1, f"killed after {milliseconds} ms"
    assert_answers(form(), TMPDIR=str(tmp_path), **BARE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_not_removed(tmp_path: Path) -> None:
    with started(one_file(), tmp_path) as waiting:
        until = time.monotonic() + 10
        while not os.readlink(f"/proc/{waiting.pid}/exe").startswith(str(tmp_path)):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert_answers(one_file(), TMPDIR=str(tmp_path), **BARE)
        assert len(list(tmp_path.iterdir())) == 1
        answer, _ = waiting.communicate(REQUEST, timeout=30)
        assert_response(answer)
    assert list(tmp_path.iterdir()) == []


def test_concurrent_calls_do_not_remove_each_others_folders(tmp_path: Path) -> None:
    calls = [
        subprocess.Popen(
            [one_file()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**BARE, "TMPDIR": str(tmp_path)},
        )
        for _ in range(10)
    ]
    for call in calls:
        call.communicate(REQUEST, timeout=60)
    assert [call.returncode for call in calls] == [0] * 10
    assert list(tmp_path.iterdir()) == []


def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    with started(one_file(), tmp_path) as process:
        until = time.monotonic() + 10
        # Wait for the program's handler: before that, SIGTERM is like a kill.
        while not signal_is_caught(process.pid):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.terminate()
        process.wait(timeout=10)
    assert list(tmp_path.iterdir()) == []


def signal_is_caught(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) & 1 << 14)  # SIGTERM is 15


@FORMS
def test_answers_with_nothing_in_the_environment(form: Form) -> None:
    assert_answers(form())


@FORMS
def test_answers_under_umask_077_in_a_read_only_root(form: Form, tmp_path: Path) -> None:
    setup = "mount -o remount,bind,ro /"
    assert_answered(on_node(form, tmp_path, setup, umask="077"))
    assert_answered(on_node(form, tmp_path, umask="0777"))


@FORMS
@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
def test_closed_descriptors_give_an_error_and_no_hang(
    form: Form, closed: str, tmp_path: Path
) -> None:
    redirections = "".join(f" {fd}<&-" for fd in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$0"{redirections}', form()],
        input=REQUEST,
        env={**BARE, "TMPDIR": str(tmp_path)},
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == (0 if closed in ("1", "2") else 10), done.stderr
    assert list(tmp_path.iterdir()) == []


@FORMS
@pytest.mark.parametrize("name", ["libc.so.6", "libz.so.1", "libssl.so.3", "libpython"])
def test_libraries_of_the_node_do_not_reach_it(form: Form, name: str, tmp_path: Path) -> None:
    if name == "libpython":
        [name] = [path.name for path in (tree() / CONTENTS).glob("libpython3*")]
    (tmp_path / name).write_text("no library")
    library = str(tmp_path / name)
    variables = {"LD_LIBRARY_PATH": str(tmp_path), "LD_PRELOAD": library, "LD_AUDIT": library}
    assert_answers(form(), LD_BIND_NOW="1", **variables, **BARE)


@FORMS
def test_python_variables_of_the_node_do_not_reach_it(form: Form, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(99)")
    folders = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path)}
    assert_answers(form(), PYTHONVERBOSE="1", PYTHONUTF8="0", LC_ALL="C", **folders, **BARE)


def test_its_own_variables_do_not_reach_what_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """enter() is the first call of the program. The launcher sets these variables."""
    variables = {
        "LD_LIBRARY_PATH": f"/x/{CONTENTS}",
        "_PYI_ARCHIVE_FILE": "/x",
        "_PYI_PARENT_PROCESS_LEVEL": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    clean_environment()
    seen = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert "LD_LIBRARY_PATH" not in seen
    assert "_PYI_" not in seen


def test_the_installed_form_starts_by_any_name_and_link(tmp_path: Path) -> None:
    first = tmp_path / "credential-provider-oke"
    first.symlink_to(installed())
    second = tmp_path / "relative"
    second.symlink_to(first.name)
    for program in (first, second):
        assert_answers(program, **BARE)
    assert_answers(second, "something", **BARE)
