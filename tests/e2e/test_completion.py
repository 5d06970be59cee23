"""Shell completion, in each form. A kubelet call ignores its environment variable."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Program
from tests.support.built import REQUEST

VARIABLE = "_OKE_CREDENTIAL_PROVIDER_COMPLETE"
# $1: the directory of the program; the rest: the words of a command line to complete.
SCRIPT = """
PATH=$1:$PATH
source <(oke-credential-provider completion bash)
COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2))
"$(complete -p oke-credential-provider | sed 's/.* -F \\([^ ]*\\) .*/\\1/')" "$2"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.every_form
def test_bash_completes_commands_and_options(program: Program, tmp_path: Path) -> None:
    name = tmp_path / "oke-credential-provider"
    name.write_text(f'#!/bin/sh\nexec {" ".join(program.argv)} "$@"\n')
    name.chmod(0o755)

    def complete(*words: str) -> set[str]:
        argv = ["bash", "-c", SCRIPT, "bash", str(tmp_path), name.name, *words]
        environ = {"PATH": os.defpath, **program.env}
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return set(done.stdout.split())

    assert complete("un") == {"uninstall"}
    assert {"install", "enable", "completion"} <= complete("")
    assert complete("install", "--take") == {"--take-over"}
    assert complete("install", "--output", "j") == {"json"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_calls_the_program_with_an_argument(program: Program, shell: str) -> None:
    done = subprocess.run([*program.argv, "completion", shell], capture_output=True, timeout=60)
    script = done.stdout.decode()
    assert f"{VARIABLE}={shell}_complete" in script
    assert script.count(" completion)") == 1


@pytest.mark.every_form
def test_a_kubelet_call_ignores_the_variable(program: Program) -> None:
    environ = {"PATH": os.defpath, **program.env, VARIABLE: "bash_source"}
    done = subprocess.run(program.argv, input=REQUEST, env=environ, capture_output=True, timeout=60)
    assert json.loads(done.stdout)["kind"] == "CredentialProviderResponse"
