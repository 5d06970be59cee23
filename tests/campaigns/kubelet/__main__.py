"""`python -m tests.campaigns.kubelet --kubelet PATH`: a whole kubelet and private images.

It runs with containerd, and with CRI-O if it is installed. The kubelet is standalone: its pods are files,
and no cluster is needed. Ends with 1 if something does not hold.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from tests.campaigns.kubelet.log import Event, Pull, events, pulls
from tests.campaigns.kubelet.node import Node
from tests.campaigns.kubelet.runtime import Runtime, find, installed
from tests.cloud.harness import STORES, Cloud
from tests.cloud.model import AUDIENCE, PAUSE, Iam, Policy, Seen
from tests.cloud.namespace import REPOSITORY
from tests.cloud.registry import write_image
from tests.conftest import INSTALLED, Program, forms

LOGS = REPOSITORY / "build" / "kubelet-logs"
HOST = "fra.ocir.io"
DENIED = "denied/app"
# A pull is tried again after 10 s, then after 20 s.
_PATIENCE_S = 60.0
_IAM = Iam(repositories=(*Iam().repositories, "ns/pods/", "denied/"))
# What one exchange needs. A pull check is a request for a manifest.
_EXCHANGE = ("imds", "federation", "token")

Change = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Boot:
    """What came of one start of the kubelet with its pods. `requests` are those of the provider."""

    pulls: list[Pull]
    requests: Counter[str]
    of_runtime: Counter[str]
    events: list[Event]
    refused: list[str]

    @property
    def seconds(self) -> float | None:
        """From the first look-up until the last container has started."""
        asked = [pull.asked for pull in self.pulls if pull.asked]
        started = [pull.started for pull in self.pulls if pull.started]
        return max(started) - min(asked) if asked and len(started) == len(self.pulls) else None

    @property
    def failed(self) -> int:
        return sum(pull.failed for pull in self.pulls)


class Campaign:
    """The cloud, the node and the images of a run; `wrong` is everything that did not hold."""

    def __init__(
        self, cloud: Cloud, node: Node, runtime: Runtime, kubelet: Path, program: Program
    ) -> None:
        self.cloud, self.node, self.runtime = cloud, node, runtime
        self.kubelet, self.program = kubelet, program
        self.wrong: list[str] = []

    def config(self, *options: str, change: Change | None = None) -> bytes:
        """What `config` prints, byte for byte if there is no `change`."""
        text = self.program.run(self.cloud, "config", *options).check().stdout
        if change is None:
            return text
        content = yaml.safe_load(text)
        change(content["providers"][0])
        return yaml.safe_dump(content).encode()

    def start(self, pods: Mapping[str, str], config: bytes) -> None:
        """Start the kubelet; the counters of the stand-in start at zero."""
        self.cloud.control.reset_counters()
        bin_dir = Path(self.program.argv[0]).parent
        self.node.start(self.kubelet, config, bin_dir, pods, self.program.env)

    def observe(self, pods: Mapping[str, str]) -> Boot:
        """What has happened since the start."""
        kubelet, log = self.node.logs()
        year = datetime.now(UTC).year
        seen = self.cloud.control.report().requests
        ours = [request for request in seen if request.client.startswith("oke-credential-provider")]
        others = [request for request in seen if request not in ours]
        return Boot(
            pulls(kubelet, log, self.runtime.pull, year, pods),
            Counter(map(_kind, ours)),
            Counter(map(_kind, others)),
            list(events(kubelet, year)),
            [f"{r.method} {r.path}: {r.refusal}" for r in ours if r.refusal],
        )

    def boot(self, title: str, pods: Mapping[str, str], config: bytes) -> Boot:
        """Start the kubelet with the pods, wait until all run, print what happened, stop it."""
        self.start(pods, config)
        running = self.node.wait(pods, _PATIENCE_S + len(pods))
        boot = self.observe(pods)
        print(f"\n{title}")
        print(table(boot, self.runtime.name))
        self.expect(running, f"not all pods run: {self.node.pods()}")
        self.expect(boot.failed == 0, f"{boot.failed} pulls failed")
        self.expect(not boot.refused, f"requests were refused: {boot.refused}")
        self.node.stop()
        return boot

    def expect(self, holds: bool, text: str) -> bool:
        """Print and keep the text of what does not hold. Returns `holds`."""
        if not holds:
            print(f"  FAILED    {text}")
            self.wrong.append(text)
        return holds

    # --- the steps ---

    def cold(self, images: Mapping[str, str]) -> Boot:
        boot = self.boot(
            f"Cold: {len(images)} pods of {len(images)} private images at once",
            images,
            self.config(),
        )
        for kind in ("federation", "token"):
            count = boot.requests[kind]
            self.expect(count == 1, f"{len(images)} cold look-ups made {count} {kind} requests")
        return boot

    def again(self, images: Mapping[str, str]) -> None:
        pods = {name.replace("pod", "again"): image for name, image in images.items()}
        boot = self.boot("Second boot: the same credential cache", pods, self.config())
        made = sum(boot.requests[kind] for kind in _EXCHANGE)
        self.expect(made == 0, f"the second boot made {dict(boot.requests)}")
        asked = sum(pull.asked is not None for pull in boot.pulls)
        self.expect(asked == len(images), f"the second boot looked up {asked} images")

    def alone(self, images: Mapping[str, str]) -> Boot:
        def change(provider: dict[str, Any]) -> None:
            provider["env"].append({"name": "TOKEN_CACHE", "value": "disabled"})

        title = "For comparison, without the credential cache (TOKEN_CACHE=disabled)"
        return self.boot(title, images, self.config(change=change))

    def denied(self) -> None:
        """A pod whose image no policy allows, until one does."""
        print("\nDenied: no policy allows the image")
        pods = {"denied": f"{HOST}/{DENIED}:latest"}
        shutil.rmtree(self.cloud.ns.path(STORES[0]), ignore_errors=True)
        self.cloud.ns.log()
        self.start(pods, self.config())
        if failure := self._failure(pods):
            print(f"  kubelet   {failure.reason}: {failure.message}")
        told = failure is not None and self.runtime.denied in failure.message
        self.expect(told, "no event says that the pull was denied")
        logged = [e.fields for e in self.cloud.ns.log() if e.fields.get("OKE_IMAGE") == DENIED]
        for fields in logged[:1]:
            print(f"  journal   {fields['MESSAGE']}")
        told = any("the policy or the dynamic group" in fields["MESSAGE"] for fields in logged)
        self.expect(told, "the journal does not say that a policy is missing")
        allowed = time.time()
        policies = (*_IAM.policies, Policy(prefix="denied/"))
        self.cloud.control.iam(Iam(policies=policies, repositories=_IAM.repositories))
        self.expect(self.node.wait(pods, _PATIENCE_S), "the pod does not run after the policy")
        boot = self.observe(pods)
        if started := boot.pulls[0].started:
            print(
                f"  healed    the pod ran {started - allowed:.1f} s after the policy was made,"
                f" after {boot.failed} failed pulls and {boot.requests['token']} token requests"
            )
        self.node.stop()
        self.cloud.control.iam(_IAM)

    def _failure(self, pods: Mapping[str, str]) -> Event | None:
        """The event of the first failed pull."""
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            found = self.observe(pods)
            if found.failed:
                return next(event for event in found.events if event.reason == "Failed")
            time.sleep(0.1)
        return None

    def per_pod(self, version: str, image: str) -> None:
        """What a standalone kubelet can show of service-account tokens."""
        print("\nPer-pod identity: config --workload-identity")
        options = ("--workload-identity", AUDIENCE, "--kubelet-version", version)
        pods = {"no-account": image}
        self.start(pods, self.config(*options))
        refused = self._failure(pods) is not None
        boot = self.observe(pods)
        if self.expect(
            refused and not boot.requests and boot.pulls[0].asked is None,
            f"a pod without a service account got credentials: {boot.pulls}, {boot.requests}",
        ):
            print(
                "  shown     a pod without a service account gets no credentials: the kubelet does"
            )
            print("            not run the provider, and the pull is refused")
        self.node.stop()

        def change(provider: dict[str, Any]) -> None:
            provider["tokenAttributes"]["requireServiceAccount"] = False
            for variable in provider["env"]:
                if variable["name"] == "OCIR_AUTH_METHOD":
                    variable["value"] = "WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL"

        self.start(pods, self.config(*options, change=change))
        if self.expect(self.node.wait(pods, _PATIENCE_S), "a static pod does not pull as the node"):
            print("  shown     with requireServiceAccount: false and the node as fallback, it runs")
        print(
            "  not shown a pull with a service-account token: a standalone kubelet has no API server"
        )
        print("            that issues one (the provider's part: tests/e2e/test_workload.py)")
        self.node.stop()


def _kind(request: Seen) -> str:
    if request.endpoint.startswith("imds"):
        return "imds"
    ours = request.client.startswith("oke-credential-provider")
    return "pull check" if ours and request.endpoint == "manifest" else request.endpoint


def table(boot: Boot, runtime: str) -> str:
    """The pods of a boot, and its totals."""
    lines = [f"  {'pod':<12}{'look-up':>10}{'pull':>10}{'failed pulls':>14}{'running after':>15}"]
    zero = min((pull.asked for pull in boot.pulls if pull.asked), default=0.0)
    for pull in boot.pulls:
        after = pull.started - zero if pull.started else None
        lines.append(
            f"  {pull.pod:<12}{_seconds(pull.look_up):>10}{_seconds(pull.pull):>10}"
            f"{pull.failed:>14}{_seconds(after):>15}"
        )
    middle = [_median(boot, "look_up"), _median(boot, "pull")]
    lines += [
        f"  {'median':<12}{_seconds(middle[0]):>10}{_seconds(middle[1]):>10}{boot.failed:>14}"
        f"{_seconds(boot.seconds):>15}  (sum, last)",
        f"  requests of the provider: {_counts(boot.requests)}",
        f"  requests of {runtime}: {_counts(boot.of_runtime)}",
    ]
    return "\n".join(lines)


def _median(boot: Boot, field: str) -> float | None:
    values = [getattr(pull, field) for pull in boot.pulls]
    return median(values) if values and None not in values else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "none"


def compare(shared: Boot, alone: Boot) -> str:
    """The ratios of a boot with the credential cache to one without."""
    requests = [sum(boot.requests[kind] for kind in _EXCHANGE) for boot in (shared, alone)]
    ratios = {
        "median look-up": (_median(shared, "look_up"), _median(alone, "look_up")),
        "all running": (shared.seconds, alone.seconds),
    }
    parts = [
        f"{name} {ours / theirs:.2f}" for name, (ours, theirs) in ratios.items() if ours and theirs
    ]
    return ", ".join((*parts, f"requests for exchanges {requests[0]} to {requests[1]}"))


def push_images(cloud: Cloud, repositories: list[str]) -> None:
    """Push an image of its own to each repository. Its program only waits."""
    folder = cloud.ns.folder / "images"
    folder.mkdir()
    program = folder / "app"
    source = Path(__file__).with_name("app.c")
    subprocess.run(
        ["musl-gcc", "-static", "-Os", "-s", "-Wall", "-Werror", "-o", str(program), str(source)],
        check=True,
    )
    for repository in repositories:
        layout = folder / repository.replace("/", "-")
        write_image(layout, {"app": program.read_bytes(), "name": repository.encode()})
        cloud.registry.push(repository, layout=layout)


def run(runtime: Runtime, kubelet: Path, version: str, program: Program, count: int) -> list[str]:
    """Run all steps. Returns what did not hold."""
    with Cloud() as cloud:
        repositories = {
            kind: {f"{kind}-{n}": f"ns/pods/{kind}-{n}" for n in range(1, count + 1)}
            for kind in ("pod", "alone")
        }
        every = [r for kind in repositories.values() for r in kind.values()]
        push_images(cloud, [PAUSE, DENIED, *every])
        images, others = (
            {name: f"{HOST}/{repository}:latest" for name, repository in kind.items()}
            for kind in repositories.values()
        )
        cloud.control.iam(_IAM)
        with Node(cloud, runtime, LOGS / runtime.name) as node:
            campaign = Campaign(cloud, node, runtime, kubelet, program)
            first = campaign.cold(images)
            campaign.again(images)
            alone = campaign.alone(others)
            print(f"  ratio with the cache to without: {compare(first, alone)}")
            campaign.denied()
            campaign.per_pod(version, next(iter(images.values())))
            return campaign.wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.kubelet", description=__doc__)
    parser.add_argument("--kubelet", type=Path, required=True, help="an executable, 1.34 or newer")
    parser.add_argument(
        "--runtime",
        type=find,
        action="append",
        help="containerd or crio, as a name or a path (default: each that is installed)",
    )
    parser.add_argument("--pods", type=int, default=10, help="how many private images at once")
    parser.add_argument("--form", default=INSTALLED, help="installed (default) or source")
    options = parser.parse_args()
    (program,) = [form for form in forms() if form.name == options.form]
    kubelet = options.kubelet.resolve()
    told = subprocess.run([kubelet, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v((\d+\.\d+)\.\S+)", told)
    assert match is not None, told
    print(f"kubelet {match[1]}, provider: {program.name}, {options.pods} pods")
    wrong = []
    for runtime in options.runtime or installed():
        print(f"\nRuntime: {runtime.name} {runtime.version()}")
        wrong += run(runtime, kubelet, match[2], program, options.pods)
    print(f"\n{len(wrong)} things do not hold; the logs are in {LOGS}" if wrong else "\nAll holds.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
