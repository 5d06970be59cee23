"""Attacks by another user of the node: root never runs or trusts files that others can replace.

test_nodes.py has the attacks on the one-file form's folder, test_install.py those on `install`.
"""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.namespace import Completed
from tests.support.processes import AS_OTHER, OTHER
from tests.support.processes import kubelet as kubelet_at
from tests.support.worker import (
    BIN_DIR,
    CONFIG,
    FLAGS,
    FOLDER,
    IMAGE,
    KUBELET,
    NAME,
    Node,
    config,
    record,
)
from tests.support.worker import node as node  # the fixture

pytestmark = pytest.mark.every_form

HOME = f"{FOLDER}/home"  # the other user's
OWNED = f"{FOLDER}/owned"  # exists if root ran a program of the other user
EVIL = f"#!/bin/sh\ntouch {OWNED}\necho Kubernetes v1.34.1\n"
PROXY = "http://evil.example:3128"
THEIR_FLAGS = (
    f"--image-credential-provider-config={HOME}/config.yaml",
    f"--image-credential-provider-bin-dir={HOME}",
)
PREFIX = f"{FOLDER}/lib"
HOME_BIN = f"{FOLDER}/bin-of-install"


@pytest.fixture
def home(node: Node) -> Iterator[Path]:
    """The other user's folder, with a config, a provider and a kubelet."""
    path = node.cloud.ns.path(HOME)
    node.write(f"{HOME}/config.yaml", config(env={"HTTPS_PROXY": PROXY}))
    node.write(f"{HOME}/{NAME}", EVIL, 0o755)
    node.write(f"{HOME}/kubelet", EVIL, 0o755)
    give(path)
    yield path
    assert not node.cloud.ns.path(OWNED).exists()


def give(path: Path) -> None:
    """Make the other user the owner of a folder and its content."""
    for each in (path, *path.rglob("*")):
        os.chown(each, OTHER, OTHER, follow_symlinks=False)


def started(command: str, name: str) -> str:
    """Shell commands: start a process, and wait until a process executes the file `name`."""
    return (
        f"{command} &\n"
        f'until for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" = "{name}" ] && break; done;'
        " do sleep 0.01; done"
    )


# A set-uid program that waits for a password. Its user chose its name and arguments, and its effective
# user is root.
SU = started(
    f"""sleep 60 | HTTPS_PROXY={PROXY} {shlex.join(AS_OTHER)} bash -c \\
    'exec -a {HOME}/kubelet su -- root "$@"' su {shlex.join(THEIR_FLAGS)} >/dev/null 2>&1""",
    os.path.realpath(shutil.which("su") or "/bin/su"),
)
# Root runs it with arguments of the other user, like sudo while it waits for a password.
SUDO = started(
    f"""bash -c 'exec -a {HOME}/kubelet bash -c "sleep 60; :" "$@"' x {shlex.join(THEIR_FLAGS)}""",
    os.path.realpath("/usr/bin/sleep"),
)
THEIR_ARGS = shlex.join(THEIR_FLAGS)
# Like a container of podman or docker.
IN_MOUNTS = started(f"unshare --mount {KUBELET} {THEIR_ARGS}", KUBELET)
IN_PIDS = started(f"unshare --pid --fork {KUBELET} {THEIR_ARGS}", KUBELET)
AS_USER = started(f"{shlex.join(AS_OTHER)} {KUBELET} {THEIR_ARGS}", KUBELET)
IMPOSTORS = {
    "set-uid": (SU, f"is user {OTHER}'s"),
    "argv": (SUDO, "runs another program"),
    "mount namespace": (IN_MOUNTS, "is in a container"),
    "pid namespace": (IN_PIDS, "is in a container"),
    "user": (AS_USER, f"is user {OTHER}'s"),
}


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_who_only_calls_himself_kubelet_is_neither_believed_nor_run(
    node: Node, home: Path, impostor: str
) -> None:
    node.before, why = IMPOSTORS[impostor]
    checked = node.check()
    assert checked.causes() == {}
    assert CONFIG in checked.result("provider config")
    node.flags = None
    checked = node.check()
    assert checked.cause("kubelet") == "no-kubelet"
    assert why in checked.result("kubelet")
    assert checked.cause("provider config") == "no-config"
    assert node.cloud.control.report().count("proxy") == 0


