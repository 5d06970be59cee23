"""Who asks: the node itself, a user of an OCI config file, or the OCI resource that this runs in.

``provider.auth.workload_identity`` has the identity of a pod.
"""

import json
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509 import InvalidVersion, load_pem_x509_certificate

from provider.auth.imds import CERTIFICATE, INTERMEDIATE, KEY, REGION_INFO, region_info
from provider.auth.signer import Signer
from provider.errors import (
    BadResourcePrincipal,
    BadUserPrincipal,
    DeadlineExceeded,
    FederationMalformed,
    FederationRefused,
    FederationUnreachable,
    ImdsUnusable,
)
from provider.net.background import Background
from provider.net.clients import Network
from provider.net.deadline import Deadline
from provider.net.http import Origin
from provider.ocir.hosts import RegionInfo

if TYPE_CHECKING:
    from provider.auth.oci_files import ResourceEnvironment, UserProfile

_FEDERATION_PATH = "/v1/x509"
SECURITY_TOKEN = re.compile(r"[A-Za-z0-9_=.-]+", re.A)


class Principal(NamedTuple):
    """An identity that OCI knows. ``name`` is for the log, and no secret.

    ``region`` is the instance's own, when the metadata service was asked for it.
    """

    name: str
    signer: Signer
    region: RegionInfo | None = None


def instance_principal(
    metadata: Callable[[str], bytes], key: Background[RSAPrivateKey], network: Network
) -> Principal:
    """The node's identity: its certificate, exchanged for a token at the federation endpoint.

    ``metadata`` gives what the metadata service has at a path.
    ``POST https://auth.<region>.<realm domain>/v1/x509``, signed by the certificate's key (as
    oci.auth.federation_client of the SDK does). Raises Imds*, Federation*, ClockSkew.
    """
    where = region_info(metadata(REGION_INFO))
    federation = network.client(
        Origin("https", f"auth.{where.region}.{where.realm_domain}", 443), FederationUnreachable
    )
    federation.open_early()
    leaf = _Leaf.parse(metadata(CERTIFICATE), metadata(KEY))
    intermediate = metadata(INTERMEDIATE)
    private = key.result(network.deadline, "making a session key")
    body = json.dumps(
        {
            "certificate": _without_armour(leaf.pem, CERTIFICATE),
            "publicKey": public_key(private),
            "intermediateCertificates": [_without_armour(intermediate, INTERMEDIATE)],
        }
    ).encode()
    answer = federation.request(
        "POST", _FEDERATION_PATH, lambda: leaf.signer.sign_post(_FEDERATION_PATH, body), body
    )
    if answer.status != 200:
        answer.check_clock()
        raise FederationRefused(f"{answer.describe()} to {leaf.instance}")
    try:
        token = json.loads(answer.body)["token"]
        if not SECURITY_TOKEN.fullmatch(token):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        # No cause attached: it would quote the answer, and with it the token.
        raise FederationMalformed(f"{answer.describe()} without a token") from None
    return Principal(leaf.instance, Signer(f"ST${token}", private), where)


class _Leaf(NamedTuple):
    """The instance's certificate. ``instance`` is the OCID that it names."""

    pem: bytes
    instance: str
    signer: Signer

    @classmethod
    def parse(cls, pem: bytes, key_pem: bytes) -> "_Leaf":
        try:
            certificate = load_pem_x509_certificate(pem)
            # "Unsafe" means: believe that its numbers are primes. To prove it takes 30 ms, and OCI,
            # which made this key, sees at once whether its signatures are right.
            key = load_pem_private_key(key_pem, None, unsafe_skip_rsa_key_validation=True)
            if not _can_sign(key):
                raise ImdsUnusable("the metadata service's key is not RSA of 2048 bits or more")
            subject = [str(attribute.value) for attribute in certificate.subject]
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidVersion) as error:
            raise ImdsUnusable(
                "the metadata service's certificate or key cannot be read"
            ) from error
        named = dict(value.partition(":")[::2] for value in subject)
        # oci.auth.auth_utils: opc-identity is what service tenancies' certificates carry.
        tenancy = named.get("opc-tenant") or named.get("opc-identity")
        # It becomes a part of a header.
        if not tenancy or not re.fullmatch(r"[\w.-]+", tenancy, re.A):
            raise ImdsUnusable("the metadata service's certificate names no tenancy")
        # SHA-1 names the certificate here; it protects nothing.
        fingerprint = certificate.fingerprint(SHA1()).hex(":").upper()  # noqa: S303
        signer = Signer(f"{tenancy}/fed-x509/{fingerprint}", key)
        return cls(pem, named.get("opc-instance") or "this instance", signer)


