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
from tests.cloud.model import PAUSE, DynamicGroup, Iam, Seen
from tests.cloud.namespace import REPOSITORY, Completed
from tests.support.kubelet import Kubelet, request

# The source: the demo has no build, and only the packages of packaging/locks/demo.txt.
PROGRAM = [sys.executable, "-m", "provider"]
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY)}
IMAGE = "fra.ocir.io/ns/repo"
PUBLIC = f"fra.ocir.io/{PAUSE}"
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
    say("A node boots and pulls a private image from OCIR", title=True)
    with Cloud() as cloud:
        registry = cloud.registry
        kubelet = Kubelet(lambda prefix, stdin: called(cloud, prefix, stdin))
        say(
            f"There is no password on this node. The registry must refuse to give {IMAGE} without one:"
        )
        show(registry.pull_with_skopeo(f"{IMAGE}:latest", None), ok=False)

        say(
            "The node's dynamic group does not exist yet. The kubelet asks for a public image first:"
        )
        cloud.control.iam(Iam(dynamic_groups=()))
        print(f"    standard input:  {request(PUBLIC).decode().strip()}")
        ask(cloud, kubelet, PUBLIC)

        say("Then for a private one. That token may not read it, and OCIR refuses the pull:")
        kubelet.now = 15
        show(registry.pull_with_skopeo(f"{IMAGE}:latest", ask(cloud, kubelet, IMAGE)), ok=False)

        say("An administrator creates the dynamic group. Two minutes later the kubelet asks again:")
        cloud.control.iam(Iam(dynamic_groups=(DynamicGroup(since=time.time()),)))
        kubelet.now = 120
        password = ask(cloud, kubelet, IMAGE)
        say("With these credentials the image is pulled, by containerd and by skopeo:")
        show(registry.pull_with_containerd(f"{IMAGE}:latest", password), ok=True)
        show(registry.pull_with_skopeo(f"{IMAGE}:latest", password), ok=True)

        say("A restarted kubelet asks for the image again, and gets the token without any request:")
        kubelet.restart()
        ask(cloud, kubelet, IMAGE)

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


def called(cloud: Cloud, prefix: tuple[str, ...], stdin: bytes) -> bytes:
    """Start the provider as the kubelet does. Prints what OCI was asked, and the answer."""
    cloud.control.reset_counters()
    before = time.time()
    result = cloud.ns.run([*prefix, *PROGRAM], stdin=stdin, env=ENVIRONMENT).check()
    for seen in cloud.control.report().requests:
        print(f"    {told(seen, before)}")
    print(f"    {result.seconds * 1e3:5.0f} ms  the kubelet has its answer")
    shortened = json.loads(result.stdout)
    for pair in shortened["auth"].values():
        pair["password"] = f"{pair['password'][:12]}... ({len(pair['password'])} characters)"
    print(f"    standard output: {json.dumps(shortened)}")
    return result.stdout


def ask(cloud: Cloud, kubelet: Kubelet, image: str) -> str:
    """Let the kubelet ask for an image; print the log line, and return the password."""
    answer = kubelet.credentials(image)
    assert answer is not None
    print(f"    log:             {cloud.ns.log()[-1].fields['MESSAGE']}\n")
    return answer.password


def say(text: str, *, title: bool = False) -> None:
    """Print a heading, bold on a terminal."""
    bold, end = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"{bold}{text}{end}" + (f"\n{'-' * len(text)}" if title else ""))


def told(seen: Seen, since: float) -> str:
    """One request in words, with the milliseconds since the call began."""
    what = _STEPS.get(seen.endpoint, seen.endpoint)
    return f"{(seen.time - since) * 1e3:5.0f} ms  {seen.status}  {seen.method:4}  {what}"


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
                textwrap.fill(
                    f"{pull.argv[0]}: refused, as expected: {reason}", 96, break_on_hyphens=False
                ),
                "    ",
            )
            + "\n"
        )


if __name__ == "__main__":
    sys.exit(main())
