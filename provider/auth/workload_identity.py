"""OKE workload identity: the principal of a pod's service account.

An endpoint next to the cluster's API server exchanges a service-account token for a security token that is bound
to the session key. The SDK sends the same request, as a test shows
(https://github.com/oracle/oci-python-sdk/blob/master/src/oci/auth/signers/oke_workload_identity_resource_principal_signer.py).
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
from provider.auth.principal import Principal, is_security_token, public_key
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
from provider.net.client import Client, Network
from provider.net.deadline import Deadline
from provider.net.hostname import parse_host
from provider.net.http import Origin
from provider.settings import Settings

PORT = 12250
PATH = "/resourcePrincipalSessionTokens"
METADATA = "/instance/metadata"
# Files that OKE's bootstrap reads or writes on a node
# (https://docs.oracle.com/en-us/iaas/Content/ContEng/Tasks/contengcloudinitforselfmanagednodes.htm).
APISERVER_FILE = "/etc/oke/oke-apiserver"
OKE_CONF = "/etc/oke/oke.conf"
CA_FILE = "/etc/kubernetes/ca.crt"
_ADDRESSES = {
    APISERVER_FILE: re.compile(r"(\S+)"),
    OKE_CONF: re.compile(r"""^\s*(?:export\s+)?APISERVER_ENDPOINT=["']?([^"'\s]+)""", re.M),
}

EXPERIMENTAL = "This is experimental: nobody has verified that OCIR accepts workload identities."
CA_HINT = (
    "The cluster's CA did not issue the API server's certificate. Check KUBERNETES_SERVICE_HOST,"
    " OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH, the kubelet's --kubeconfig and the node's clock."
    " oke-credential-provider check shows which values were used."
)


class Cluster(NamedTuple):
    """The address of the API server, and the PEM certificates of its CA.

    ``source`` says where both were found.
    """

    host: str
    ca: str
    source: str


def workload_principal(
    account: ServiceAccount, cluster: Cluster, key: Background[RSAPrivateKey], network: Network
) -> Principal:
    """Exchange the service-account token for a security token at the cluster's endpoint.

    The request is ``POST https://<API server>:12250/resourcePrincipalSessionTokens`` with a bearer token and
    ``{"podKey": <public key>}``; the answer is ``{"token": "ST$..."}`` in base64, in quotation marks. It uses no
    proxy and trusts only the cluster's CA, because the token may be valid for the Kubernetes API.
    Raises ClusterUnknown, Workload*, BasicCluster, TlsUntrusted, DeadlineExceeded.
    """
    deadline = network.deadline
    client = Client(origin(cluster), deadline, WorkloadUnreachable, [lambda: context(cluster)])
    client.preconnect()
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
    name = f"service account {account.namespace}/{account.name}"
    if answer.status == 403:
        raise BasicCluster(f"{answer.describe()} to {name}")
    if answer.status != 200:
        raise WorkloadRefused(f"{answer.describe()} to {name}, audience {account.audience}")
    try:
        content = json.loads(base64.b64decode(answer.body.strip().strip(b'"'), validate=True))
        token = content["token"].removeprefix("ST$")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        token = None
    if not is_security_token(token):
        raise WorkloadMalformed(f"{answer.describe()} without a token")
    # The registry token must not be shared longer than the account's own token is valid.
    signer = Signer(f"ST${token}", private)
    return Principal(name, signer, expires_in=account.expires_in, caveat=EXPERIMENTAL)


def cluster_of(settings: Settings, deadline: Deadline, command: Sequence[str]) -> Cluster:
    """Find the cluster of this node. ``command`` is the kubelet's command line. Raises ClusterUnknown, Imds*."""
    return find_cluster(
        settings,
        lambda: kubeconfig_of(command),
        lambda: Metadata((METADATA,), deadline).get(METADATA),
        _text_of,
    )


def origin(cluster: Cluster) -> Origin:
    """Return the address of the workload identity endpoint."""
    return Origin("https", cluster.host, PORT)


def find_cluster(
    settings: Settings,
    kubeconfig: Callable[[], Kubeconfig],
    metadata: Callable[[], bytes],
    text_of: Callable[[str], str | None],
) -> Cluster:
    """Find the cluster of this node: in the settings, the kubelet's kubeconfig or OKE's files.

    The metadata service may supply the address, but never the CA: otherwise, an attacker who intercepts the
    metadata service would get the service-account tokens. ``kubeconfig`` and ``metadata`` are called only if needed;
    ``text_of`` returns the text of a file, or None. Raises ClusterUnknown and what ``metadata`` raises.
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
            f"the cluster's CA is neither in the settings, the kubelet's kubeconfig ({reason}) nor {CA_FILE}"
        )
    if not host:
        host, host_source = _address_in(metadata()), "instance metadata"
    # It becomes part of a header.
    address = parse_host(_without_port(host))
    if not address:
        raise ClusterUnknown(
            f"the cluster's API server is neither in the settings, the kubelet's kubeconfig ({reason}), OKE's"
            " files nor the instance's metadata"
        )
    return Cluster(address, ca, f"API server from {host_source}, CA from {ca_source}")


def _address_in(metadata: bytes) -> str:
    """Return the API server's address from a self-managed node's metadata; "" if it has none."""
    try:
        host = json.loads(metadata).get("apiserver_host")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return host if isinstance(host, str) else ""


def _without_port(host: str) -> str:
    """Return ``10.0.0.5`` for ``10.0.0.5:6443``: the endpoint has its own port."""
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
    """Return a client context that trusts only the cluster's CA. Raises ClusterUnknown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=cluster.ca)
    except ssl.SSLError as error:
        raise ClusterUnknown("the cluster's CA is not a PEM certificate") from error
    return context
