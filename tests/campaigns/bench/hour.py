"""The requests of one node's kubelet in an hour. It caches each response for its image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.campaigns.bench.measure import Bench, Call, forget
from tests.cloud.model import Iam, Policy
from tests.conftest import Program
from tests.support.kubelet import Kubelet

IMAGES = 60
_HOST = "fra.ocir.io"
_HOUR = 3600.0
_MANY = tuple(f"ns/many/{number}" for number in range(IMAGES))


@dataclass(frozen=True, slots=True)
class Node:
    """A node's images. `seconds` is the simulated time for the hour."""

    name: str
    iam: Iam
    repositories: Sequence[str]
    seconds: float = _HOUR


_ALLOWED = Iam()
_UNTAGGED = Iam(untagged=("ns/many/",))
_DENIED = Iam(policies=(Policy(prefix="ns/repo"),))
NODES = (
    Node("all may be pulled", _ALLOWED, _MANY),
    Node("all may be pulled, none has a tag latest", _UNTAGGED, _MANY),
    Node("one is denied", _ALLOWED, ("other/secret", *_MANY[1:])),
    Node("all are denied", _DENIED, _MANY, _HOUR / 5),
)


@dataclass(frozen=True, slots=True)
class Hour:
    """The calls and requests of a node in an hour."""

    name: str
    calls: float
    cpu_seconds: float
    imds: float
    tokens: float
    manifests: float


def hour(bench: Bench, program: Program, node: Node) -> Hour:
    """Ask for each image again as soon as its response expires. No kubelet asks more often.

    The clock for the age of responses and tokens is simulated.
    """
    forget()
    bench.control.reset()
    bench.control.iam(node.iam)
    spent: list[Call] = []

    def run(prefix: tuple[str, ...], stdin: bytes) -> bytes:
        argv = ("/usr/bin/env", *prefix, *program.argv)
        call, stdout = bench.call(replace(program, argv=argv), stdin)
        spent.append(call)
        return stdout

    kubelet = Kubelet(run)
    images = [f"{_HOST}/{repository}" for repository in node.repositories]
    while kubelet.now < node.seconds:
        for image in images:
            kubelet.credentials(image)
        kubelet.now = min(map(kubelet.expiry, images))
    report = bench.control.report()
    scale = _HOUR / node.seconds
    return Hour(
        node.name,
        kubelet.calls * scale,
        sum(call.cpu_seconds for call in spent) * scale,
        report.of_group("imds") * scale,
        report.count("token") * scale,
        report.count("manifest") * scale,
    )
