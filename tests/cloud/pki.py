"""Keys and certificates: TLS of the stand-in, and the identity of an instance in IMDS."""

import base64
import datetime as dt
import hashlib
import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_DAY = dt.timedelta(days=1)


class BadChain(Exception):
    """The certificate chain does not lead to the instance CA."""


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem_of(key: PrivateKey, passphrase: str | None = None) -> str:
    """Return the key in the form of IMDS and `oci setup config`: PKCS#1 PEM for RSA."""
    encryption: serialization.KeySerializationEncryption = (
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase.encode())
    )
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


def cert_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def spki(key: rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def api_fingerprint(key: rsa.RSAPublicKey) -> str:
    """Return the MD5 that is OCI's name for an API key."""
    digest = hashlib.md5(spki(key), usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, 32, 2))


def libtrust_id(key: rsa.RSAPublicKey) -> str:
    """Return the key ID that docker-registry uses to find a key: libtrust's base32 fingerprint."""
    text = base64.b32encode(hashlib.sha256(spki(key)).digest()[:30]).decode()
    return ":".join(text[i : i + 4] for i in range(0, len(text), 4))


@dataclass(frozen=True, slots=True)
class Authority:
    """The certificate and key of a certificate authority."""

    certificate: x509.Certificate
    key: PrivateKey

    def issue(
        self,
        name: x509.Name,
        key: PrivateKey,
        *,
        hosts: Sequence[str] = (),
        is_ca: bool = False,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
    ) -> x509.Certificate:
        return _build(name, key, self.certificate.subject, self.key, hosts, is_ca, start, end)


def authority(common_name: str, key: PrivateKey | None = None) -> Authority:
    """Create a self-signed authority, with an EC key unless one is given."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return Authority(_build(name, key, name, key, (), True, None, None), key)


def _build(
    name: x509.Name,
    key: PrivateKey,
    issuer: x509.Name,
    issuer_key: PrivateKey,
    hosts: Sequence[str],
    is_ca: bool,
    start: dt.datetime | None,
    end: dt.datetime | None,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Long, so that tests with hours of clock skew do not leave the validity of the certificate.
        .not_valid_before(start or now - _DAY)
        .not_valid_after(end or now + 2 * _DAY)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=not is_ca,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=is_ca,
                crl_sign=is_ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


# --- instances ---------------------------------------------------------------------------------


def instance_name(instance: str, compartment: str, tenancy: str) -> x509.Name:
    """Return the subject of an instance certificate, with its OCIDs as opc-... organizational units."""
    units = {"certtype": "instance", "instance": instance, "compartment": compartment}
    units["tenant"] = tenancy
    # OCIDs may exceed X.520's 64 characters, and they do in OCI's certificates.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, instance, _validate=False),
            *(
                x509.NameAttribute(
                    NameOID.ORGANIZATIONAL_UNIT_NAME, f"opc-{kind}:{ocid}", _validate=False
                )
                for kind, ocid in units.items()
            ),
        ]
    )


def instance_units(certificate: x509.Certificate) -> dict[str, str]:
    """Parse `{"instance": ocid, "compartment": ocid, "tenant": ocid, ...}` from the subject."""
    units = {}
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME):
        kind, _, ocid = str(attribute.value).partition(":")
        units[kind.removeprefix("opc-")] = ocid
    return units


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-1 in upper-case hexadecimal with colons, as in a federation keyId."""
    digest = certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303 - OCI uses SHA-1 as the name
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def check_chain(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    root: x509.Certificate,
    now: dt.datetime,
) -> None:
    """Raises BadChain unless `leaf` leads to `root` through `intermediates`, all valid at `now`."""
    certificate = leaf
    for _ in range(len(intermediates) + 1):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise BadChain("a certificate is not valid at this time")
        for issuer in (root, *intermediates):
            try:
                certificate.verify_directly_issued_by(issuer)
            except (ValueError, TypeError, InvalidSignature):
                continue
            if not issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                raise BadChain("an issuer is not a certificate authority")
            if issuer == root:
                return
            certificate = issuer
            break
        else:
            break
    raise BadChain("the certificates do not lead to the instance CA")


# --- TLS ---------------------------------------------------------------------------------------


def server_context(
    chain: Sequence[x509.Certificate], key: PrivateKey, *, old: bool = False
) -> ssl.SSLContext:
    """Return the TLS context of a server. `old` offers only TLS 1.0 and 1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if old:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with tempfile.TemporaryDirectory() as folder:  # load_cert_chain accepts only files
        path = Path(folder) / "chain.pem"
        path.touch(mode=0o600)
        path.write_text(pem_of(key) + "".join(cert_pem(c) for c in chain))
        context.load_cert_chain(path)
    return context


def server_chain(
    issuer: Authority, hosts: Sequence[str], *, end: dt.datetime | None = None
) -> tuple[list[x509.Certificate], ec.EllipticCurvePrivateKey]:
    """Create a server certificate for `hosts` that expires at `end`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    start = None if end is None else end - 10 * _DAY
    return [issuer.issue(name, key, hosts=hosts, start=start, end=end)], key