def _without_armour(pem: bytes, what: str) -> str:
    """A PEM block's base64 text. Raises ImdsUnusable when it is not one."""
    block = re.fullmatch(
        rb"\s*-----BEGIN [A-Z ]+-----([A-Za-z0-9+/=\s]+)-----END [A-Z ]+-----\s*", pem
    )
    if not block:
        raise ImdsUnusable(f"the metadata service's {what} is not one PEM block")
    return b"".join(block[1].split()).decode()


def _can_sign(key: object) -> TypeGuard[RSAPrivateKey]:
    """Whether OCI takes signatures of ``key``: RSA, of 2048 bits or more.

    Raises ValueError when its numbers do not fit together, which shows only when it signs.
    """
    if not isinstance(key, RSAPrivateKey) or key.key_size < 2048:
        return False
    key.sign(b"", PKCS1v15(), SHA256())
    return True


def public_key(key: RSAPrivateKey) -> str:
    """The public half as OCI's endpoints take it: PEM without armour and line breaks."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return _without_armour(pem, "public key")


def user_principal(profile: "UserProfile") -> Principal:
    """The identity of a profile of an OCI config file, judged by the SDK.

    An API key, with or without a pass phrase, or a session (``security_token_file``, as made by
    ``oci session authenticate``). Raises BadUserPrincipal.
    """
    # Here, since it takes longer than everything else together.
    from oci import config, exceptions, signer

    where, values = profile.where, profile.values
    try:
        if profile.session is not None:
            token = profile.session.decode("ascii").strip()
            if not SECURITY_TOKEN.fullmatch(token):
                raise BadUserPrincipal(f"{where}: security_token_file holds no token")
            name, key_id = "session", f"ST${token}"
        else:
            config.validate_config({**values, "region": values.get("region") or "not needed"})
            name, key_id = (
                values["user"],
                "/".join(values[k] for k in ("tenancy", "user", "fingerprint")),
            )
        key = signer.load_private_key((profile.key or b"").strip(), values.get("pass_phrase"))
        if not _can_sign(key):
            raise BadUserPrincipal(f"{where}: key_file holds no RSA key of 2048 bits")
    except exceptions.InvalidConfig as error:
        faults = ", ".join(f"{k} is {v}" for k, v in sorted(error.args[0].items()))
        raise BadUserPrincipal(f"{where}: {faults}") from None
    except exceptions.ClientError as error:
        # The SDK's texts name the file and the fault, and quote no key.
        raise BadUserPrincipal(f"{where}: {error}") from None
    except BadUserPrincipal:
        raise
    except Exception as error:
        # cryptography quotes what it read.
        raise BadUserPrincipal(f"{where} cannot be read ({type(error).__name__})") from None
    return Principal(f"{name} ({where})", Signer(key_id, key))


def resource_principal(resource: "ResourceEnvironment", deadline: Deadline) -> Principal:
    """The identity of the function, container instance or pipeline that this runs in, by the SDK.

    Raises BadResourcePrincipal and DeadlineExceeded.
    """
    # Here, since it takes longer than everything else together.
    from oci.auth.signers import get_resource_principals_signer

    version = resource.values.get("OCI_RESOURCE_PRINCIPAL_VERSION")
    try:
        # The SDK reads nothing else. Where it would open a file it finds what the file held.
        os.environ.update(resource.values)
        # Some versions ask the network, in the SDK's own time.
        made = Background(get_resource_principals_signer)
        signer = made.result(deadline, "asking for a resource principal's session token")
        key_id, key = signer.api_key, signer.private_key
    except DeadlineExceeded:
        raise
    except Exception as error:
        # Not the SDK's own text, which may quote what it read.
        why = f"version {version}" if version else "OCI_RESOURCE_PRINCIPAL_VERSION is not set"
        raise BadResourcePrincipal(
            f"the SDK makes no resource principal of the environment ({why}): {type(error).__name__}"
        ) from None
    if not isinstance(key, RSAPrivateKey) or not SECURITY_TOKEN.fullmatch(key_id[3:]):
        raise BadResourcePrincipal(
            "the environment's resource principal has no token or no RSA key"
        )
    return Principal("resource principal", Signer(key_id, key))
