"""examples/github-actions: the workflow's scripts, with stand-ins for GitHub, an identity domain and OCIR."""

import json
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
import yaml

from provider import __version__
from tests.cloud.harness import Cloud
from tests.cloud.namespace import PATH, REPOSITORY, Completed
from tests.conftest import Program
from tests.e2e.test_docker_credential import helper as helper  # the fixture

FOLDER = REPOSITORY / "examples" / "github-actions"
WORKFLOW = yaml.safe_load((FOLDER / "ocir.yml").read_text())
JOB = WORKFLOW["jobs"]["pull"]
STEPS = {step["name"]: step for step in JOB["steps"]}
EXCHANGE, PULL = "Exchange the OIDC token for a session", "Pull"
IMAGE = "fra.ocir.io/ns/repo:v1"
CLIENT = "0123abcd:a-client-secret"
REQUEST_TOKEN = "the-runners-request-token"
JWT = "header.the-jobs-oidc-token.signature"

# Answers as GitHub's OIDC endpoint and as the identity domain. Writes down each request.
SERVER = """
import json, ssl, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

folder, oidc, domain = sys.argv[1:]

class Handler(BaseHTTPRequestHandler):
    def answer(self, content):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        with open(f"{folder}/requests", "a") as file:
            line = [self.command, self.path, self.headers["Authorization"], body]
            file.write(json.dumps(line) + "\\n")
        self.send_response(200 if content else 401)
        # Without it the end of the body is the end of TLS, which curl wants announced.
        self.send_header("Content-Length", str(len(content.encode())))
        self.end_headers()
        self.wfile.write(content.encode())

    def do_GET(self):
        self.answer(oidc)

    def do_POST(self):
        self.answer(domain)

    def log_message(self, *args):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{folder}/server.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Runner:
    """A runner of GitHub Actions: its home directory, and servers in the cloud's network."""

    cloud: Cloud
    folder: Path
    env: Mapping[str, str]

    def run(self, name: str) -> Completed:
        """Run a step's script as the runner does."""
        step = STEPS[name]
        assert WORKFLOW["defaults"]["run"]["shell"] == "bash"
        env = {**JOB["env"], **step.get("env", {}), **self.env}
        script = self.folder / "step.sh"
        script.write_text(step["run"])
        argv = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        return self.cloud.ns.run(argv, env=env, cwd=str(self.folder))

    def requests(self) -> list[Any]:
        lines = (self.folder / "requests").read_text().splitlines()
        return [json.loads(line) for line in lines]


