"""`enable` and `disable` on a node with a real systemd and a strict stand-in for the kubelet."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Program, programs
from tests.e2e.test_install import run
from tests.support import built
from tests.support.processes import Done
from tests.support.systemd_machine import CONFIG, DROP_INS, Machine, cgroup_versions

DROP_IN = "zz-oke-credential-provider.conf"
TRIAL = "/run/systemd/system/kubelet.service.d/zz-oke-credential-provider.trial.conf"
GUARD = "oke-credential-provider-guard.service"
OWN = "--config=/etc/kubernetes/kubelet.yaml"
FLAGS = [
    f"--image-credential-provider-config={CONFIG}",
    "--image-credential-provider-bin-dir=/usr/local/bin",
]
OTHER_FLAGS = (
    "--image-credential-provider-config=/etc/kubelet/ecr.yaml"
    " --image-credential-provider-bin-dir=/opt/bin"
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A node that is not booted yet, with the source form and a valid config."""
    machine = Machine(tmp_path / "machine")
    machine.program(programs()[0].argv)
    machine.provider_config()
    yield machine
    machine.power_off()


def booted(machine: Machine) -> Machine:
    machine.boot().wait_for_kubelet()
    return machine


def enable(machine: Machine, *args: str) -> Done:
    return machine.oke("enable", "--watch", "0", *args)


def disable(machine: Machine, *args: str) -> Done:
    return machine.oke("disable", "--watch", "0", *args)


def assert_untouched(machine: Machine, pid: int) -> None:
    """Check that nothing on the node has changed and that the same kubelet runs."""
    assert machine.kubelet_pid == pid
    assert DROP_IN not in machine.drop_ins
    assert_settled(machine)


def assert_settled(machine: Machine) -> None:
    """Check that nothing of a trial is left."""
    wait_for(lambda: machine.show("ActiveState", GUARD) == "inactive")
    assert machine.run("test", "-e", TRIAL).code == 1
    assert machine.show("NeedDaemonReload") == "no"
    assert machine.run("systemctl", "--failed", "--quiet").stdout == ""


# ---- the result --------------------------------------------------------------------------------


@pytest.mark.every_form
def test_enable_survives_a_power_failure_and_disable_undoes_it(
    machine: Machine, program: Program
) -> None:
    machine.program(program.argv)
    booted(machine)
    done = machine.oke("enable", "--watch", "1").check()
    assert "4 of 4 containers still run" in done.stdout
    assert machine.command_line == [OWN, *FLAGS]
    assert_settled(machine)
    pid = machine.kubelet_pid
    assert "already enabled" in enable(machine).check().stdout
    assert machine.kubelet_pid == pid
    machine.power_off()
    booted(machine)
    assert machine.command_line == [OWN, *FLAGS]
    disable(machine).check()
    assert machine.command_line == [OWN]
    assert machine.drop_ins == []
    assert_settled(machine)
    pid = machine.kubelet_pid
    assert "not enabled" in disable(machine).check().stdout
    assert machine.kubelet_pid == pid


@pytest.mark.parametrize("cgroup", cgroup_versions())
def test_both_cgroup_versions(machine: Machine, cgroup: str) -> None:
    machine.cgroup = cgroup
    booted(machine)
    assert "4 of 4 containers still run" in enable(machine).check().stdout
    assert machine.command_line == [OWN, *FLAGS]


UNITS = {
    "a variable of a drop-in": (
        """
        [Service]
        ExecStart=/usr/bin/kubelet $KUBELET_DEFAULT_ARGS $KUBELET_EXTRA_ARGS
        """,
        """
        [Service]
        Environment="KUBELET_DEFAULT_ARGS=--v=2" "KUBELET_EXTRA_ARGS=--node-labels=a=b --config=/etc/kubernetes/kubelet.yaml"
        """,
        ["--v=2", "--node-labels=a=b", OWN],
    ),
    "several lines with a comment": (
        """
        [Service]
        ExecStart=/usr/bin/kubelet \\
            --config=/etc/kubernetes/kubelet.yaml \\
            # the node's name
            --node-labels="a=b" \\
            --hostname-override=%H
        """,
        "[Service]\nRestartSec=1\n",
        [OWN, "--node-labels=a=b", "--hostname-override=node-1"],
    ),
    "another command in a drop-in": (
        "[Service]\nExecStart=/usr/bin/kubelet --v=9\n",
        """
        [Service]
        ExecStart=
        ExecStart=@/usr/bin/kubelet kubelet $ARGS
        EnvironmentFile=-/etc/default/kubelet
        """,
        ["--v=3"],
    ),
}


