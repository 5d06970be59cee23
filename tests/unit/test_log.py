"""What the log says: one line a call, whose fields nobody but the program can write."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cloud.harness import Cloud
from tests.cloud.model import Fault, Iam, Imds, Workload
from tests.cloud.namespace import Completed
from tests.conftest import Program
from tests.support.kubelet import request

pytestmark = pytest.mark.every_form

IMAGE = "fra.ocir.io/ns/repo"
FORGED = 'x" forged="yes" code=forged \\" forged=yes'
_TEXT = r'"(?:[^"\\]|\\["\\])*"|[^\s"=\\]+'
_LINE = re.compile(rf"(?P<message>{_TEXT})(?P<fields>( [a-z_]+=({_TEXT}))*)")


def fields_of(line: str) -> dict[str, str]:
    """The fields of a line as a strict reader takes them; each may stand there once."""
    match = _LINE.fullmatch(line)
    assert match, line
    pairs = re.findall(rf" ([a-z_]+)=({_TEXT})", match["fields"])
    assert len(dict(pairs)) == len(pairs), line
    return {
        name: re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] == '"' else text
        for name, text in pairs
    }


def test_each_line_names_the_program_s_version(cloud: Cloud, program: Program) -> None:
    told = json.loads(program.run(cloud, "version", "--output", "json").check().stdout)
    program.run(cloud, stdin=request(IMAGE)).check()
    program.run(cloud, stdin=b"{")
    answered, failed = cloud.ns.log()
    for entry in (answered, failed):
        assert entry.fields["OKE_VERSION"] == told["version"]
        assert fields_of(entry.fields["MESSAGE"])["version"] == told["version"]


def _of_a_server(cloud: Cloud, program: Program, folder: Path) -> Completed:
    headers = (("opc-request-id", FORGED),)
    cloud.control.fault("token", Fault("status", status=401, headers=headers))
    return program.run(cloud, "--verbose", stdin=request(IMAGE))


def _of_a_denial(cloud: Cloud, program: Program, folder: Path) -> Completed:
    headers = (("opc-request-id", FORGED),)
    cloud.control.fault("manifest", Fault("status", status=403, headers=headers))
    return program.run(cloud, "--verbose", stdin=request(IMAGE))


def _of_a_file(cloud: Cloud, program: Program, folder: Path) -> Completed:
    env = {"OCIR_AUTH_METHOD": "USER_PRINCIPAL", "OCI_CONFIG_FILE": str(folder / FORGED)}
    return program.run(cloud, "--verbose", stdin=request(IMAGE), env=env)


def _of_a_profile(cloud: Cloud, program: Program, folder: Path) -> Completed:
    session = cloud.control.session()
    for name, text in (("token", session.token), ("key", session.private_pem)):
        (folder / name).write_text(text)
    (folder / "config").write_text(
        f"[{FORGED}]\nkey_file={folder}/key\nsecurity_token_file={folder}/token\n"
    )
    env = {"OCIR_AUTH_METHOD": "USER_PRINCIPAL", "OCI_CONFIG_FILE": str(folder / "config")}
    return program.run(
        cloud, "--verbose", stdin=request(IMAGE), env={**env, "OCI_CLI_PROFILE": FORGED}
    )


def _of_an_instance(cloud: Cloud, program: Program, folder: Path) -> Completed:
    cloud.control.imds(Imds(instance=FORGED))
    return program.run(cloud, "--verbose", stdin=request(IMAGE))


def _of_a_service_account(cloud: Cloud, program: Program, folder: Path) -> Completed:
    cloud.control.iam(Iam(policies=()))
    token = cloud.control.service_account_token(Workload(namespace=FORGED))
    env = {
        "OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY",
        "KUBERNETES_SERVICE_HOST": "127.0.6.1",
        "OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH": str(cloud.ns.folder / "cluster-ca.pem"),
    }
    stdin = request(IMAGE, serviceAccountToken=token)
    return program.run(cloud, "--verbose", stdin=stdin, env=env)


@pytest.mark.parametrize(
    ("text", "comes_out"),
    [
        (_of_a_server, False),
        (_of_a_denial, False),
        (_of_a_file, True),
        (_of_a_profile, True),
        (_of_an_instance, True),
        (_of_a_service_account, True),
    ],
    ids=["server", "denial", "file", "profile", "instance", "service account"],
)
def test_no_text_of_somebody_else_s_becomes_a_field(
    cloud: Cloud,
    program: Program,
    tmp_path: Path,
    text: Callable[[Cloud, Program, Path], Completed],
    comes_out: bool,
) -> None:
    result = text(cloud, program, tmp_path)
    (entry,) = cloud.ns.log()
    line = entry.fields["MESSAGE"]
    journal = {name for name in entry.fields if name.startswith("OKE_")}
    for shown in (line, *_verbose(result)):
        fields = fields_of(shown)
        assert {f"OKE_{name.upper()}" for name in fields} == journal
        assert fields["registry"] == "fra.ocir.io"
        assert fields.get("code") in (None, "token-refused", "bad-user-principal")
    # Not because it was left out.
    assert ("forged" in line) == comes_out


def _verbose(result: Completed) -> list[str]:
    """The log's lines on standard error; a failed call shows its traceback there instead."""
    lines = result.stderr.decode().splitlines() if result.returncode == 0 else []
    assert result.returncode or lines
    return [line.partition(": ")[2] for line in lines]


def test_syslog_s_line_is_quoted_too(program: Program) -> None:
    with Cloud(log="devlog") as cloud:
        cloud.control.imds(Imds(instance=FORGED))
        program.run(cloud, stdin=request(IMAGE)).check()
        (entry,) = cloud.ns.log()
        assert "forged" not in fields_of(entry.text.partition("]: ")[2])