# Shell commands that let another user replace the file $1, which is alone in its folder.
UNSAFE = {
    "owned": 'chown $OTHER "$1"',
    "written by a group": 'chmod 775 "$1"',
    "folder owned": 'chown $OTHER "$(dirname "$1")"',
    "folder written by a group": 'chmod 775 "$(dirname "$1")"',
    "folder written by all": 'chmod 777 "$(dirname "$1")"',
    "sticky folder": 'chmod 1777 "$(dirname "$1")"; chown $OTHER "$1"',
    "folder above owned": 'chown $OTHER "$(dirname "$(dirname "$1")")"',
    "another user's link": 'cd "$(dirname "$1")/.."; mv apart real; ln -s real apart; chown -h $OTHER apart',
    "link into another user's folder": 'mv "$1" $HOME; chown 0 $HOME/*; ln -s $HOME/${1##*/} "$1"',
}
APART = f"{FOLDER}/safe/apart"


def unsafe(how: str, path: str) -> str:
    """Shell commands: make `path` replaceable."""
    return f"(set -- {path}; OTHER={OTHER} HOME={HOME}; {UNSAFE[how]})"


# Without the link: a running kubelet does not show the path by which it was started.
@pytest.mark.parametrize("how", [how for how in UNSAFE if how != "another user's link"])
def test_a_kubelet_that_another_user_can_replace_is_a_finding_and_not_run(
    node: Node, home: Path, how: str
) -> None:
    path = f"{APART}/kubelet"
    node.write(path, "")
    kubelet_at(node.cloud.ns.path(path))
    node.flags = None
    if "link" in how:
        (home / "kubelet").unlink()
        start = started(f"{path} {THEIR_ARGS}", f"{HOME}/kubelet")
        node.before = f"{unsafe(how, path)}\n{start}"
    else:
        node.before = f"{started(f'{path} {THEIR_ARGS}', path)}\n{unsafe(how, path)}"
    checked = node.check()
    assert checked.code == 1
    assert checked.cause("kubelet") == "kubelet-replaceable"
    assert "controls the node" in checked.result("kubelet")
    assert checked.cause("provider config") == "no-config"
    assert node.cloud.control.report().count("proxy") == 0


@pytest.mark.parametrize("how", UNSAFE)
def test_a_provider_that_another_user_can_replace_is_a_finding_and_not_run(
    node: Node, home: Path, how: str
) -> None:
    path = f"{APART}/{NAME}"
    node.write(path, EVIL, 0o755)
    (home / NAME).unlink()
    node.flags = (FLAGS[0], f"--image-credential-provider-bin-dir={APART}")
    node.before = unsafe(how, path)
    checked = node.check()
    assert checked.code == 1
    assert checked.causes() == {"programs": "program-replaceable"}
    assert "controls the node" in checked.result("programs")
    assert "chown root:root" in checked.advice("programs")


@pytest.mark.parametrize("how", ["owned", "folder written by all", "missing"])
def test_the_advice_runs_no_program_that_another_user_can_replace(
    node: Node, home: Path, how: str
) -> None:
    path = f"{APART}/{NAME}"
    node.write(path, EVIL, 0o755)
    node.flags = (f"--image-credential-provider-bin-dir={APART}",)
    if how == "missing":
        node.before = f"rm {path}; chmod 1777 {APART}"
    else:
        node.before = unsafe(how, path)
    step = node.check().step("kubelet")
    assert step["cause"] == "kubelet-without-one-flag"
    assert not [line for line in step["advice"] if line.startswith(" ")]
    assert "chown root:root" in step["advice"][1]


def test_another_users_record_next_to_the_unpacked_program_is_not_trusted(
    node: Node, home: Path
) -> None:
    node.write(f"{FOLDER}/tmp/installed.json", record(HOME, {f"{HOME}/config.yaml": ""}))
    os.chown(node.cloud.ns.path(f"{FOLDER}/tmp/installed.json"), OTHER, OTHER)
    node.cloud.ns.path(f"{FOLDER}/tmp").chmod(0o1777)
    node.flags = ()
    checked = node.check(env={"TMPDIR": f"{FOLDER}/tmp"})
    assert checked.cause("kubelet") == "kubelet-without-flags"
    assert HOME not in json.dumps(checked.content)


def test_roots_files_in_a_sticky_folder_are_trusted(node: Node) -> None:
    node.before = f"mkdir -m 1777 {FOLDER}/sticky; mv {BIN_DIR} {FOLDER}/sticky/"
    node.flags = (FLAGS[0], f"--image-credential-provider-bin-dir={FOLDER}/sticky/bin")
    assert node.check().causes() == {}


def test_a_provider_that_is_swapped_all_the_time_is_never_run(node: Node, home: Path) -> None:
    swap = f"ln -sfn {{}} {HOME}/next; mv -T {HOME}/next {HOME}/current"
    loop = f"while :; do {swap.format(HOME)}; {swap.format(BIN_DIR)}; done 2>/dev/null"
    node.cloud.ns.path(APART).mkdir(parents=True)
    node.cloud.ns.path(f"{APART}/{NAME}").symlink_to(f"{HOME}/current/{NAME}")
    node.flags = (FLAGS[0], f"--image-credential-provider-bin-dir={APART}")
    node.before = (
        f"{shlex.join(AS_OTHER)} sh -c {shlex.quote(loop)} &\n"
        f"until [ -e {APART}/{NAME} ]; do sleep 0.01; done"
    )
    for _ in range(3):
        assert node.check().causes() == {"programs": "program-replaceable"}