@pytest.mark.parametrize("name", UNITS)
def test_the_nodes_own_flags_are_kept(machine: Machine, name: str) -> None:
    unit, drop_in, own = UNITS[name]
    machine.write("etc/systemd/system/kubelet.service", unit)
    machine.drop_in("00-default.conf", drop_in)
    machine.write("etc/default/kubelet", "ARGS=--v=3\n")
    booted(machine)
    assert machine.command_line == own
    enable(machine).check()
    assert machine.command_line == [*own, *FLAGS]


def test_later_changes_of_other_files_take_effect(machine: Machine) -> None:
    """The drop-in keeps variables unexpanded, so it does not fix their current values."""
    unit, _, _ = UNITS["a variable of a drop-in"]
    machine.write("etc/systemd/system/kubelet.service", unit)
    machine.drop_in("10.conf", "[Service]\nEnvironmentFile=/etc/default/kubelet\n")
    machine.write("etc/default/kubelet", "KUBELET_EXTRA_ARGS=--v=1\n")
    booted(machine)
    enable(machine).check()
    machine.write("etc/default/kubelet", "KUBELET_EXTRA_ARGS=--v=1 --node-labels=new=1\n")
    machine.drop_in(
        "20.conf", '[Service]\nEnvironment="KUBELET_DEFAULT_ARGS=--hostname-override=x"\n'
    )
    machine.run("systemctl", "daemon-reload").check()
    machine.run("systemctl", "restart", "kubelet").check()
    assert machine.command_line == ["--hostname-override=x", "--v=1", "--node-labels=new=1", *FLAGS]


def test_an_outdated_drop_in_is_derived_again_and_tried_before_it_is_kept(
    machine: Machine,
) -> None:
    booted(machine)
    enable(machine).check()
    old = machine.path(f"{DROP_INS}/{DROP_IN}").read_text()
    unit = "[Service]\nExecStart=/usr/bin/kubelet --v=4\nRestart=always\n"
    machine.write("etc/systemd/system/kubelet.service", unit)
    machine.run("systemctl", "daemon-reload").check()
    machine.misbehave(healthz="fails")
    assert enable(machine, "--timeout", "2").code == 77  # the old drop-in fails, too
    assert machine.path(f"{DROP_INS}/{DROP_IN}").read_text() == old
    machine.misbehave()
    machine.run("systemctl", "restart", "kubelet").check()
    machine.wait_for_kubelet()
    enable(machine).check()
    assert machine.command_line == ["--v=4", *FLAGS]


HEALTHZ = {
    "flags": ("--healthz-port=10300 --healthz-bind-address=0.0.0.0", "", 10300),
    "config": ("", "healthzPort: 10301\n", 10301),
    "flag before config": ("--healthz-port 10302", "healthzPort: 10303\n", 10302),
}


@pytest.mark.parametrize("name", HEALTHZ)
def test_healthz_is_requested_at_the_kubelets_address(machine: Machine, name: str) -> None:
    flags, config, port = HEALTHZ[name]
    machine.write(
        "etc/systemd/system/kubelet.service",
        f"[Service]\nExecStart=/usr/bin/kubelet {OWN} {flags}\n",
    )
    machine.write("etc/kubernetes/kubelet.yaml", f"kind: KubeletConfiguration\n{config}")
    machine.misbehave(healthz="fails")
    machine.boot().wait_for_kubelet(port)
    done = enable(machine, "--timeout", "2")
    assert done.code == 76
    assert f":{port}/healthz returned 500" in done.stderr
    machine.misbehave()
    assert "healthz responds" in enable(machine).check().stdout


