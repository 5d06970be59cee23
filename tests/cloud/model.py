"""The types that the stand-in and its users exchange: frozen data that converts to JSON."""

import base64
import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

# --- names -------------------------------------------------------------------------------------

Endpoint = Literal[
    "imds.region",  # /instance/region and /instance/regionInfo
    "imds.cert",
    "imds.key",
    "imds.intermediate",
    "imds.instance",  # the rest of /instance/
    "imds.unknown",
    "federation",
    "token",
    "manifest",
    "blob",
    "ping",  # /v2/ itself
    "registry.unknown",
    "namespace",  # Object Storage's name for the tenancy
    "elsewhere",  # a host outside of OCI: the program must never send anything there
    "proxy",  # an HTTP proxy
    "workload",  # the workload identity endpoint next to the API server
]
Group = Literal["imds", "federation", "registry", "namespace", "elsewhere", "proxy", "cluster"]

TENANCY = "ocid1.tenancy.oc1..aaaaaaaastandintenancy"
COMPARTMENT = "ocid1.compartment.oc1..aaaaaaaastandincompartment"
INSTANCE = "ocid1.instance.oc1.eu-frankfurt-1.antheljtstandininstance"
NAMESPACE = "ns"
USER = "ocid1.user.oc1..aaaaaaaastandinuser"
CLUSTER = "ocid1.cluster.oc1.eu-frankfurt-1.aaaaaaaastandincluster"
RESOURCE = "ocid1.computecontainerinstance.oc1.eu-frankfurt-1.standinresource"
AUDIENCE = "https://kubernetes.default.svc.cluster.local"
REGISTRY_USER = "BEARER_TOKEN"  # the user name for an OCIR token
ISSUER, SERVICE = "ocir-standin", "ocir"  # the values that docker-registry expects in its tokens


def group_of(target: Endpoint | Group) -> Group:
    """Return the group of hosts that serves an endpoint. A group returns itself."""
    if target.startswith("imds"):
        return "imds"
    if target in ("federation", "namespace", "elsewhere", "proxy"):
        return target
    return "cluster" if target in ("workload", "cluster") else "registry"


# --- places ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Region:
    """A region, as in IMDS `/instance/regionInfo`."""

    key: str
    name: str
    realm: str
    domain: str


FRANKFURT = Region("FRA", "eu-frankfurt-1", "oc1", "oraclecloud.com")
ASHBURN = Region("IAD", "us-ashburn-1", "oc1", "oraclecloud.com")
LANGLEY = Region("LFI", "us-langley-1", "oc2", "oraclegovcloud.com")
ACME = Region("ACM", "us-acme-1", "oc77", "acmecloud.example")  # a dedicated region
NEWER = Region("NEW", "xx-new-1", "oc1", "oraclecloud.com")  # newer than the lists of regions
REGIONS = (FRANKFURT, ASHBURN, LANGLEY, ACME, NEWER)


@dataclass(frozen=True, slots=True)
class Place:
    """Host names that share one address. `region` is None if the host is not OCI's."""

    group: Group
    address: str
    ports: tuple[int, ...]
    hosts: tuple[str, ...]
    region: Region | None = None


IMDS_ADDRESS = "169.254.169.254"
CLUSTER_ADDRESS = "127.0.6.1"
PLACES: tuple[Place, ...] = (
    Place("imds", IMDS_ADDRESS, (80,), ()),
    *(
        Place("federation", f"127.0.1.{n}", (443,), (f"auth.{r.name}.{r.domain}",), r)
        for n, r in enumerate(REGIONS, 1)
    ),
    *(
        Place(
            "registry",
            f"127.0.2.{n}",
            (443,),
            (
                # Only OC1 has the short names.
                *((f"{r.key.lower()}.ocir.io", f"{r.name}.ocir.io") if r.realm == "oc1" else ()),
                f"ocir.{r.name}.oci.{r.domain}",
            ),
            r,
        )
        for n, r in enumerate(REGIONS, 1)
    ),
    Place(
        "elsewhere",
        "127.0.3.1",
        (80, 443),
        ("elsewhere.example", "fra.ocir.io.elsewhere.example", "evilocir.io"),
    ),
    *(
        Place("namespace", f"127.0.5.{n}", (443,), (f"objectstorage.{r.name}.{r.domain}",), r)
        for n, r in enumerate(REGIONS, 1)
    ),
    Place("proxy", "127.0.4.1", (3128,), ("proxy.example",)),
    # Its certificates are from the cluster's CA and contain the address too.
    Place("cluster", CLUSTER_ADDRESS, (12250,), ("api.cluster.example",)),
)


