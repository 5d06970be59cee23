"""The log: one line per call, with fields that only the program writes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.log import Log
from tests.cloud.harness import Cloud
from tests.cloud.model import Fault, Iam, Imds, Workload
from tests.cloud.namespace import Completed
from tests.conftest import Program
from tests.support.kubelet import request
from tests.support.oci_files import OciFiles

pytestmark = pytest.mark.every_form

IMAGE = "fra.ocir.io/ns/repo"
FORGED = 'x" forged="yes" code=forged \\" forged=yes'
_TEXT = r'"(?:[^"\\]|\\["\\])*"|[^\s"=\\]+'
_LINE = re.compile(rf"(?P<message>{_TEXT})(?P<fields>( [a-z_]+=({_TEXT}))*)")


def fields_of(line: str) -> dict[str, str]:
    """Parse the fields of a line strictly. Each field may occur only once."""
    match = _LINE.fullmatch(line)
    assert match, line
    pairs = re.findall(rf" ([a-z_]+)=({_TEXT})", match["fields"])
    assert len(dict(pairs)) == len(pairs), line
    return {
        name: re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] == '"' else text
        for name, text in pairs
    }


def test_each_log_line_has_the_version(cloud: Cloud, program: Program) -> None:
    version = json.loads(program.run(cloud, "version", "--output", "json").check().stdout)[
        "version"
    ]
    program.run(cloud, stdin=request(IMAGE)).check()
    program.run(cloud, stdin=b"{")
    entries = cloud.ns.log()
    assert len(entries) == 2
    for entry in entries:
        assert entry.fields["OKE_VERSION"] == version
        assert fields_of(entry.fields["MESSAGE"])["version"] == version


@given(st.text('ab"=\\\\ \t\u3000', max_size=6))
def test_a_value_is_no_other_field(text: str) -> None:
    log = Log("info")
    with patch("provider.log._send", return_value=True):
        log.write("info", text, {"value": text})
    (line,) = log.lines
    assert fields_of(line.removeprefix("info: "))["value"] == re.sub("[\t\u3000]", "?", text)


def _from_a_server(cloud: Cloud, program: Program, folder: Path) -> Completed:
    headers = (("opc-request-id", FORGED),)
    cloud.control.fault("token", Fault("status", status=401, headers=headers))
    return program.run(cloud, "--verbose", stdin=request(IMAGE))


def _from_a_denial(cloud: Cloud, program: Program, folder: Path) -> Completed:
    headers = (("opc-request-id", FORGED),)
    cloud.control.fault("manifest", Fault("status", status=403, headers=headers))
    return program.run(cloud, "--verbose", stdin=request(IMAGE))


def _from_a_file_name(cloud: Cloud, program: Program, folder: Path) -> Completed:
    env = {"OCIR_AUTH_METHOD": "USER_PRINCIPAL", "OCI_CONFIG_FILE": str(folder / FORGED)}
    return program.run(cloud, "--verbose", stdin=request(IMAGE), env=env)


def _from_a_profile(cloud: Cloud, program: Program, folder: Path) -> Completed:
    env = OciFiles(folder).write(cloud.control.session(), FORGED)
    return program.run(cloud, "--verbose", stdin=request(IMAGE), env=env)


def _from_an_instance(cloud: Cloud, program: Program, folder: Path) -> Completed:
    cloud.control.imds(Imds(instance=FORGED))
    return program.run(cloud, "--verbose", stdin=request(IMAGE))


def _from_a_service_account(cloud: Cloud, program: Program, folder: Path) -> Completed:
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
    ("call", "is_logged"),
    [
        (_from_a_server, False),
        (_from_a_denial, False),
        (_from_a_file_name, True),
        (_from_a_profile, True),
        (_from_an_instance, True),
        (_from_a_service_account, True),
    ],
    ids=["server", "denial", "file", "profile", "instance", "service account"],
)
def test_external_text_never_becomes_a_log_field(
    cloud: Cloud,
    program: Program,
    tmp_path: Path,
    call: Callable[[Cloud, Program, Path], Completed],
    is_logged: bool,
) -> None:
    result = call(cloud, program, tmp_path)
    (entry,) = cloud.ns.log()
    line = entry.fields["MESSAGE"]
    journal = {name for name in entry.fields if name.startswith("OKE_")}
    for shown in (line, *_verbose(result)):
        fields = fields_of(shown)
        assert {f"OKE_{name.upper()}" for name in fields} == journal
        assert fields["registry"] == "fra.ocir.io"
        assert fields.get("code") in (None, "token-refused", "bad-user-principal")
    # The program leaves out text from servers. It quotes the other texts.
    assert ("forged" in line) == is_logged


def _verbose(result: Completed) -> list[str]:
    """Return the log lines on standard error. A failed call prints a traceback instead."""
    lines = result.stderr.decode().splitlines() if result.returncode == 0 else []
    assert result.returncode or lines
    return [line.partition(": ")[2] for line in lines]


def test_external_text_in_syslog_is_quoted(program: Program) -> None:
    with Cloud(log="devlog") as cloud:
        cloud.control.imds(Imds(instance=FORGED))
        program.run(cloud, stdin=request(IMAGE)).check()
        (entry,) = cloud.ns.log()
        assert "forged" not in fields_of(entry.text.partition("]: ")[2])