def test_without_healthz_the_other_signs_decide(machine: Machine) -> None:
    machine.write("etc/kubernetes/kubelet.yaml", "kind: KubeletConfiguration\nhealthzPort: 0\n")
    machine.boot()
    assert "healthz is off" in enable(machine).check().stdout


# ---- a kubelet that does not stay healthy --------------------------------------------------------

SICK: dict[str, tuple[dict[str, object], list[str], str]] = {
    "hangs": ({"healthz": "hangs"}, ["--timeout", "2"], "TimeoutError"),
    "does not listen": ({"healthz": "nothing"}, ["--timeout", "2"], "Connection refused"),
    "fails": ({"healthz": "fails"}, ["--timeout", "2"], "returned 500"),
    "ends at once": ({"exit_after": 0}, [], "it exited"),
    "kills containers": ({"kills": "containers"}, [], "only 0 of 4 containers"),
}


def assert_rolled_back(machine: Machine, done: Done) -> None:
    assert done.code == 76, done
    assert "rolled-back" in done.stderr
    machine.wait_for_kubelet()
    assert machine.command_line == [OWN]
    assert DROP_IN not in machine.drop_ins
    assert_settled(machine)


@pytest.mark.parametrize("name", SICK)
def test_a_kubelet_that_does_not_become_healthy_is_rolled_back(machine: Machine, name: str) -> None:
    behavior, args, reason = SICK[name]
    machine.misbehave(**behavior)
    booted(machine)
    done = enable(machine, *args)
    assert reason in done.stderr
    assert_rolled_back(machine, done)


def test_a_kubelet_that_crashes_after_20_seconds_is_rolled_back(machine: Machine) -> None:
    machine.misbehave(exit_after=20)
    machine.drop_in("10.conf", "[Service]\nRestartSec=1ms\n")  # almost never seen as not running
    booted(machine)
    started = time.monotonic()
    done = machine.oke("enable")  # with the default options
    assert 19 < time.monotonic() - started < 45
    assert "watching it for 60 s" in done.stdout
    assert "the stand-in ends" in done.stdout and "the stand-in ends" in done.stderr
    assert (done.stdout + done.stderr).replace("\n", "").isprintable()
    assert_rolled_back(machine, done)


def test_a_unit_that_reached_its_start_limit_is_rolled_back(machine: Machine) -> None:
    """systemd refuses to start a unit that reached its start limit, until reset-failed."""
    machine.misbehave(exit_after=0)
    machine.drop_in("10.conf", "[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h\n")
    booted(machine)
    assert_rolled_back(machine, enable(machine))


def test_a_kubelet_that_fails_even_after_the_rollback_is_reported(machine: Machine) -> None:
    booted(machine)
    machine.misbehave(exit_after=0, always=True)
    done = enable(machine)
    assert done.code == 77
    assert "kubelet-unhealthy" in done.stderr
    assert machine.drop_ins == []


def test_a_healthz_response_of_another_user_does_not_count(machine: Machine) -> None:
    machine.misbehave(healthz="nothing")
    booted(machine)
    server = (
        "import os, socket, time\n"
        "os.setuid(65534)\n"
        "listener = socket.socket()\n"
        "listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "while True:\n"
        "    try: listener.bind(('127.0.0.1', 10248)); break\n"
        "    except OSError: time.sleep(0.01)\n"
        "listener.listen()\n"
        "while True: listener.accept()[0].send(b'HTTP/1.0 200 OK\\r\\n\\r\\nok')\n"
    )
    machine.popen(sys.executable, "-c", server)
    done = enable(machine, "--timeout", "2")
    assert "held by user 65534" in done.stderr
    assert done.code == 77  # also after the rollback, because the port is in use


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_rolls_back_before_it_ends(
    machine: Machine, number: signal.Signals
) -> None:
    booted(machine)
    process = machine.popen("/usr/local/bin/oke-credential-provider", "enable")
    wait_for(lambda: machine.command_line == [OWN, *FLAGS])
    assert enable(machine).code == 75  # the lock is held
    inside = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(inside), number)
    _, stderr = process.communicate(timeout=30)
    assert_rolled_back(machine, Done(process.returncode, "", stderr.decode()))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- refusals: nothing is changed ----------------------------------------------------------------


