"""Secrets are in the password of the response and nowhere else.

The stand-in knows each secret that it has issued. The test adds the secrets that it writes into
requests, files and settings, and searches all output for all of them.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pytest

from tests.cloud.harness import STORES, Cloud
from tests.cloud.model import TENANCY, USER, EchoId, Fault, Iam, Secret
from tests.cloud.namespace import Completed
from tests.conftest import Program
from tests.support.kubelet import read_response, request

IMAGE = "fra.ocir.io/ns/repo"
CANARY = "canary0123456789abcdef0123456789abcdef0123456789abcdef0123456789"
CANARY_PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----\n"
CANARIES = (Secret("canary", CANARY), Secret("proxy password", "proxy-pass-word"))


@dataclass(frozen=True, slots=True)
class Case:
    """One outcome of a call: the preparation, the program's input, and its exit code."""

    name: str
    code: int
    target: str = ""
    fault: Fault | None = None  # of the target
    prepare: Callable[[Cloud], object] = lambda _: None
    stdin: bytes = request(IMAGE)
    env: Mapping[str, str] = field(default_factory=dict)
    runs: int = 1


PROXY = "http://user:proxy-pass-word@proxy.example:3128"
PROXIED = {"HTTPS_PROXY": PROXY}
SPACED = Fault("patch", patch={"token": f"a {CANARY}"})
CASES = [
    Case("fresh, then shared", 0, runs=2),
    Case("not shared", 0, env={"TOKEN_CACHE": "disabled"}),
    Case("denied", 0, prepare=lambda cloud: cloud.control.iam(Iam(policies=()))),
    Case("another registry", 0, stdin=request("docker.io/library/nginx")),
    Case("the certificate quoted in a refusal", 31, "federation", Fault("echo", status=401)),
    Case("the certificate quoted in an outage", 30, "federation", Fault("echo", status=503)),
    Case("the signature quoted in a refusal", 41, "token", Fault("echo", status=401)),
    Case("the signature quoted in an outage", 40, "token", Fault("echo", status=503)),
    Case("a token quoted by the manifest", 0, "manifest", Fault("echo", status=500)),
    Case("a token quoted in a denial", 0, "manifest", Fault("echo", status=403)),
    Case("a token quoted for an absent tag", 0, "manifest", Fault("echo", status=404)),
    Case("a token quoted with the manifest", 0, "manifest", Fault("echo")),
    Case("IMDS quotes", 22, "imds.key", Fault("echo", status=404)),
    *(
        Case(
            f"{whom} has the {echo_id} of it in its id",
            code,
            whom,
            Fault("echo", status=status, echo_id=echo_id),
        )
        for whom, status, code in (("federation", 401, 31), ("token", 200, 0), ("manifest", 403, 0))
        for echo_id in get_args(EchoId)
        if echo_id != "received" or status == 200
    ),
    Case("federation speaks no HTTP", 30, "federation", Fault("echo_bare")),
    Case("the registry speaks no HTTP", 40, "token", Fault("echo_bare")),
    Case("the manifest is no HTTP", 0, "manifest", Fault("echo_bare")),
    Case("a proxy that quotes", 30, "proxy", Fault("echo", status=407), env=PROXIED),
    Case("a proxy that speaks no HTTP", 30, "proxy", Fault("echo_bare"), env=PROXIED),
    Case("a token that never ends", 42, "token", Fault("patch", patch={"expires_in": -1})),
    Case("a security token with a space", 32, "federation", SPACED),
    Case("a registry token with a space", 42, "token", SPACED),
    Case("an answer that is cut", 40, "token", Fault("cut_body")),
    Case("an answer that is torn", 30, "federation", Fault("reset_body")),
    Case("a key that is none", 22, "imds.key", Fault("body", body=CANARY_PEM)),
    Case("a certificate that is none", 22, "imds.cert", Fault("body", body=CANARY_PEM)),
    Case("an intermediate that is none", 22, "imds.intermediate", Fault("body", body=CANARY)),
    Case("no end", 60, "token", Fault("black_hole"), env={"DEADLINE_SECONDS": "3"}),
    Case("a wrong clock", 50, prepare=lambda cloud: cloud.control.clock(900)),
    Case("a bad request", 10, stdin=request(IMAGE, serviceAccountToken=CANARY)[:-3]),
    Case("a request of another kind", 10, stdin=request(IMAGE, kind=["x"], token=CANARY)),
    Case("a service account's token", 0, stdin=request(IMAGE, serviceAccountToken=CANARY)),
    Case("a proxy", 0, env=PROXIED),
    Case("a dead proxy", 30, "proxy", Fault("refused"), env=PROXIED),
    Case("a proxy that is no URL", 11, env={"HTTPS_PROXY": PROXY + "99999"}),
    Case("a proxy whose password has a slash", 11, env={"HTTPS_PROXY": PROXY.replace("@", "/@")}),
    Case("a proxy of another kind", 11, env={"HTTPS_PROXY": PROXY.replace("http", "socks5")}),
]