@contextmanager
def started(
    cloud: Cloud, helper: Program, folder: Path, oidc: str, domain: str, key: str
) -> Iterator[Runner]:
    """A runner whose `openssl genrsa` makes this key: the session of the cloud belongs to it."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    (folder / "server.pem").write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    argv = [sys.executable, "-c", SERVER, str(folder), oidc, domain]
    with cloud.ns.popen(argv, stderr=None) as server:
        try:
            assert server.stdout is not None
            url = f"https://localhost:{int(server.stdout.readline())}"
            yield Runner(cloud, folder, environment(helper, folder, url, key))
        finally:
            server.kill()


def environment(helper: Program, folder: Path, url: str, key: str) -> dict[str, str]:
    bin_dir = folder / "bin"
    bin_dir.mkdir()
    (bin_dir / "key.pem").write_text(key)
    (bin_dir / "openssl").write_text(
        f"#!/bin/bash\n[ $1 != genrsa ] || exec cp {bin_dir}/key.pem $3\n"
        'exec /usr/bin/openssl "$@"\n'
    )
    (bin_dir / "openssl").chmod(0o755)
    policy = folder / "home" / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')  # as on the runners
    return {
        **helper.env,
        "PATH": f"{bin_dir}:{Path(helper.argv[0]).parent}:{PATH}",
        "HOME": str(folder / "home"),
        "CURL_CA_BUNDLE": str(folder / "ca.pem"),
        "IMAGE": IMAGE,
        "OCI_DOMAIN": url,
        "OCI_CLIENT": CLIENT,
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{url}/idtoken?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
    }


@pytest.fixture
def runner(cloud: Cloud, helper: Program, tmp_path: Path) -> Iterator[Runner]:
    session = cloud.control.session()
    oidc, domain = json.dumps({"value": JWT}), json.dumps({"token": session.token})
    with started(cloud, helper, tmp_path, oidc, domain, session.private_pem) as runner:
        yield runner


def test_a_pull_with_a_session(runner: Runner) -> None:
    runner.cloud.registry.push("ns/repo", ["v1"])
    exchanged = runner.run(EXCHANGE).check()
    pulled = runner.run(PULL).check()
    assert (runner.folder / "image" / "index.json").exists()
    report = runner.cloud.control.report()
    assert report.of_group("imds") == report.of_group("federation") == 0
    secrets = (JWT, CLIENT, REQUEST_TOKEN, (runner.folder / "home/.oci/session").read_text())
    output = b"".join((exchanged.stdout, exchanged.stderr, pulled.stdout, pulled.stderr)).decode()
    assert not any(secret in output for secret in secrets)


def test_the_requests_are_those_of_the_documentation(runner: Runner) -> None:
    runner.run(EXCHANGE).check()
    oidc, exchange = runner.requests()
    assert oidc == ["GET", "/idtoken?api-version=2.0", f"Bearer {REQUEST_TOKEN}", ""]
    method, path, authorization, body = exchange
    assert (method, path) == ("POST", "/oauth2/v1/token")
    assert authorization == f"Basic {b64encode(CLIENT.encode()).decode()}"
    form = {name: value for name, (value,) in parse_qs(body).items()}
    argv = ["openssl", "rsa", "-in", str(runner.folder / "bin/key.pem"), "-pubout"]
    public = subprocess.run([*argv, "-outform", "DER"], capture_output=True, check=True).stdout
    assert b64decode(form.pop("public_key"), validate=True) == public
    assert form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": "urn:oci:token-type:oci-upst",
        "subject_token": JWT,
        "subject_token_type": "jwt",
    }


def test_only_the_user_can_read_the_files(runner: Runner) -> None:
    runner.run(EXCHANGE).check()
    home = runner.folder / "home"
    files = [
        path for name in (".oci", ".docker") for path in (home / name, *(home / name).iterdir())
    ]
    assert not [path for path in files if path.stat().st_mode & 0o077]
    assert {path.name for path in files if path.is_file()} == {
        *("config", "key.pem", "public", "session", "config.json")
    }


@pytest.mark.parametrize(
    ("oidc", "domain"),
    [
        ("", '{"token": "t"}'),
        ('{"message": "no"}', '{"token": "t"}'),
        ('{"value": "j"}', ""),
        ('{"value": "j"}', '{"error": "no"}'),
    ],
)
def test_a_refused_exchange_stops_the_job(
    cloud: Cloud, helper: Program, tmp_path: Path, oidc: str, domain: str
) -> None:
    key = cloud.control.session().private_pem
    with started(cloud, helper, tmp_path, oidc, domain, key) as runner:
        assert runner.run(EXCHANGE).returncode != 0
    assert not (tmp_path / "home/.docker/config.json").exists()


def test_the_versions_agree() -> None:
    install = STEPS["Install docker-credential-ocir"]
    assert install["env"]["VERSION"] == __version__
    assert install["env"]["SHA256"] == ""  # sha256sum rejects it until the user sets it
    done = subprocess.run(
        ["bash", "-ec", 'sha256sum --check <<<"$SHA256  helper"'],
        env={"PATH": PATH, "SHA256": ""},
        capture_output=True,
    )
    assert done.returncode != 0
    assert JOB["env"]["OCIR_AUTH_METHOD"] == "USER_PRINCIPAL"


@pytest.mark.parametrize("name", STEPS)
def test_shellcheck_accepts_each_script(name: str) -> None:
    script = f"set -eo pipefail\n{STEPS[name]['run']}"
    argv = ["shellcheck", "--shell=bash", "-"]
    done = subprocess.run(argv, input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_the_readme_says_what_remains_and_what_was_not_run() -> None:
    text = " ".join((FOLDER / "README.md").read_text().split())
    assert re.search(r"One secret remains:.*confidential application", text)
    assert "not run against OCIR" in text