def test_existing_flags_with_the_same_values_are_found(machine: Machine) -> None:
    machine.drop_in("10.conf", "[Service]\nEnvironmentFile=/etc/default/kubelet\n")
    machine.write(
        "etc/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet $ARGS\n"
    )
    machine.write("etc/default/kubelet", f'# ours\nARGS="{" ".join(FLAGS)}/"\n')
    booted(machine)
    pid = machine.kubelet_pid
    done = enable(machine).check()
    assert "already enabled: /etc/default/kubelet" in done.stdout
    assert_untouched(machine, pid)


def test_flags_with_underscores_are_found(machine: Machine) -> None:
    """The kubelet treats - and _ as equal."""
    other = OTHER_FLAGS.replace("-", "_").replace("__image", "--image")
    machine.write("etc/kubelet/ecr.yaml", machine.path(CONFIG[1:]).read_text())
    machine.write("opt/bin/oke-credential-provider", "#!/bin/sh\n", 0o755)
    unit = f"[Service]\nExecStart=/usr/bin/kubelet {other}\n"
    machine.write("etc/systemd/system/kubelet.service", unit)
    booted(machine)
    pid = machine.kubelet_pid
    done = enable(machine)
    assert done.code == 75, done
    assert "already sets --image-credential-provider-config=/etc/kubelet/ecr.yaml" in done.stderr
    assert_untouched(machine, pid)


WITH_OTHER_FLAGS = {
    "etc/systemd/system/kubelet.service": "[Service]\nExecStart=/usr/bin/kubelet {}\n",
    f"{DROP_INS}/10.conf": '[Service]\nEnvironment="ARGS={}"\n',
    "etc/default/kubelet": "ARGS='{}'\n",
}


@pytest.mark.parametrize("path", WITH_OTHER_FLAGS)
def test_existing_flags_with_other_values_are_refused_and_their_file_is_named(
    machine: Machine, path: str
) -> None:
    machine.write(
        "etc/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet $ARGS\n"
    )
    machine.drop_in("00.conf", "[Service]\nEnvironmentFile=-/etc/default/kubelet\n")
    machine.write("etc/kubelet/ecr.yaml", machine.path(CONFIG[1:]).read_text())
    machine.write("opt/bin/oke-credential-provider", "#!/bin/sh\n", 0o755)
    machine.write(path, WITH_OTHER_FLAGS[path].format(OTHER_FLAGS))
    booted(machine)
    pid = machine.kubelet_pid
    done = enable(machine)
    assert done.code == 75
    assert (
        f"/{path} already sets --image-credential-provider-config=/etc/kubelet/ecr.yaml"
        in done.stderr
    )
    assert_untouched(machine, pid)


# The kubelet's command and variables, and the error of `enable`.
HIDDEN_FLAGS = {
    "quoted words": (
        'ExecStart=/usr/bin/kubelet "--image-credential-provider-config" "/etc/kubelet/ecr.yaml"'
        " '--image-credential-provider-bin-dir' /opt/bin",
        "kubelet.service already sets --image-credential-provider-config=/etc/kubelet/ecr.yaml",
    ),
    "a part in a variable": (
        'Environment="P=--image-credential-provider" F=/etc/kubelet/ecr.yaml\n'
        "ExecStart=/usr/bin/kubelet ${P}-config=${F} ${P}-bin-dir=/opt/bin",
        "the kubelet already runs with --image-credential-provider-config=/etc/kubelet/ecr.yaml",
    ),
}


@pytest.mark.parametrize("how", HIDDEN_FLAGS)
def test_flags_that_are_written_in_another_way_are_not_overridden(
    machine: Machine, how: str
) -> None:
    text, reason = HIDDEN_FLAGS[how]
    machine.write("etc/kubelet/ecr.yaml", machine.path(CONFIG[1:]).read_text())
    machine.write("opt/bin/oke-credential-provider", "#!/bin/sh\n", 0o755)
    machine.write("etc/systemd/system/kubelet.service", f"[Service]\n{text}\n")
    booted(machine)
    pid = machine.kubelet_pid
    done = enable(machine)
    assert done.code == 75, done
    assert reason in done.stderr
    assert_untouched(machine, pid)


