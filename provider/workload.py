"""Who asks: a pod's service account, by OKE's workload identity.

The cluster's API server has an endpoint beside it that takes a service account's token for a session
token of OCI's, bound to a key of ours (oci.auth.signers.OkeWorkloadIdentityResourcePrincipalSigner
of the SDK asks in the same way; a test holds the two equal).
"""

import base64
import json
import os
import ssl
from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from provider.background import Background
from provider.deadline import Deadline
from provider.errors import (
    BasicCluster,
    ClusterUnknown,
    TlsUntrusted,
    WorkloadMalformed,
    WorkloadRefused,
    WorkloadUnreachable,
)
from provider.imds import Metadata
from provider.network import Network
from provider.principal import SECURITY_TOKEN, Principal, public_key
from provider.service_account import ServiceAccount
from provider.settings import Settings, parse_machine
from provider.signer import Signer
from provider.transport import Client, Origin

PORT = 12250
PATH = "/resourcePrincipalSessionTokens"
METADATA = "/instance/metadata"
# What OKE's own bootstrap reads or writes on a node (docs.oracle.com, "Creating Cloud-init Scripts
# for Self-managed Nodes").
APISERVER_FILE = "/etc/oke/oke-apiserver"
CA_FILE = "/etc/kubernetes/ca.crt"

EXPERIMENTAL = (
    "Whether OCIR takes workload identities is not verified anywhere: this way is experimental."
)
CA_HINT = (
    "The cluster's CA certificate does not fit the API server: check KUBERNETES_SERVICE_HOST,"
    f" OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH and {CA_FILE}, and the node's clock."
)


class Cluster(NamedTuple):
    """Where the API server is, and the PEM certificates of the CA that vouches for it."""

    host: str
    ca: str


def workload_principal(
    account: ServiceAccount, settings: Settings, key: Background[RSAPrivateKey], network: Network
) -> Principal:
    """The service account's identity: its token, exchanged at the cluster's endpoint.

    ``POST https://<API server>:12250/resourcePrincipalSessionTokens`` with the token as bearer and
    ``{"podKey": <public key>}``; the answer is ``{"token": "ST$..."}`` in base64, in quotation marks.
    No proxy is asked, and nobody but the cluster's CA is trusted: the token may be good for the
    Kubernetes API. Raises ClusterUnknown, Workload*, BasicCluster, TlsUntrusted, Imds*.
    """
    deadline = network.deadline
    cluster = cluster_of(settings, deadline)
    client = Client(origin(cluster), deadline, WorkloadUnreachable, [lambda: context(cluster)])
    client.open_early()
    private = key.result(deadline, "making a session key")
    body = json.dumps({"podKey": public_key(private)}).encode()
    headers = {
        "authorization": f"Bearer {account.token}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "opc-request-id": os.urandom(16).hex().upper(),
    }
    try:
        answer = client.request("POST", PATH, lambda: headers, body)
    except TlsUntrusted as error:
        raise TlsUntrusted(error.message, CA_HINT) from error
    whose = f"service account {account.namespace}/{account.name}"
    if answer.status == 403:
        raise BasicCluster(f"{answer.describe()} to {whose}")
    if answer.status != 200:
        raise WorkloadRefused(f"{answer.describe()} to {whose}, audience {account.audience}")
    try:
        content = json.loads(base64.b64decode(answer.body.strip().strip(b'"'), validate=True))
        token = content["token"].removeprefix("ST$")
        if not SECURITY_TOKEN.fullmatch(token):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # No cause attached: it would quote the answer, and with it the token.
        raise WorkloadMalformed(f"{answer.describe()} without a token") from None
    return Principal(whose, Signer(f"ST${token}", private))


def cluster_of(settings: Settings, deadline: Deadline) -> Cluster:
    """The cluster of this node. Raises ClusterUnknown, Imds*."""
    return find_cluster(settings, lambda: Metadata((METADATA,), deadline).get(METADATA), _text_of)


def origin(cluster: Cluster) -> Origin:
    """Where the endpoint is."""
    return Origin("https", cluster.host, PORT)


def find_cluster(
    settings: Settings, metadata: Callable[[], bytes], text_of: Callable[[str], str | None]
) -> Cluster:
    """The cluster of this node: as the settings say, else OKE's files, else the instance's metadata.

    ``metadata`` is asked only when it is needed; ``text_of`` gives a file's text, or None. Raises
    ClusterUnknown and what ``metadata`` raises.
    """
    host = settings.kubernetes_host or (text_of(APISERVER_FILE) or "").strip()
    ca = text_of(settings.kubernetes_ca_file or CA_FILE)
    if settings.kubernetes_ca_file and not ca:
        raise ClusterUnknown(f"the CA file {settings.kubernetes_ca_file} cannot be read")
    if not host or not ca:
        told = _told(metadata())
        host = host or told.host
        ca = ca or told.ca
    # It becomes a header's value.
    named = parse_machine(_without_port(host))
    if not named:
        raise ClusterUnknown("neither settings, files nor metadata name the cluster's API server")
    if not ca:
        raise ClusterUnknown("neither settings, files nor metadata have the cluster's CA")
    return Cluster(named, ca)


def _told(metadata: bytes) -> Cluster:
    """What the instance's metadata say, as OKE puts it there; empty texts where they are silent."""
    try:
        content = json.loads(metadata)
        host, ca = content.get("apiserver_host"), content.get("cluster_ca_cert")
        return Cluster(
            host if isinstance(host, str) else "",
            base64.b64decode(ca, validate=True).decode("ascii") if isinstance(ca, str) else "",
        )
    except (ValueError, AttributeError, RecursionError):
        return Cluster("", "")


def _without_port(host: str) -> str:
    """``10.0.0.5`` of ``10.0.0.5:6443``: the API server's own port is not the endpoint's."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host


def _text_of(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(1 << 20)
    except (OSError, UnicodeDecodeError):
        return None


def context(cluster: Cluster) -> ssl.SSLContext:
    """A client context that trusts the cluster's CA alone. Raises ClusterUnknown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=cluster.ca)
    except ssl.SSLError as error:
        raise ClusterUnknown("the cluster's CA is not a PEM certificate") from error
    return context