def haystacks(cloud: Cloud, results: list[Completed]) -> Iterator[tuple[str, str]]:
    """All output of the calls, without the password of each response."""
    for result in results:
        yield "stderr", result.stderr.decode(errors="replace")
        stdout = result.stdout.decode(errors="replace")
        if result.returncode == 0:
            passwords = [password for _, password in read_response(result.stdout).auth.values()]
            for password in passwords:
                stdout = stdout.replace(password, "", 1)
        yield "stdout", stdout
    for entry in cloud.ns.log():
        yield "log", entry.raw.decode(errors="replace")
    for folder in STORES:
        store = cloud.ns.path(folder)
        for path in store.iterdir() if store.is_dir() else ():
            yield "a store file's name", path.name
            text = path.read_text(errors="replace")
            for token in json.loads(text).get("tokens", ()) if text else ():
                text = text.replace(token["token"], "", 1)
            yield f"the store's {path.name}", text


def leaks(secrets: list[Secret], found: Iterator[tuple[str, str]]) -> set[str]:
    """The secrets that were found, and where. Ignores case, spaces and punctuation."""
    needles = [(secret.kind, letters(needle)) for secret in secrets for needle in secret.needles()]
    assert all(len(needle) > 10 for _, needle in needles)
    texts = [(where, letters(text)) for where, text in found]
    return {
        f"{kind} in {where}" for where, text in texts for kind, needle in needles if needle in text
    }


def letters(text: str) -> str:
    """Only the letters and digits, in lower case, without escaped line breaks."""
    return re.sub("[^a-z0-9]", "", text.lower().replace("\\n", ""))


# Each case at the most verbose level, and at one of the other levels in turn.
@pytest.mark.parametrize("levels", [("debug",), ("info", "warning", "error")], ids="-".join)
def test_no_outcome_shows_a_secret(cloud: Cloud, program: Program, levels: tuple[str, ...]) -> None:
    seen = set()
    for number, case in enumerate(CASES):
        cloud.reset()
        case.prepare(cloud)
        if case.fault:
            cloud.control.fault(case.target, case.fault)  # type: ignore[arg-type] # a literal
        level = levels[number % len(levels)]
        env = {"LOG_LEVEL": level, "DEADLINE_SECONDS": "15", **case.env}
        results = [
            program.run(cloud, "--verbose", stdin=case.stdin, env=env) for _ in range(case.runs)
        ]
        assert [r.returncode for r in results] == [case.code] * case.runs, (case.name, results)
        if case.code:
            assert b"Traceback" in results[0].stderr  # tracebacks are searched, too
        secrets = [*cloud.control.secrets(), *CANARIES]
        assert leaks(secrets, haystacks(cloud, results)) == set(), case.name
        seen |= {secret.kind for secret in secrets}
    assert {"instance key", "instance certificate", "security token", "registry token"} <= seen


def test_the_search_finds_a_leak(cloud: Cloud, program: Program) -> None:
    result = program.run(cloud, stdin=request(IMAGE)).check()
    found = [("stdout", result.stdout.decode())]
    assert "registry token in stdout" in leaks(cloud.control.secrets(), iter(found))
    pem = next(s for s in cloud.control.secrets() if s.kind == "instance key")
    quoted = [("a log", repr(pem.value)), ("JSON", json.dumps(pem.value))]
    assert leaks([pem], iter(quoted)) == {"instance key in a log", "instance key in JSON"}