def _unit(text: str) -> dict[str, str | None]:
    return {"etc/systemd/system/kubelet.service": f"[Service]\n{text}\n"}


# Files that differ when the node boots (None: deleted), and the error of `enable`.
REFUSED_UNITS: dict[str, tuple[dict[str, str | None], str]] = {
    "a shell": (_unit("ExecStart=/bin/sh -c 'exec /usr/bin/kubelet'"), "starts /bin/sh, not"),
    "two commands": (
        _unit("Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStart=/bin/true"),
        "the kubelet is not running",
    ),
    "a later drop-in": (
        {f"{DROP_INS}/zzz.conf": "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --v=1\n"},
        "zzz.conf sets ExecStart= and sorts after",
    ),
    "a bad config": (
        {CONFIG[1:]: "kind: CredentialProviderConfig\nproviders: []\n"},
        "Object 'apiVersion' is missing",
    ),
    "no config": ({CONFIG[1:]: None}, "No such file or directory"),
    "a missing program": ({"usr/local/bin/other": None}, "/usr/local/bin/other: not there"),
    "k3s": (
        {
            "etc/systemd/system/kubelet.service": None,
            "etc/systemd/system/k3s-agent.service": "[Service]\nExecStart=/bin/true\n",
        },
        "k3s runs the kubelet inside its own process (k3s-agent.service)",
    ),
    "no unit": ({"etc/systemd/system/kubelet.service": None}, "there is no kubelet.service here"),
}


@pytest.mark.parametrize("name", REFUSED_UNITS)
def test_a_node_that_cannot_be_changed_safely_is_refused(machine: Machine, name: str) -> None:
    files, reason = REFUSED_UNITS[name]
    for path, text in files.items():
        if text is not None:
            machine.write(path, text)
        elif path == "usr/local/bin/other":
            machine.provider_config(
                more="- {name: other, apiVersion: credentialprovider.kubelet.k8s.io/v1, defaultCacheDuration: 1m, matchImages: [a.b]}"
            )
        else:
            machine.path(path).unlink()
    machine.boot()
    if "kubelet.service" not in str(files) or "zzz" in str(files):
        machine.wait_for_kubelet()
    pid = machine.kubelet_pid
    done = enable(machine)
    assert done.code == 75, done
    assert reason in done.stderr
    assert_untouched(machine, pid)


# Commands that change a running node, and the error of `enable`.
REFUSED_STATES = {
    "not running": ("systemctl stop kubelet", "the kubelet is not running"),
    "not reloaded": (
        "echo '[Service]' >/etc/systemd/system/kubelet.service.d/new.conf",
        "were changed and are not in effect yet",
    ),
    "its config changed since": (
        "touch --date='10 minutes' /etc/kubernetes/kubelet.yaml",
        "/etc/kubernetes/kubelet.yaml was changed after the kubelet started",
    ),
    "others can replace the program": (
        "chmod 777 /usr/local/bin",
        "users other than root can replace",
    ),
    "another user owns the config": (f"chown 1000 {CONFIG}", "users other than root can replace"),
    "no systemd": ("mount -t tmpfs tmpfs /run", "systemd is not the init system here"),
}


@pytest.mark.parametrize("name", REFUSED_STATES)
def test_a_node_in_a_wrong_state_is_refused(machine: Machine, name: str) -> None:
    command, reason = REFUSED_STATES[name]
    machine.drop_in("00.conf", "[Service]\n")
    booted(machine)
    script = f"{command} && exec /usr/local/bin/oke-credential-provider enable --watch 0"
    done = machine.run("unshare", "--mount", "sh", "-c", script)
    assert done.code == 75, done
    assert reason in done.stderr
    assert DROP_IN not in machine.drop_ins
    assert machine.command_line == ([] if name == "not running" else [OWN])


def test_only_root_can_run_it(machine: Machine) -> None:
    booted(machine)
    for action in ("enable", "disable"):
        done = machine.run("unshare", "--user", "/usr/local/bin/oke-credential-provider", action)
        assert done.code == 75
        assert "only root can change the kubelet's unit" in done.stderr


# ---- dry run, JSON, and the other commands -------------------------------------------------------


