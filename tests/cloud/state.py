"""The state of the stand-in: keys, settings and issued secrets."""

import json
import secrets as random_secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cloud import jwt, pki
from tests.cloud.iam import Principal
from tests.cloud.model import (
    TENANCY,
    ApiKey,
    Cluster,
    Iam,
    Imds,
    Secret,
    Session,
    Workload,
    to_json,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of an instance in IMDS, as PEM, with its chain."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate
    key_pem: str
    cert_pem: str


@dataclass(slots=True)
class State:
    """Mutable state, used only by the event loop of the stand-in."""

    tls: pki.Authority
    instances: pki.Authority
    intermediate: pki.Authority
    token_key: rsa.RSAPrivateKey
    cluster_ca: pki.Authority
    leaf_key: rsa.RSAPrivateKey
    identity: Identity
    imds: Imds = field(default_factory=Imds)
    iam: Iam = field(default_factory=Iam)
    cluster: Cluster = field(default_factory=Cluster)
    cluster_keys: list[rsa.RSAPrivateKey] = field(default_factory=list)  # created on first use
    clock_offset_s: float = 0.0
    security_lifetime_s: float = 1200.0
    registry_lifetime_s: float = 3600.0
    upstream_port: int | None = None
    users: dict[str, rsa.RSAPublicKey] = field(default_factory=dict)  # by API keyId
    secrets: list[Secret] = field(default_factory=list)

    @classmethod
    def new(cls) -> Self:
        with ThreadPoolExecutor(4) as pool:  # key generation releases the GIL
            intermediate_key, token_key, leaf_key = pool.map(lambda _: pki.rsa_key(), range(3))
        instances = pki.authority("Stand-in Instance Identity Root")
        name = pki.authority("Stand-in Instance Identity Intermediate", intermediate_key)
        certificate = instances.issue(name.certificate.subject, intermediate_key, is_ca=True)
        intermediate = pki.Authority(certificate, intermediate_key)
        imds = Imds()
        state = cls(
            tls=pki.authority("Stand-in TLS Root"),
            instances=instances,
            intermediate=intermediate,
            token_key=token_key,
            cluster_ca=pki.authority("Stand-in Kubernetes CA"),
            leaf_key=leaf_key,
            identity=_identity(intermediate, leaf_key, imds),
            imds=imds,
        )
        state._keep_identity()
        return state

    def now(self) -> float:
        """Return the time of the stand-in's clock in epoch seconds."""
        return time.time() + self.clock_offset_s

    def keep(self, kind: str, value: str) -> str:
        """Record an issued secret, and return it."""
        self.secrets.append(Secret(kind, value))
        return value

    def set_imds(self, imds: Imds) -> None:
        """Set the metadata. A changed identity gets a new certificate."""
        old, self.imds = self.imds, imds
        if (imds.instance, imds.compartment, imds.tenancy) != (
            old.instance,
            old.compartment,
            old.tenancy,
        ):
            self.identity = _identity(self.intermediate, self.leaf_key, imds)
            self._keep_identity()

    def security_token(self, principal: Principal, key: rsa.RSAPublicKey) -> str:
        """Return a security token of federation, which binds `principal` to the session key."""
        now = self.now()
        claims: dict[str, object] = {
            "sub": principal.ocid,
            "opc-instance": principal.ocid,
            "iss": "authService.oracle.com",
            "ptype": _kind(principal),
            "workload": to_json(principal.workload),
            "opc-compartment": principal.compartment,
            "opc-tenant": principal.tenancy,
            "tenant": principal.tenancy,
            "realm": principal.realm,
            "iat": int(now),
            "proven": now,
            "exp": int(now + self.security_lifetime_s),
            "jwk": json.dumps(jwt.jwk_of(key, principal.ocid)),
            "use": "security",
        }
        token = jwt.sign(self.token_key, claims, "asw_standin")
        return self.keep("security token", token)

    def new_api_key(self, user: str, passphrase: str | None) -> ApiKey:
        key = pki.rsa_key()
        fingerprint = pki.api_fingerprint(key.public_key())
        self.users[f"{TENANCY}/{user}/{fingerprint}"] = key.public_key()
        self.keep("api key", pki.pem_of(key))
        pem = pki.pem_of(key, passphrase)
        if passphrase is not None:
            self.keep("api key, encrypted", pem)
            self.keep("passphrase", passphrase)
        return ApiKey(TENANCY, user, fingerprint, pem, passphrase)

    def new_session(self, ocid: str) -> Session:
        """Create the session of a user or, as in a container instance of OCI, of a resource."""
        key = pki.rsa_key()
        principal = Principal(ocid, TENANCY, None, self.imds.region.realm, self.now())
        pem = self.keep("session key", pki.pem_of(key))
        return Session(TENANCY, ocid, self.security_token(principal, key.public_key()), pem)

    @property
    def cluster_key(self) -> rsa.RSAPrivateKey:
        """The key that signs service-account tokens."""
        if not self.cluster_keys:
            self.cluster_keys.append(pki.rsa_key())
        return self.cluster_keys[0]

    def service_account_token(
        self, account: Workload, uid: str, pod: str, audience: str, life_s: float, forged: bool
    ) -> str:
        """Return a pod's service-account token from a TokenRequest. `forged`: signed by another key."""
        now = self.now()
        claims: dict[str, object] = {
            "iss": "https://kubernetes.default.svc.cluster.local",
            "sub": f"system:serviceaccount:{account.namespace}:{account.service_account}",
            "aud": [audience],
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now + life_s),
            "jti": random_secrets.token_hex(8),
            "kubernetes.io": {
                "namespace": account.namespace,
                "node": {"name": "10.0.10.7", "uid": "node-uid"},
                "pod": {"name": pod, "uid": f"{pod}-uid"},
                "serviceaccount": {"name": account.service_account, "uid": uid},
            },
        }
        key = pki.rsa_key() if forged else self.cluster_key
        return self.keep("service account token", jwt.sign(key, claims, "cluster_standin"))

    def _keep_identity(self) -> None:
        self.keep("instance key", self.identity.key_pem)
        self.keep("instance certificate", self.identity.cert_pem)
        self.keep("intermediate certificate", pki.cert_pem(self.intermediate.certificate))


def _kind(principal: Principal) -> str:
    if principal.workload is not None:
        return "workload"
    return "user" if principal.compartment is None else "instance"


def _identity(issuer: pki.Authority, key: rsa.RSAPrivateKey, imds: Imds) -> Identity:
    name = pki.instance_name(imds.instance, imds.compartment, imds.tenancy)
    certificate = issuer.issue(name, key)
    return Identity(key, certificate, pki.pem_of(key), pki.cert_pem(certificate))
