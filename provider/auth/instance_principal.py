"""The instance principal: the node's own identity."""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import InvalidVersion, load_pem_x509_certificate

from provider.auth.imds import CERTIFICATE, INTERMEDIATE, KEY, REGION_INFO, region_info
from provider.auth.principal import Principal, can_sign, is_security_token, pem_body, public_key
from provider.auth.region import RegionInfo
from provider.auth.signer import Signer
from provider.errors import (
    FederationMalformed,
    FederationRefused,
    FederationUnreachable,
    ImdsUnusable,
)
from provider.net.background import Background
from provider.net.client import Network
from provider.net.hostname import HTTPS_PORT
from provider.net.http import Origin

_PATH = "/v1/x509"


def federation_origin(region: RegionInfo) -> Origin:
    """Return the federation endpoint of a region."""
    return Origin("https", f"auth.{region.region}.{region.realm_domain}", HTTPS_PORT)


def instance_principal(
    metadata: Callable[[str], bytes], key: Background[RSAPrivateKey], network: Network
) -> Principal:
    """Exchange the instance's certificate for a security token at the federation endpoint.

    ``metadata`` returns the body at a path of the metadata service. The request is
    ``POST https://auth.<region>.<realm domain>/v1/x509``, signed with the certificate's key, as in
    https://github.com/oracle/oci-python-sdk/blob/master/src/oci/auth/federation_client.py.
    Raises Imds*, Federation*, ClockSkew, TlsUntrusted, DeadlineExceeded.
    """
    region = region_info(metadata(REGION_INFO))
    federation = network.client(federation_origin(region), FederationUnreachable)
    federation.preconnect()
    certificate = InstanceCertificate.parse(metadata(CERTIFICATE), metadata(KEY))
    intermediate = _pem_body(metadata(INTERMEDIATE), INTERMEDIATE)
    private = key.result(network.deadline, "making a session key")
    body = json.dumps(
        {
            "certificate": certificate.pem_body,
            "publicKey": public_key(private),
            "intermediateCertificates": [intermediate],
        }
    ).encode()
    answer = federation.request(
        "POST", _PATH, lambda: certificate.signer.sign_post(_PATH, body), body
    )
    if answer.status != 200:
        answer.check_clock()
        raise FederationRefused(f"{answer.describe()} to {certificate.instance}")
    try:
        token = json.loads(answer.body)["token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        token = None
    if not is_security_token(token):
        raise FederationMalformed(f"{answer.describe()} without a token")
    return Principal(certificate.instance, Signer(f"ST${token}", private), region)


class InstanceCertificate(NamedTuple):
    """The instance's certificate. ``instance`` is the OCID in it."""

    pem_body: str
    instance: str
    signer: Signer

    @classmethod
    def parse(cls, pem: bytes, key_pem: bytes) -> "InstanceCertificate":
        """Read the certificate and its key. Raises ImdsUnusable."""
        try:
            certificate = load_pem_x509_certificate(pem)
            # "unsafe": do not check that the key's factors are primes, which takes 30 ms. OCI made this key,
            # and refuses its signatures if it is wrong.
            key = load_pem_private_key(key_pem, None, unsafe_skip_rsa_key_validation=True)
            if not can_sign(key):
                raise ImdsUnusable(
                    "the metadata service's key is not an RSA key of 2048 bits or more"
                )
            subject = [str(attribute.value) for attribute in certificate.subject]
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidVersion) as error:
            raise ImdsUnusable(
                "the metadata service's certificate or key cannot be read"
            ) from error
        named = dict(value.partition(":")[::2] for value in subject)
        # Certificates of service tenancies have opc-identity:
        # https://github.com/oracle/oci-python-sdk/blob/master/src/oci/auth/auth_utils.py
        tenancy = named.get("opc-tenant") or named.get("opc-identity")
        # It becomes part of a header.
        if not tenancy or not re.fullmatch(r"[\w.-]+", tenancy, re.A):
            raise ImdsUnusable("the metadata service's certificate names no tenancy")
        digest = SHA1()  # noqa: S303 # OCI's name for the certificate: no security depends on it
        fingerprint = certificate.fingerprint(digest).hex(":").upper()
        signer = Signer(f"{tenancy}/fed-x509/{fingerprint}", key)
        instance = named.get("opc-instance") or "this instance"
        return cls(_pem_body(pem, CERTIFICATE), instance, signer)


def _pem_body(pem: bytes, path: str) -> str:
    body = pem_body(pem)
    if body is None:
        raise ImdsUnusable(f"the metadata service's {path} is not one PEM block")
    return body