def test_a_dry_run_shows_the_drop_in_and_changes_nothing(machine: Machine) -> None:
    booted(machine)
    pid = machine.kubelet_pid
    done = enable(machine, "--dry-run")
    assert done.code == 2
    shown = done.stdout.partition("\n")[2]
    assert disable(machine, "--dry-run").code == 0
    assert_untouched(machine, pid)
    enable(machine).check()
    pid = machine.kubelet_pid
    assert machine.path(f"{DROP_INS}/{DROP_IN}").read_text() == shown
    assert enable(machine, "--dry-run").code == 0
    assert disable(machine, "--dry-run").code == 2
    assert machine.kubelet_pid == pid
    assert machine.drop_ins == [DROP_IN]


def test_the_json_has_the_result_or_the_error(machine: Machine) -> None:
    booted(machine)
    done = json.loads(enable(machine, "--output", "json").check().stdout)
    assert (done["action"], done["changed"], done["error"]) == ("enable", True, None)
    assert done["kubelet"] == {
        "pid": machine.kubelet_pid,
        "containers_before": 4,
        "containers_after": 4,
    }
    assert done["drop_in"] == machine.path(f"{DROP_INS}/{DROP_IN}").read_text()
    assert json.loads(enable(machine, "-o", "json").check().stdout)["changed"] is False
    done = json.loads(disable(machine, "--output", "json").check().stdout)
    assert (done["action"], done["changed"], done["drop_in"]) == ("disable", True, None)
    machine.misbehave(exit_after=0)
    failed = enable(machine, "--output", "json")
    assert failed.code == 76
    done = json.loads(failed.stdout)
    assert done["error"]["code"] == "rolled-back"
    assert any("the stand-in ends" in line for line in done["log"])
    assert "rolled-back" in failed.stderr


def test_disable_removes_a_drop_in_with_which_the_kubelet_fails(
    machine: Machine,
) -> None:
    booted(machine)
    enable(machine).check()
    machine.path(CONFIG[1:]).unlink()
    machine.run("systemctl", "restart", "kubelet")
    done = disable(machine).check()
    assert "was not healthy with it" in done.stdout
    machine.wait_for_kubelet()
    assert machine.command_line == [OWN]
    assert machine.drop_ins == []


# What changed after `enable`, and the command line without its drop-in.
CHANGED_UNITS = {
    "a shell": (
        "etc/systemd/system/kubelet.service",
        "[Service]\nExecStart=/bin/sh -c 'exec /usr/bin/kubelet --v=5'\n",
    ),
    "a later drop-in": (
        f"{DROP_INS}/zzz.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --v=5\n",
    ),
    "the flags in a variable": (
        "etc/systemd/system/kubelet.service",
        '[Service]\nEnvironment="P=--image-credential-provider"\n'
        f"ExecStart=/usr/bin/kubelet --v=5 ${{P}}-config={CONFIG} ${{P}}-bin-dir=/usr/local/bin\n",
    ),
}


@pytest.mark.parametrize("how", CHANGED_UNITS)
def test_disable_works_whatever_the_unit_has_become(machine: Machine, how: str) -> None:
    booted(machine)
    enable(machine).check()
    machine.write(*CHANGED_UNITS[how])
    machine.run("systemctl", "daemon-reload").check()
    disable(machine, "--timeout", "20").check()
    assert machine.command_line == ["--v=5", *(FLAGS if "variable" in how else [])]
    assert DROP_IN not in machine.drop_ins
    assert_settled(machine)


def test_a_read_only_disk_is_named(machine: Machine) -> None:
    booted(machine)
    enable(machine).check()
    machine.path(CONFIG[1:]).unlink()
    machine.run("systemctl", "restart", "kubelet")
    script = (
        "mount --bind /etc/systemd /etc/systemd && mount -o remount,bind,ro /etc/systemd"
        " && exec /usr/local/bin/oke-credential-provider disable --output json"
    )
    done = machine.run("unshare", "--mount", "sh", "-c", script)
    assert done.code == 75
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "cannot-enable"
    assert error["message"] == f"/{DROP_INS}/{DROP_IN}: Read-only file system"