@pytest.mark.parametrize("how", ["file", "folder"])
def test_a_config_that_another_user_can_replace_is_a_finding_and_not_believed(
    node: Node, home: Path, how: str
) -> None:
    path = f"{FOLDER}/apart/config.yaml"
    node.write(path, config(env={"HTTPS_PROXY": PROXY}))
    named = os.path.dirname(path) if how == "folder" else path
    node.flags = (f"--image-credential-provider-config={named}", *FLAGS[1:])
    node.before = f"chown {OTHER} {path}"
    checked = node.check()
    assert checked.code == 1
    assert checked.causes() == {"provider config": "config-replaceable"}
    assert f"{path} belongs to user {OTHER}" in checked.result("provider config")
    assert node.cloud.control.report().count("proxy") == 0


def test_a_settings_file_that_another_user_can_replace_is_a_finding(node: Node, home: Path) -> None:
    node.write(f"{HOME}/settings.yaml", "ocirHosts: evil.example\n")
    node.config(config(more=f"  args: [-config, {HOME}/settings.yaml]"))
    checked = node.check()
    assert checked.causes() == {"settings": "settings-replaceable"}
    assert node.cloud.control.report().connections.keys() <= {"imds"}


def test_after_an_upgrade_the_running_kubelet_is_asked(node: Node) -> None:
    new = kubelet_at(node.cloud.ns.path(f"{FOLDER}/new"), "1.33.5")
    assert new.exists()
    command = f"{KUBELET} {shlex.join(FLAGS)}"
    node.before = started(command, KUBELET) + f"\nmv {FOLDER}/new {KUBELET}"
    node.flags = None
    checked = node.check()
    assert checked.causes() == {}
    assert "kubelet 1.34" in checked.result("kubelet")
    node.before = started(command, KUBELET) + f"\nchown {OTHER} {KUBELET}; rm {KUBELET}"
    assert node.check().cause("kubelet") == "kubelet-replaceable"


def cgroup(path: str) -> str:
    """Shell commands: put the last started kubelet into this cgroup."""
    return (
        f'for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" = {KUBELET} ] && last=$p; done\n'
        f"echo 0::{path} >{FOLDER}/cgroup; mount --bind {FOLDER}/cgroup $last/cgroup"
    )


def test_of_several_kubelets_systemds_is_checked(node: Node) -> None:
    first = started(f"{KUBELET}", KUBELET)
    second = started(f"{KUBELET} {shlex.join(FLAGS)}", KUBELET)
    node.flags = None
    # One after the other, so that the PIDs increase.
    wait = "\nsleep 0.2\n"
    node.before = first + wait + second + wait
    assert node.check().cause("kubelet") == "kubelet-without-flags"
    for path in ("/system.slice/kubelet.service", "/../../system.slice/kubelet.service"):
        node.before = first + wait + second + wait + cgroup(path)
        checked = node.check()
        assert checked.causes() == {"kubelet": "several-kubelets"}
        assert "root runs 2 kubelets" in checked.result("kubelet")
        assert checked.code == 0
    for path in ("/user.slice/system.slice/kubelet.service", "/system.slice/kubelet.service/x"):
        node.before = first + wait + second + wait + cgroup(path)
        assert node.check().cause("kubelet") == "kubelet-without-flags"


def test_the_nodes_kubelet_is_found_from_a_debug_pod_with_chroot(node: Node) -> None:
    host = f"{FOLDER}/host"
    node.cloud.ns.path(host).mkdir()
    inside = f'mount --rbind / {host} && exec chroot {host} "$@"'
    node.program = node.program.behind("unshare", "--mount", "sh", "-c", inside, "sh")
    checked = node.check()
    assert checked.causes() == {}
    assert "kubelet 1.34" in checked.result("kubelet")


# ---- uninstall -----------------------------------------------------------------------------------

STORE = "/run/oke-credential-provider"


def uninstall(node: Node, prefix: str = PREFIX, *args: str) -> Completed:
    return node.run("uninstall", "--prefix", prefix, *args)


def installed(node: Node, prefix: str = PREFIX, bin_dir: str = BIN_DIR) -> Path:
    """Write the record of an installation and its config. Returns the config."""
    node.write(f"{FOLDER}/etc/config.yaml", "kind: CredentialProviderConfig\n")
    written = node.cloud.ns.path(f"{FOLDER}/etc/config.yaml")
    digest = hashlib.sha256(written.read_bytes()).hexdigest()
    node.write(f"{prefix}/installed.json", record(bin_dir, {f"{FOLDER}/etc/config.yaml": digest}))
    return written


