"""The metadata service without the stand-in: over IPv6, and absent."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.support.kubelet import read_response, request

IMAGE = "fra.ocir.io/ns/repo"
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


def test_a_machine_without_imds_fails_quickly_and_names_both_addresses() -> None:
    began = time.monotonic()
    program = f"ip link set lo up && exec {sys.executable} -m provider"
    call = inside(program, IMAGE, {"DEADLINE_SECONDS": "20"})
    assert call.returncode == 20
    assert b"imds-unreachable" in call.stderr
    assert time.monotonic() - began < 15
    check = inside(f"{program} check --output json {IMAGE}", IMAGE)
    steps = json.loads(check.stdout)["steps"]
    (came,) = [step["came"] for step in steps if step["name"] == "metadata"]
    for message in (call.stderr.decode(), came):
        assert message.index("169.254.169.254") < message.index("fd00:c1::a9fe:a9fe"), message
