"""`enable` and `disable`, ended by SIGKILL or a power failure at each step: a kubelet runs afterwards.

A step is a change of a file, where strace interrupts the program, or a systemctl command that changes
something, where a wrapper of systemctl does.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple

import pytest

from tests.conftest import programs
from tests.e2e.test_enable import DROP_IN, FLAGS, GUARD, OWN, assert_settled, booted, wait_for
from tests.support.systemd_machine import DROP_INS, Machine

PROGRAM = "/usr/local/bin/oke-credential-provider"
LOG = "/run/strace"
CALLS = ("rename", "unlink", "mkdir", "fsync")
CHANGES = ("daemon-reload", "start", "reset-failed", "restart", "stop")
_OF_THE_NODE = re.compile(r"/(etc|run)/systemd/")
# Runs systemctl, then interrupts the program that called it.
WRAPPER = """#!/bin/sh
/usr/bin/systemctl.real "$@"
code=$?
if [ "$1" != show ] && grep -q kubelet-provider-under-test "/proc/$PPID/environ"; then
    echo "$1" >>/run/calls
    read -r signal verb number </run/interrupt || :
    if [ "$1" = "$verb" ] && [ "$(grep -cx -e "$1" /run/calls)" = "$number" ]; then
        kill "-$signal" "$PPID"
        echo stopped >/run/stopped
    fi
fi
exit "$code"
"""


class Step(NamedTuple):
    """The ``number``-th call of this kind in the program. ``what`` is the traced line."""

    call: str  # a system call, or a command of systemctl
    number: int
    what: str

    @property
    def decides(self) -> bool:
        """True if this call makes the change permanent."""
        return self.call in ("rename", "unlink") and f"/{DROP_INS}/" in self.what


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A node where both commands have run: directories and Python's caches exist."""
    machine = Machine(tmp_path / "machine")
    machine.program(programs()[0].argv)
    machine.provider_config()
    shutil.copy("/usr/bin/systemctl", machine.path("usr/bin/systemctl.real"))
    machine.write("usr/bin/systemctl", WRAPPER, 0o755)
    booted(machine)
    machine.run(PROGRAM, "enable", "--watch", "0").check()
    machine.run(PROGRAM, "disable", "--watch", "0").check()
    yield machine
    machine.power_off()


def run(
    machine: Machine,
    action: str,
    step: Step | None = None,
    signal: str = "KILL",
    error: str = "",
) -> Popen[bytes]:
    """Start the action, and interrupt it at a step, or let that system call fail. Without a step, strace logs each change of a file."""
    # strace doubles the time, so a kill at a systemctl command does without. nsenter stops with its child,
    # but not with that of strace.
    strace = ["strace", "-y", "-qq", "-s", "300", "-o", LOG, "-e", f"trace={','.join(CALLS)}"]
    if step and step.call in CALLS:
        what = f"error={error}" if error else f"signal={signal}"
        strace += ["-e", f"inject={step.call}:{what}:when={step.number}"]
    elif step:
        machine.write("run/interrupt", f"{signal} {step.call} {step.number}\n")
        strace = [] if signal == "KILL" else strace
    for name in ("calls", "stopped", "strace"):
        machine.path(f"run/{name}").unlink(missing_ok=True)
    env = ["env", "NAME=kubelet-provider-under-test"]
    return machine.popen(*env, *strace, PROGRAM, action, "--watch", "0")


def steps(machine: Machine, action: str) -> list[Step]:
    """Run the action to its end. Returns its steps: changes of files, then systemctl calls."""
    process = run(machine, action)
    assert process.wait() == 0
    found = []
    counts = dict.fromkeys((*CALLS, *CHANGES), 0)
    for line in machine.path(LOG[1:]).read_text().splitlines():
        call = line.partition("(")[0]
        if call not in counts:
            continue  # a signal
        counts[call] += 1
        if _OF_THE_NODE.search(line) and not line.endswith("(No such file or directory)"):
            found.append(Step(call, counts[call], line))
    assert [step.decides for step in found].count(True) == 1, found
    for call in machine.path("run/calls").read_text().split():
        counts[call] += 1
        found.append(Step(call, counts[call], f"systemctl {call}"))
    assert set(CHANGES) == {step.call for step in found} - set(CALLS)
    return found


