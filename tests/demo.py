"""``make demo``: shows the main job with a stand-in for OCI.

The demo runs in a network namespace where OCI's real names and addresses lead to the stand-in. A real
registry runs behind the stand-in, and containerd and skopeo pull from it. Nothing leaves this machine.
"""

import io
import json
import sys
import textwrap
import time

from tests.cloud.harness import Cloud
from tests.cloud.model import PAUSE, DynamicGroup, Iam, Seen
from tests.cloud.namespace import REPOSITORY, Completed
from tests.support.kubelet import Kubelet, request

# The source form: the demo builds nothing and has only the packages of packaging/locks/demo.txt.
PROGRAM = [sys.executable, "-m", "provider"]
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY)}
IMAGE = "fra.ocir.io/ns/repo"
PUBLIC = f"fra.ocir.io/{PAUSE}"
_STEPS = {
    "imds.region": "metadata service: the region of this node",
    "imds.cert": "metadata service: the certificate of this node",
    "imds.key": "metadata service: the key of the certificate",
    "imds.intermediate": "metadata service: the intermediate certificate",
    "federation": "federation: verifies certificate and signature, returns a security token",
    "token": "registry: verifies the signature, returns a registry token",
    "manifest": "registry: can this token pull the image?",
}


def main() -> int:
    """Run the demo. Exits with 1 if a pull ends otherwise than expected."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # keeps the order with stderr in a pipe
    say("A node boots and pulls a private image from OCIR", title=True)
    with Cloud() as cloud:
        registry = cloud.registry
        kubelet = Kubelet(lambda prefix, stdin: run_plugin(cloud, prefix, stdin))
        say(f"The node has no password. The registry must refuse a pull of {IMAGE} without one:")
        show(registry.pull_with_skopeo(f"{IMAGE}:latest", None), ok=False)

        say("The node's dynamic group does not exist yet. The kubelet first needs a public image:")
        cloud.control.iam(Iam(dynamic_groups=()))
        print(f"    standard input:  {request(PUBLIC).decode().strip()}")
        ask(cloud, kubelet, PUBLIC)

        say("Then it needs a private image. The token cannot read it, and OCIR refuses the pull:")
        kubelet.now = 15
        show(registry.pull_with_skopeo(f"{IMAGE}:latest", ask(cloud, kubelet, IMAGE)), ok=False)

        say(
            "An administrator creates the dynamic group. Two minutes later, the kubelet tries again:"
        )
        cloud.control.iam(Iam(dynamic_groups=(DynamicGroup(since=time.time()),)))
        kubelet.now = 120
        password = ask(cloud, kubelet, IMAGE)
        say("containerd and skopeo pull the image with these credentials:")
        show(registry.pull_with_containerd(f"{IMAGE}:latest", password), ok=True)
        show(registry.pull_with_skopeo(f"{IMAGE}:latest", password), ok=True)

        say("After a restart, the kubelet gets the token again, without any request to OCI:")
        kubelet.restart()
        ask(cloud, kubelet, IMAGE)

    say("On your own node", title=True)
    print("    See examples/run-on-worker-instance-principal/README.md.\n")
    say("On a laptop with ~/.oci/config and an image of your own", title=True)
    print(
        "    make setup   # includes OCI's SDK, which reads that file\n"
        "    export OCIR_AUTH_METHOD=USER_PRINCIPAL\n"
        '    echo \'{"apiVersion": "credentialprovider.kubelet.k8s.io/v1",\n'
        '           "kind": "CredentialProviderRequest",\n'
        '           "image": "fra.ocir.io/NAMESPACE/REPOSITORY"}\' |\n'
        "        .venv/bin/oke-credential-provider\n"
    )
    return 0


def run_plugin(cloud: Cloud, prefix: tuple[str, ...], stdin: bytes) -> bytes:
    """Run the provider as the kubelet does. Prints the requests to OCI and the response."""
    cloud.control.reset_counters()
    before = time.time()
    result = cloud.ns.run([*prefix, *PROGRAM], stdin=stdin, env=ENVIRONMENT).check()
    for seen in cloud.control.report().requests:
        print(f"    {describe(seen, before)}")
    print(f"    {result.seconds * 1e3:5.0f} ms  the kubelet has the response")
    shortened = json.loads(result.stdout)
    for pair in shortened["auth"].values():
        pair["password"] = f"{pair['password'][:12]}... ({len(pair['password'])} characters)"
    print(f"    standard output: {json.dumps(shortened)}")
    return result.stdout


def ask(cloud: Cloud, kubelet: Kubelet, image: str) -> str:
    """Let the kubelet get credentials for an image. Prints the log line, returns the password."""
    answer = kubelet.credentials(image)
    assert answer is not None
    print(f"    log:             {cloud.ns.log()[-1].fields['MESSAGE']}\n")
    return answer.password


def say(text: str, *, title: bool = False) -> None:
    """Print a heading, bold on a terminal."""
    bold, end = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"{bold}{text}{end}" + (f"\n{'-' * len(text)}" if title else ""))


def describe(seen: Seen, since: float) -> str:
    """Describe one request, with the milliseconds since the start of the call."""
    what = _STEPS.get(seen.endpoint, seen.endpoint)
    return f"{(seen.time - since) * 1e3:5.0f} ms  {seen.status}  {seen.method:4}  {what}"


def show(pull: Completed, *, ok: bool) -> None:
    """Print how a pull ended. Exits if it did not end as expected."""
    last = (pull.stderr or pull.stdout).decode().strip().splitlines()[-1]
    if (pull.returncode == 0) != ok:
        sys.exit(f"{pull.argv[0]} ended with {pull.returncode}: {last}")
    if ok:
        print(f"    {pull.argv[0]}: pulled\n")
    else:
        # The registry's message comes last. skopeo quotes it.
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