def test_wrong_options_never_look_like_a_result(program: Program) -> None:
    """2 is the exit code of a dry run that would change something. Nothing is ever as late as NaN."""
    for action in ("enable", "disable"):
        for options, code in ((["--watch", "nan"], 2), (["--watch", "nan", "--dry-run"], 1)):
            done = run([*program.argv, action, *options], b"", **program.env)
            assert (done.code, done.stdout) == (code, "")
            assert "--watch" in done.stderr
    done = run(
        [*program.argv, "enable", "--config", "/a b", "--output", "json"], b"", **program.env
    )
    assert done.code == 75
    assert json.loads(done.stdout)["error"]["code"] == "cannot-enable"


def test_a_drop_in_that_a_person_wrote_is_not_changed(machine: Machine) -> None:
    """It can contain more than the two flags."""
    text = f'[Service]\nEnvironment="ARGS={" ".join(FLAGS)} --v=7"\n'
    machine.write(
        "etc/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet $ARGS\n"
    )
    machine.drop_in(DROP_IN, text)
    machine.write("etc/other.yaml", machine.path(CONFIG[1:]).read_text())
    booted(machine)
    pid = machine.kubelet_pid
    assert f"already enabled: /{DROP_INS}/{DROP_IN}" in enable(machine).check().stdout
    for done in (disable(machine), enable(machine, "--config", "/etc/other.yaml")):
        assert done.code == 75, done
    assert machine.path(f"{DROP_INS}/{DROP_IN}").read_text() == text
    assert machine.kubelet_pid == pid


def check_step(machine: Machine) -> tuple[str, str] | None:
    """The status and the cause of check's step for the drop-in."""
    content = json.loads(machine.oke("check", "--output", "json").stdout)
    found = [step for step in content["steps"] if step["name"] == "drop-in"]
    assert len(found) < 2
    return (found[0]["status"], found[0]["cause"]) if found else None


def test_check_inspects_the_drop_in(machine: Machine) -> None:
    booted(machine)
    # A metadata service that answers 404 to everything, so that check does not wait for one.
    machine.run("ip", "address", "add", "169.254.169.254/32", "dev", "lo").check()
    machine.popen(sys.executable, "-m", "http.server", "80", "--directory", "/var/empty")
    assert check_step(machine) is None
    enable(machine).check()
    assert check_step(machine) == ("ok", "ok")
    drop_in = machine.path(f"{DROP_INS}/{DROP_IN}")
    text = drop_in.read_text()
    machine.write(
        "etc/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet --v=2\n"
    )
    assert check_step(machine) == ("warning", "drop-in-outdated")
    drop_in.unlink()
    machine.run("systemctl", "daemon-reload").check()
    machine.run("systemctl", "restart", "kubelet").check()
    drop_in.write_text(text)
    assert check_step(machine) == ("failed", "drop-in-not-in-effect")
    machine.wait_for_kubelet()
    machine.run("systemctl", "daemon-reload").check()
    machine.popen("/usr/local/bin/oke-credential-provider", "enable")
    wait_for(lambda: machine.path(TRIAL[1:]).exists())
    content = machine.oke("check", "--output", "json").stdout
    assert "on-trial" in content


def test_uninstall_refuses_while_enabled_and_names_disable(machine: Machine) -> None:
    program = built.one_file()
    machine.path("usr/local/bin/oke-credential-provider").unlink()
    machine.path(CONFIG[1:]).unlink()
    machine.write("root/binary", "")
    shutil.copy(program, machine.path("root/binary"))
    booted(machine)
    machine.run("/root/binary", "install").check()
    enable(machine).check()
    machine.run("systemctl", "stop", "kubelet").check()
    done = machine.oke("uninstall")
    assert done.code == 74
    assert DROP_IN in done.stderr and "oke-credential-provider disable" in done.stderr
    machine.run("systemctl", "start", "kubelet").check()
    machine.wait_for_kubelet()
    assert machine.oke("uninstall").code == 74
    disable(machine).check()
    machine.oke("uninstall").check()
    assert machine.run("test", "-e", "/usr/local/lib/oke-credential-provider").code == 1
    assert machine.command_line == [OWN]