@pytest.mark.parametrize("level", ["debug", "error"])
def test_a_user_principal_shows_no_secret(
    cloud: Cloud, program: Program, tmp_path: Path, level: str
) -> None:
    key = cloud.control.api_key(passphrase="a-long-secret-phrase")
    session = cloud.control.session()
    files = {
        "key.pem": key.private_pem,
        "session.pem": session.private_pem,
        "token": session.token,
        "bad.pem": CANARY_PEM,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    user = f"tenancy={TENANCY}\nuser={USER}\nfingerprint={key.fingerprint}\nregion=eu-frankfurt-1\n"
    profiles = {
        "GOOD": f"{user}key_file={tmp_path}/key.pem\npass_phrase={key.passphrase}\n",
        "WRONG": f"{user}key_file={tmp_path}/key.pem\npass_phrase={CANARY}\n",
        "NONE": f"{user}key_file={tmp_path}/bad.pem\n",
        "SESSION": f"tenancy={TENANCY}\nregion=eu-frankfurt-1\nfingerprint=00\n"
        f"key_file={tmp_path}/session.pem\nsecurity_token_file={tmp_path}/token\n",
        "TOKEN": f"tenancy={TENANCY}\nregion=eu-frankfurt-1\nfingerprint=00\n"
        f"key_file={tmp_path}/session.pem\nsecurity_token_file={tmp_path}/bad.pem\n",
        "LONG": f"{user.replace(USER, CANARY + ' x')}key_file={tmp_path}/key.pem\n",
    }
    config = tmp_path / "config"
    codes = {"GOOD": 0, "SESSION": 0}
    broken = {"BROKEN": f"[DEFAULT]\npass_phrase={CANARY}\n{CANARY} no equals sign\n"}
    for name, text in {**profiles, **broken}.items():
        cloud.reset()
        config.write_text(text if name == "BROKEN" else f"[{name}]\n{text}")
        config.chmod(0o600)
        env = {
            "LOG_LEVEL": level,
            "OCIR_AUTH_METHOD": "USER_PRINCIPAL",
            "OCI_CONFIG_FILE": str(config),
            "OCI_CLI_PROFILE": name,
        }
        result = program.run(cloud, "--verbose", stdin=request(IMAGE), env=env)
        assert result.returncode == codes.get(name, 12), (name, result.stderr)
        secrets = [*cloud.control.secrets(), *CANARIES]
        assert leaks(secrets, haystacks(cloud, [result])) == set(), name


def test_a_failing_write_shows_no_secret(cloud: Cloud, program: Program) -> None:
    command = ("sh", "-c", 'exec "$@" > /dev/full', "sh", *program.argv, "--verbose")
    result = cloud.ns.run(command, stdin=request(IMAGE), env=program.env)
    assert result.returncode == 70
    assert b"Traceback" in result.stderr
    assert leaks(cloud.control.secrets(), haystacks(cloud, [result])) == set()


def test_an_invalid_settings_file_is_not_quoted(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    for text in (f"a: {{{CANARY}", f"{CANARY}: [", f"a: !{CANARY} b", f"a: *{CANARY}", CANARY):
        (tmp_path / "settings.yaml").write_text(text)
        argv = ("--config", str(tmp_path / "settings.yaml"), "--verbose")
        result = program.run(cloud, *argv, stdin=request(IMAGE))
        assert result.returncode == 11
        first = result.stderr.decode().splitlines()[0]
        assert CANARY not in first


def test_processes_show_no_secret_to_who_looks_at_them(cloud: Cloud, program: Program) -> None:
    cloud.control.latency(150)
    process = cloud.ns.popen(program.argv, env=program.env, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(request(IMAGE, serviceAccountToken=CANARY))
    process.stdin.close()
    process.stdin = None
    seen: dict[str, str] = {}
    while process.poll() is None:
        for pid in cloud.strays():
            for name in ("cmdline", "environ", "comm"):
                try:
                    text = Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
                except OSError:
                    continue  # the process has ended
                seen[f"{name} of {os.path.basename(text.partition(chr(0))[0])} {len(text)}"] = text
        time.sleep(0.02)
    assert process.communicate()[0]
    assert process.returncode == 0
    assert any("environ" in where and "PATH=" in text for where, text in seen.items())
    secrets = [*cloud.control.secrets(), *CANARIES]
    assert leaks(secrets, iter(seen.items())) == set()