def put(machine: Machine, drop_in: str | None) -> None:
    """Put the node into one of its two states, without the program."""
    path = machine.path(f"{DROP_INS}/{DROP_IN}")
    path.unlink(missing_ok=True)
    if drop_in:
        path.write_text(drop_in)
    if machine.is_on:
        machine.run("systemctl", "daemon-reload").check()
        machine.run("systemctl", "restart", "kubelet").check()
        machine.wait_for_kubelet()


def wait_until_settled(machine: Machine) -> None:
    wait_for(lambda: machine.show("ActiveState", GUARD) in ("inactive", "failed"))
    machine.wait_for_kubelet()


def assert_state(machine: Machine, enabled: bool, step: Step) -> None:
    """Check that the running kubelet matches the files, and that nothing of a trial is left."""
    assert (machine.drop_ins == [DROP_IN]) == enabled, step
    assert machine.command_line == [OWN, *(FLAGS if enabled else [])], step
    assert_settled(machine)


ACTIONS = ["enable", "disable"]


@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_each_step_systemd_rolls_back(machine: Machine, action: str) -> None:
    before, after = states(machine, action)
    put(machine, before)
    done = True  # steps() completes the action
    for step, decided in decided_steps(steps(machine, action), entering=True):
        if done:
            put(machine, before)
        killed = run(machine, action, step)
        assert killed.wait() in (-9, 128 + 9), step
        wait_until_settled(machine)
        assert_state(machine, bool(after if decided else before), step)
        done = decided
    put(machine, before)
    machine.run(PROGRAM, action, "--watch", "0").check()
    assert machine.command_line == [OWN, *(FLAGS if after else [])]


@pytest.mark.parametrize("action", ACTIONS)
def test_after_a_power_failure_at_each_step_the_node_boots_with_a_kubelet(
    machine: Machine, action: str
) -> None:
    before, after = states(machine, action)
    machine.power_off()
    put(machine, before)
    booted(machine)  # with an empty /run
    done = True  # steps() completes the action
    for step, decided in decided_steps(steps(machine, action), entering=False):
        if done:
            machine.power_off()
            put(machine, before)
            booted(machine)
        run(machine, action, step, "STOP")
        wait_until_stopped(machine)
        machine.power_off()
        booted(machine)
        assert_state(machine, bool(after if decided else before), step)
        done = decided


@pytest.mark.parametrize("action", ACTIONS)
def test_a_disk_error_at_each_decision_is_rolled_back_and_named(
    machine: Machine, action: str
) -> None:
    before, _ = states(machine, action)
    put(machine, before)
    found = steps(machine, action)
    decides = next(step for step in found if step.decides)
    files = [step for step in found if step.call in CALLS]
    before_it = next(step for step in files if "trial" in step.what)
    after_it = files[files.index(decides) + 1]
    for step in (before_it, decides, after_it):
        put(machine, before)
        process = run(machine, action, step, error="ENOSPC")
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 76, (step, stderr)
        assert re.search(rb"the change could not be made: /\S+: No space left", stderr), step
        wait_until_settled(machine)
        assert_state(machine, bool(before), step)


def states(machine: Machine, action: str) -> tuple[str | None, str | None]:
    """The drop-in before the action and after it."""
    machine.run(PROGRAM, "enable", "--watch", "0").check()
    text = machine.path(f"{DROP_INS}/{DROP_IN}").read_text()
    return (None, text) if action == "enable" else (text, None)


def decided_steps(found: list[Step], *, entering: bool) -> Iterator[tuple[Step, bool]]:
    """Each step, and whether the change is permanent after an interruption there. strace sends SIGKILL
    when a call is entered; SIGSTOP takes effect after the call.
    """
    files = [step for step in found if step.call in CALLS and (entering or step.call != "fsync")]
    (deciding,) = [index for index, step in enumerate(files) if step.decides]
    for index, step in enumerate(files):
        yield step, index > deciding or (index == deciding and not entering)
    for step in found:
        if step.call in CHANGES:
            yield step, step.call == "stop"


def wait_until_stopped(machine: Machine) -> None:
    log, mark = machine.path(LOG[1:]), machine.path("run/stopped")
    wait_for(
        lambda: mark.exists() or (log.exists() and "stopped by SIGSTOP" in log.read_text()),
    )
