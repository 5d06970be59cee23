"""``make demo``: the main job on an embedded stand-in for OCI, told on the screen.

A network namespace of its own, in which OCI's true names and addresses lead to the stand-in; a real
registry behind it; real pulls by containerd and skopeo. Nothing leaves this machine.
"""

from __future__ import annotations

import io
import json
import sys
import textwrap
import time

from tests.cloud.harness import Cloud
from tests.cloud.model import Seen
from tests.cloud.namespace import REPOSITORY, Completed
from tests.kubelet import read_response, request

# The source: the demo has no build, and only the packages of packaging/demo.txt.
PROGRAM = [sys.executable, "-m", "provider"]
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY)}
IMAGE = "fra.ocir.io/ns/repo"
_STEPS = {
    "imds.region": "the metadata service says where this node is",
    "imds.cert": "... its certificate",
    "imds.key": "... the certificate's key",
    "imds.intermediate": "... who issued it",
    "federation": "federation verifies certificate and signature, gives a security token",
    "token": "the registry verifies the security token's signature, gives a registry token",
    "manifest": "the registry is asked whether that token may pull the image",
}


def main() -> int:
    """Tell the story; exit code 1 when it does not end well."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in order with stderr when piped
    say("A kubelet wants to pull a private image from OCIR", title=True)
    with Cloud() as cloud:
        registry = cloud.registry
        say(f"This node has no password for {IMAGE}. The registry must refuse a pull without one:")
        show(registry.pull_with_skopeo(f"{IMAGE}:latest", None), ok=False)

        say("The kubelet runs the provider, with this on standard input:")
        line = request(IMAGE)
        print(f"    {line.decode().strip()}\n")
        cloud.control.reset_counters()
        before = time.time()
        result = cloud.ns.run(PROGRAM, stdin=line, env=ENVIRONMENT).check()

        say("The node proved who it is. The stand-in saw, checked and answered:")
        for seen in cloud.control.report().requests:
            print(f"    {told(seen, before)}")
        print(f"    {result.seconds * 1e3:5.0f} ms  the kubelet has its answer\n")

        answer = read_response(result.stdout)
        say("The provider answered, on standard output (the token is shortened here):")
        shortened = json.loads(result.stdout)
        pair = shortened["auth"]["fra.ocir.io"]
        pair["password"] = f"{pair['password'][:12]}... ({len(pair['password'])} characters)"
        print("    " + json.dumps(shortened, indent=2).replace("\n", "\n    ") + "\n")

        say("It told the journal:")
        print(f"    {cloud.ns.log()[-1].fields['MESSAGE']}\n")

        say("With these credentials the same image is pulled, by containerd and by skopeo:")
        show(registry.pull_with_containerd(f"{IMAGE}:latest", answer.password), ok=True)
        show(registry.pull_with_skopeo(f"{IMAGE}:latest", answer.password), ok=True)

        say("Asked again, it hands out the token that it has, and asks nobody:")
        cloud.control.reset_counters()
        again = cloud.ns.run(PROGRAM, stdin=line, env=ENVIRONMENT).check()
        requests = len(cloud.control.report().requests)
        print(f"    {again.seconds * 1e3:5.0f} ms, {requests} requests\n")

    say("On a node of yours", title=True)
    print("    examples/run-on-worker-instance-principal/README.md rolls it out.\n")
    say("On a laptop that has ~/.oci/config, with an image of yours", title=True)
    print(
        "    make setup   # with OCI's SDK, which reads that file\n"
        "    export OCIR_AUTH_METHOD=USER_PRINCIPAL\n"
        '    echo \'{"apiVersion": "credentialprovider.kubelet.k8s.io/v1",\n'
        '           "kind": "CredentialProviderRequest",\n'
        '           "image": "fra.ocir.io/NAMESPACE/REPOSITORY"}\' |\n'
        "        .venv/bin/oke-credential-provider\n"
    )
    return 0


def say(text: str, *, title: bool = False) -> None:
    """Print a heading, bold on a terminal."""
    bold, end = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"{bold}{text}{end}" + (f"\n{'-' * len(text)}" if title else ""))


def told(seen: Seen, since: float) -> str:
    """One request in words, with the milliseconds since the call began."""
    what = _STEPS.get(seen.endpoint, seen.endpoint)
    return f"{(seen.time - since) * 1e3:5.0f} ms  {seen.status}  {what}"


def show(pull: Completed, *, ok: bool) -> None:
    """Print how a pull ended; exit when it went the other way."""
    last = (pull.stderr or pull.stdout).decode().strip().splitlines()[-1]
    if (pull.returncode == 0) != ok:
        sys.exit(f"{pull.argv[0]} ended with {pull.returncode}: {last}")
    if ok:
        print(f"    {pull.argv[0]}: pulled\n")
    else:
        # The registry's own words come last. skopeo quotes its message.
        reason = last.rpartition(": ")[2].replace('\\"', '"').rstrip('"')
        print(
            textwrap.indent(
                textwrap.fill(f"{pull.argv[0]}: refused, as expected: {reason}", 96), "    "
            )
            + "\n"
        )


if __name__ == "__main__":
    sys.exit(main())
