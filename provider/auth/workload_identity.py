"""Who asks: a pod's service account, by OKE's workload identity.

The cluster's API server has an endpoint beside it that takes a service account's token for a session
token of OCI's, bound to a key of ours (oci.auth.signers.OkeWorkloadIdentityResourcePrincipalSigner
of the SDK asks in the same way; a test holds the two equal).
"""

import base64
import json
import os
import re
import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from provider.auth.imds import Metadata
from provider.auth.kubeconfig import Kubeconfig, Unusable, kubeconfig_of, root_owned
from provider.auth.principal import SECURITY_TOKEN, Principal, public_key
from provider.auth.service_account import ServiceAccount
from provider.auth.signer import Signer
from provider.errors import (
    BasicCluster,
    ClusterUnknown,
    TlsUntrusted,
    WorkloadMalformed,
    WorkloadRefused,
    WorkloadUnreachable,
)
from provider.net.background import Background
from provider.net.clients import Network
from provider.net.deadline import Deadline
from provider.net.http import Client, Origin
from provider.settings import Settings, parse_machine

PORT = 12250
PATH = "/resourcePrincipalSessionTokens"
METADATA = "/instance/metadata"
# What OKE's own bootstrap reads or writes on a node (docs.oracle.com, "Creating Cloud-init Scripts
# for Self-managed Nodes").
APISERVER_FILE = "/etc/oke/oke-apiserver"
OKE_CONF = "/etc/oke/oke.conf"
CA_FILE = "/etc/kubernetes/ca.crt"
_ADDRESSES = {
    APISERVER_FILE: re.compile(r"(\S+)"),
    OKE_CONF: re.compile(r"""^\s*(?:export\s+)?APISERVER_ENDPOINT=["']?([^"'\s]+)""", re.M),
}

EXPERIMENTAL = (
    "Whether OCIR takes workload identities is not verified anywhere: this way is experimental."
)
CA_HINT = (
    "The cluster's CA certificate does not fit the API server: check KUBERNETES_SERVICE_HOST,"
    " OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH, the kubelet's --kubeconfig and the node's clock."
    " To see which were used: oke-credential-provider check."
)


class Cluster(NamedTuple):
    """Where the API server is, and the PEM certificates of the CA that vouches for it.

    ``source`` tells where both were found.
    """

    host: str
    ca: str
    source: str


def workload_principal(
    account: ServiceAccount, cluster: Cluster, key: Background[RSAPrivateKey], network: Network
) -> Principal:
    """The service account's identity: its token, exchanged at the cluster's endpoint.

    ``POST https://<API server>:12250/resourcePrincipalSessionTokens`` with the token as bearer and
    ``{"podKey": <public key>}``; the answer is ``{"token": "ST$..."}`` in base64, in quotation marks.
    No proxy is asked, and nobody but the cluster's CA is trusted: the token may be good for the
    Kubernetes API. Raises ClusterUnknown, Workload*, BasicCluster, TlsUntrusted.
    """
    deadline = network.deadline
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


def cluster_of(settings: Settings, deadline: Deadline, command: Sequence[str]) -> Cluster:
    """The cluster of this node. ``command`` is the kubelet's command line. Raises ClusterUnknown, Imds*."""
    return find_cluster(
        settings,
        lambda: kubeconfig_of(command),
        lambda: Metadata((METADATA,), deadline).get(METADATA),
        _text_of,
    )


def origin(cluster: Cluster) -> Origin:
    """Where the endpoint is."""
    return Origin("https", cluster.host, PORT)


def find_cluster(
    settings: Settings,
    kubeconfig: Callable[[], Kubeconfig],
    metadata: Callable[[], bytes],
    text_of: Callable[[str], str | None],
) -> Cluster:
    """The cluster of this node: as the settings say, else the kubelet's kubeconfig, else OKE's files.

    The metadata service can only add an address, if there is a CA certificate that the API server must
    have: whoever stands before the metadata service would otherwise get the service accounts' tokens.
    ``kubeconfig`` and ``metadata`` are asked only when they are needed; ``text_of`` gives the text of a
    file of OKE's, or None. Raises ClusterUnknown and what ``metadata`` raises.
    """
    host, host_source = settings.kubernetes_host or "", "settings"
    ca, ca_source = "", "settings"
    if settings.kubernetes_ca_file:
        ca = _chosen_ca(settings.kubernetes_ca_file)
    reason = ""
    if not host or not ca:
        told = kubeconfig()
        reason = told.source
        if not host:
            host, host_source = told.host, told.source
        if not ca:
            ca, ca_source = told.ca, told.source
    for path, pattern in _ADDRESSES.items():
        if not host and (found := pattern.search(text_of(path) or "")):
            host, host_source = found[1], path
    if not ca:
        ca, ca_source = text_of(CA_FILE) or "", CA_FILE
    if not ca:
        raise ClusterUnknown(
            f"neither settings, the kubelet's kubeconfig ({reason}) nor {CA_FILE} have the cluster's CA"
        )
    if not host:
        host, host_source = _address_in(metadata()), "instance metadata"
    # It becomes a header's value.
    named = parse_machine(_without_port(host))
    if not named:
        raise ClusterUnknown(
            f"neither settings, the kubelet's kubeconfig ({reason}), OKE's files nor the instance's"
            " metadata name the cluster's API server"
        )
    return Cluster(named, ca, f"API server from {host_source}, CA from {ca_source}")


def _address_in(metadata: bytes) -> str:
    """The API server's address in a self-managed node's metadata; empty where there is none."""
    try:
        host = json.loads(metadata).get("apiserver_host")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return host if isinstance(host, str) else ""


def _without_port(host: str) -> str:
    """``10.0.0.5`` of ``10.0.0.5:6443``: the API server's own port is not the endpoint's."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host


def _text_of(path: str) -> str | None:
    try:
        return root_owned(path).decode("ascii")
    except (Unusable, UnicodeDecodeError):
        return None


def _chosen_ca(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(1 << 20)
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterUnknown(f"the CA file {path} cannot be read") from error


def context(cluster: Cluster) -> ssl.SSLContext:
    """A client context that trusts the cluster's CA alone. Raises ClusterUnknown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=cluster.ca)
    except ssl.SSLError as error:
        raise ClusterUnknown("the cluster's CA is not a PEM certificate") from error
    return context
