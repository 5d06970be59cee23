"""The metadata service without the stand-in: over IPv6, and absent."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.support.kubelet import read_response, request

SERVER = """
import http.server, socket, subprocess, sys, threading

class Imds(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        valid = self.headers["authorization"] == "Bearer Oracle"
        valid = valid and self.path == "/opc/v2/instance/regionInfo"
        valid = valid and self.headers["host"] == "[fd00:c1::a9fe:a9fe]"
        body = b'{"regionIdentifier": "r-1", "realmDomainComponent": "acme.cloud"}'
        self.send_response(200 if valid else 400)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass

class Server(http.server.HTTPServer):
    address_family = socket.AF_INET6

server = Server(("fd00:c1::a9fe:a9fe", 80), Imds)
threading.Thread(target=server.serve_forever, daemon=True).start()
result = subprocess.run([sys.executable, "-m", "provider"], stdin=sys.stdin)
sys.exit(result.returncode)
"""


def inside(
    command: str, image: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a shell command in a new network namespace."""
    return subprocess.run(
        ["unshare", "--net", "/bin/sh", "-c", command],
        input=request(image),
        capture_output=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TOKEN_CACHE": "disabled", **(env or {})},
        cwd=Path(__file__).parents[2],
    )


def test_an_ipv6_only_node_queries_imds_over_ipv6() -> None:
    # The image's realm domain is not in the list. The program asks IMDS, which names another one.
    setup = "ip link set lo up && ip -6 address add fd00:c1::a9fe:a9fe/128 dev lo nodad"
    serve = f"exec {sys.executable} -c {shlex.quote(SERVER)}"
    result = inside(f"{setup} && {serve}", "ocir.r-1.oci.other.cloud/ns/repo")
    assert result.returncode == 0, result.stderr
    assert read_response(result.stdout).auth == {}


def test_a_machine_without_imds_fails_quickly() -> None:
    began = time.monotonic()
    command = f"ip link set lo up && exec {sys.executable} -m provider"
    result = inside(command, "fra.ocir.io/ns/repo", {"DEADLINE_SECONDS": "20"})
    assert result.returncode == 20
    assert b"imds-unreachable" in result.stderr
    assert time.monotonic() - began < 15


def test_the_error_names_both_addresses_of_imds() -> None:
    # The namespace has no route.
    command = f"exec {sys.executable} -m provider"
    image = "fra.ocir.io/ns/repo"
    call = inside(command, image, {"DEADLINE_SECONDS": "20"}).stderr.decode()
    step = json.loads(inside(f"{command} check --output json {image}", image).stdout)["steps"]
    (came,) = [each["came"] for each in step if each["name"] == "metadata"]
    for message in (call, came):
        assert message.index("169.254.169.254") < message.index("fd00:c1::a9fe:a9fe"), message