# --- faults ------------------------------------------------------------------------------------

ConnectionFault = Literal[
    "refused",  # the listener is closed
    "black_hole",  # accepted, never answered
    "reset_accept",
    "tls_expired",
    "tls_wrong_name",
    "tls_unknown_ca",
    "tls_old",  # TLS 1.0 and 1.1 only
]
AnswerFault = Literal[
    "latency",  # the valid answer, delay_ms late
    "status",  # `status`, `headers`, `body`
    # `status`, with everything that the client sent in the reason, in headers and in the body; with
    # status 200, the body is valid
    "echo",
    "echo_bare",  # everything that the client sent, without HTTP
    "redirect",  # `status` (302 when 200) to a host outside of OCI
    "reset_headers",
    "reset_body",
    "slow_headers",  # one byte per interval_s
    "slow_body",
    "endless_headers",
    "endless_body",
    "huge_body",  # 50 MB, with Content-Length
    "cut_body",  # shorter than Content-Length
    "content_type",  # the valid answer with `content_type`
    "html",
    "invalid_json",
    "patch",  # the valid JSON answer with `patch` merged into it
    "body",  # 200 with `body`
]
FaultKind = ConnectionFault | AnswerFault
CONNECTION_FAULTS: frozenset[FaultKind] = frozenset(get_args(ConnectionFault))
# The opc-request-id of an echo: everything that the client sent; a long run of allowed characters from what
# the client sent, from what it signed earlier, or from the body of the valid answer; the first run in pieces
# and upper case.
EchoId = Literal["whole", "run", "earlier", "received", "pieces"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of an endpoint, active until it is cleared.

    Some endpoints share one address. There, `black_hole` and `reset_accept` strike when the request is
    known. `refused` and the TLS faults strike the whole address; those of "manifest" strike only after a
    token answer. For a call that requests no token, set them on "registry".
    """

    kind: FaultKind
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    content_type: str = "application/json"
    patch: Mapping[str, object] = field(default_factory=dict)
    delay_ms: float = 0.0
    interval_s: float = 1.0
    echo_id: EchoId = "whole"
    times: int | None = None  # ends after this number of requests
    rate: float = 1.0  # the random share of requests that it strikes

    def __post_init__(self) -> None:
        if self.kind == "refused" and (self.times is not None or self.rate < 1.0):
            raise ValueError("the stand-in cannot count refused connections")


# --- identity and access management ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DynamicGroup:
    """The instances of one compartment. Tokens from before `since` are never members."""

    name: str = "nodes"
    compartment: str = COMPARTMENT
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """A service account of a cluster, as in policies: request.principal.cluster_id, ..."""

    cluster: str = CLUSTER
    namespace: str = "default"
    service_account: str = "app"


@dataclass(frozen=True, slots=True)
class Policy:
    """`subject` may read repositories with `prefix`.

    `subject` is the name of a dynamic group, the OCID of another principal, or a workload.
    """

    subject: str | Workload = "nodes"
    prefix: str = "ns/"
    since: float = 0.0


# Public repositories that booting OKE nodes pull from. They have no common naming rule.
PAUSE = "axoxdievda5j/oke-public-pause"
OKE_PUBLIC = (
    PAUSE,
    "id9y6mi8tcky/oke-public-kube-proxy",
    "oke-native-steward/oke-public-pause-amd64",
    "oracle/oci-cluster-autoscaler",
)


@dataclass(frozen=True, slots=True)
class Iam:
    """The permissions. `public` and `repositories` name repositories; "x/" means all below it."""

    dynamic_groups: tuple[DynamicGroup, ...] = (DynamicGroup(),)
    policies: tuple[Policy, ...] = (Policy(), Policy(subject=USER))
    public: tuple[str, ...] = ("ns/public", *OKE_PUBLIC)
    # The repositories without a real registry.
    repositories: tuple[str, ...] = (
        "ns/repo",
        "ns/app",
        "ns/public",
        "ns/many/",
        *OKE_PUBLIC,
        "ns/untagged",
        "other/secret",
    )
    untagged: tuple[str, ...] = ("ns/untagged",)  # repositories without a tag "latest"


# --- IMDS --------------------------------------------------------------------------------------


# The keys of a managed node's metadata, from published logs. They do not include address and CA
# certificate of the API server.
MANAGED_NODE: Mapping[str, object] = {
    "ansible_args": base64.b64encode(b'{"k8s_apiserver_addr": "10.0.0.5:6443"}').decode(),
    "bootstrap-kubelet-conf": base64.b64encode(b"apiVersion: v1\nkind: Config\n").decode(),
    "oci_tld": "oraclecloud.com",
    "oke-cluster-id": CLUSTER,
    "oke-k8version": "v1.34.1",
    "oke-pool-id": "ocid1.nodepool.oc1.eu-frankfurt-1.aaaaaaaastandinpool",
    "oke-tenancy-id": TENANCY,
    "oke_init_script": "c2NyaXB0",
    "realm": "oc1",
}


@dataclass(frozen=True, slots=True)
class Imds:
    """The contents and limits of the metadata service."""

    region: Region = FRANKFURT
    instance: str = INSTANCE
    compartment: str = COMPARTMENT
    tenancy: str = TENANCY
    metadata: Mapping[str, object] = field(default_factory=lambda: dict(MANAGED_NODE))
    max_under_way: int | None = None  # 429 above this number of parallel requests


# --- the cluster -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cluster:
    """The Kubernetes cluster of the nodes. A basic cluster has no workload identity."""

    ocid: str = CLUSTER
    enhanced: bool = True
    audience: str = AUDIENCE  # the required audience of tokens


# --- reports -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """One request to the stand-in. `status` 0: no complete answer."""

    time: float
    endpoint: Endpoint
    host: str
    method: str
    path: str
    header_names: tuple[str, ...]
    status: int
    refusal: str | None
    request_id: str
    connection: int
    bears_account: bool = False  # it contains a service-account token anywhere
    client: str = ""  # its User-Agent


@dataclass(frozen=True, slots=True)
class Count:
    """The requests to one endpoint since the last reset."""

    requests: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    peak: int = 0  # the maximum of parallel requests


@dataclass(frozen=True, slots=True)
class Report:
    """All counters. `connections` has the accepted connections per group of hosts."""

    endpoints: Mapping[Endpoint, Count]
    connections: Mapping[Group, int]
    requests: tuple[Seen, ...]

    def count(self, endpoint: Endpoint) -> int:
        """Return the number of requests to `endpoint`."""
        return self.endpoints[endpoint].requests if endpoint in self.endpoints else 0

    def of_group(self, group: Group) -> int:
        """Return the number of requests to all endpoints of `group`."""
        return sum(c.requests for e, c in self.endpoints.items() if group_of(e) == group)

    def refusals(self) -> list[str]:
        """Return the reasons for refusals, in order."""
        return [r.refusal for r in self.requests if r.refusal is not None]


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that must appear only at its destination."""

    kind: str
    value: str

    def needles(self) -> tuple[str, ...]:
        """Return parts that reveal a leak even if the value is cut, wrapped or escaped.

        For PEM, these are the full lines; for a JWT, parts of payload and signature, not of the header.
        """
        if "-----BEGIN" in self.value:
            return tuple(line for line in self.value.splitlines() if len(line) == 64)
        if self.value.count(".") == 2:
            _, payload, signature = self.value.split(".")
            return payload[:48], payload[-48:], signature[:48]
        return (self.value,)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A user's API signing key in the stand-in. `private_pem` may need `passphrase`."""

    tenancy: str
    user: str
    fingerprint: str
    private_pem: str
    passphrase: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A user's session token, as from `oci session authenticate`, and its private key."""

    tenancy: str
    user: str
    token: str
    private_pem: str


# --- JSON --------------------------------------------------------------------------------------

T = TypeVar("T")


def to_json(value: object) -> Any:
    """Convert frozen data for json.dumps."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def from_json(kind: type[T], value: Any) -> T:
    """Reverse `to_json` for the types of this module. Raises TypeError for an unknown field."""
    return typing.cast(T, _decode(kind, value))


def _decode(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        if isinstance(value, str):
            return value
        kinds = [k for k in get_args(kind) if k is not type(None)]
        return _decode(next((k for k in kinds if dataclasses.is_dataclass(k)), kinds[0]), value)
    if origin is tuple:
        inner = get_args(kind)
        if inner[-1] is Ellipsis:
            return tuple(_decode(inner[0], v) for v in value)
        return tuple(_decode(k, v) for k, v in zip(inner, value, strict=True))
    if origin is not None and isinstance(value, Mapping) and origin is not Literal:
        return {k: _decode(get_args(kind)[1], v) for k, v in value.items()}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{k: _decode(hints.get(k, object), v) for k, v in value.items()})  # type: ignore[operator]
    return value