@pytest.mark.parametrize("first", [*IMPOSTORS, "another kubelet"])
def test_uninstall_respects_each_kubelet_whoever_else_calls_himself_so(
    node: Node, home: Path, first: str
) -> None:
    written = installed(node)
    other = started(KUBELET, KUBELET)
    node.before = IMPOSTORS[first][0] if first in IMPOSTORS else f"{other}\nsleep 0.1"
    done = uninstall(node)
    assert done.returncode == 74
    assert f"--image-credential-provider-bin-dir={BIN_DIR}" in done.stderr.decode()
    assert written.exists()


def test_uninstall_reads_flags_like_the_kubelet(node: Node) -> None:
    written = installed(node)
    node.flags = tuple(
        word.replace("image-credential-provider", "image_credential_provider") for word in FLAGS
    )
    assert uninstall(node).returncode == 74
    assert written.exists()


def test_uninstall_respects_a_kubelet_that_another_user_can_replace(node: Node) -> None:
    written = installed(node)
    node.before = f"mkdir {FOLDER}/theirs; mv {KUBELET} {FOLDER}/theirs; chmod 777 {FOLDER}/theirs"
    running = f"{FOLDER}/theirs/kubelet"
    node.before += f"\n{started(f'{running} {shlex.join(FLAGS)}', running)}"
    node.flags = None
    assert uninstall(node).returncode == 74
    assert written.exists()


@pytest.mark.parametrize("impostor", ["set-uid", "argv", "user"])
def test_nobody_else_keeps_root_from_uninstalling(node: Node, home: Path, impostor: str) -> None:
    written = installed(node, bin_dir=HOME_BIN)
    node.flags = None
    node.before = IMPOSTORS[impostor][0].replace(f"={HOME}", f"={HOME_BIN}")
    uninstall(node).check()
    assert not written.exists()


def test_uninstall_executes_nothing(node: Node) -> None:
    installed(node)
    log = node.cloud.ns.path(f"{FOLDER}/log")
    strace = ("strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none")
    node.program = node.program.behind(*strace, "-o", f"{FOLDER}/log")
    assert uninstall(node).returncode == 74
    # The program's own start: the interpreter of a script, or the launcher and the unpacked program.
    lines = log.read_text().splitlines()
    assert len({line.split()[0] for line in lines}) == 1
    assert not [line for line in lines if "--version" in line]


@pytest.mark.parametrize("owned", ["prefix", "bin-dir"])
def test_uninstall_believes_no_record_that_another_user_can_replace(
    node: Node, home: Path, owned: str
) -> None:
    prefix, bin_dir = (f"{HOME}/lib", BIN_DIR) if owned == "prefix" else (PREFIX, HOME)
    written = installed(node, prefix, bin_dir)
    node.flags = None
    for args in ((), ("--force",), ("--dry-run",)):
        done = uninstall(node, prefix, *args)
        assert done.returncode == 73
        assert f"{HOME} belongs to user {OTHER}" in done.stderr.decode()
    assert written.exists()


def test_uninstall_removes_the_shared_tokens_and_nothing_else_beside_them(node: Node) -> None:
    node.flags = None
    store = node.cloud.ns.path(STORE)
    for other in ("notes", ""):
        installed(node)
        assert node.program.credentials(node.cloud, IMAGE).password
        assert list(store.iterdir())
        if other:
            (store / other).write_text("somebody's")
        dry = uninstall(node, PREFIX, "--dry-run")
        assert dry.returncode == 2
        said = dry.stdout.decode()
        assert f"{STORE}: would be removed" in said
        assert len(list(store.iterdir())) > bool(other)
        assert f"{STORE}: removed" in uninstall(node).check().stdout.decode()
        assert [path.name for path in store.glob("*")] == ([other] if other else [])
        if other:
            (store / other).unlink()
    assert not store.exists()


@pytest.mark.parametrize("what", ["another user's", "a link"])
def test_uninstall_keeps_a_cache_folder_of_another_user(node: Node, what: str) -> None:
    installed(node)
    node.flags = None
    target = STORE if what == "another user's" else f"{FOLDER}/elsewhere"
    node.write(f"{target}/v1-fra.ocir.io-00000000", "{}")
    if what == "a link":
        node.cloud.ns.path(target).chmod(0o700)
        node.cloud.ns.path(STORE).symlink_to(target)
    else:
        os.chown(node.cloud.ns.path(STORE), OTHER, OTHER)
    assert STORE not in uninstall(node).check().stdout.decode()
    assert node.cloud.ns.path(f"{target}/v1-fra.ocir.io-00000000").exists()
