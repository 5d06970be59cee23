"""The seeds of each target. The program accepts the first one."""

import json
import time
from base64 import b64encode
from collections.abc import Mapping

from provider.ocir.hosts import REALM_DOMAINS
from provider.settings import SETTINGS
from tests.campaigns.fuzz.targets import CERTIFICATE, KEY
from tests.support.kubelet import request

_DIGEST = b"@sha256:" + b"0a" * 32
_HOSTS = [
    b"fra.ocir.io",
    b"EU-Frankfurt-1.ocir.io:443",
    b"docker.io",
    b"localhost:5000",
    b"[::1]:443",
    b"[2]",
    b"169.254.169.254",
    b"ocir.us-acme-1.oci.acme.cloud",
    b"fra.ocir.io.evil.example",
    b"evilocir.io",
    *(f"ocir.r-1.oci.{domain}".encode() for domain in REALM_DOMAINS.values()),
]
_NOW = time.clock_gettime(time.CLOCK_BOOTTIME)
_TOKEN = {"token": "a.b.c", "access_token": "a.b.c", "scope": "", "expires_in": 3600}
_REGION = {
    "realmKey": "oc1",
    "realmDomainComponent": "oraclecloud.com",
    "regionKey": "FRA",
    "regionIdentifier": "eu-frankfurt-1",
}
_CLUSTER = {
    "server": "https://10.0.0.5:6443",
    "certificate-authority-data": b64encode(CERTIFICATE).decode(),
}
_KUBECONFIG = {
    "current-context": "a",
    "contexts": [{"name": "a", "context": {"cluster": "b"}}],
    "clusters": [{"name": "b", "cluster": _CLUSTER}],
}
_ENTRY = {
    "tokens": [
        {
            **_TOKEN,
            "made": _NOW,
            "expires_in": 30 * 24 * 3600,
            "renewed": False,
            "checks": {"ns/repo": ["allowed", None, 1.0], "ns/app": ["denied", "DENIED", 1.0]},
            "request_id": "r",
            "principal": "p",
        }
    ],
    "host": "fra.ocir.io",
    "identity": "INSTANCE_PRINCIPAL https /",
}
_CLAIMS = {
    "aud": ["oci"],
    "exp": 1893456000,
    "kubernetes.io": {"namespace": "n", "serviceaccount": {"name": "a", "uid": "u"}},
}
_FAILURE = {"code": "imds-throttled", "message": "m", "hint": "h", "at": _NOW}
# One for each authentication method, with its settings.
_SETTINGS = (
    {
        "REGISTRY_TOKEN_PATH": "/20180419/docker/token",
        "DEFAULT_USER": "BEARER_TOKEN",
        "REGISTRY_PROTOCOL": "https",
        "OCIR_AUTH_METHOD": "INSTANCE_PRINCIPAL",
        "TOKEN_VALIDATION": "enabled",
        "OCIR_HOSTS": "ocir.*.oci.my.cloud, x.y",
        "TOKEN_CACHE": "enabled",
        "DEADLINE_SECONDS": "45",
        "LOG_LEVEL": "info",
    },
    {
        "OCIR_AUTH_METHOD": "user_principal",
        "OCI_CONFIG_FILE": "/etc/oci/config",
        "OCI_CLI_PROFILE": "DEFAULT",
        "REGISTRY_PROTOCOL": "HTTP",
        "TOKEN_VALIDATION": "Disabled",
        "DEADLINE_SECONDS": "1.5",
    },
    {"OCIR_AUTH_METHOD": "RESOURCE_PRINCIPAL", "LOG_LEVEL": "DEBUG", "TOKEN_CACHE": "disabled"},
    {
        "OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY",
        "KUBERNETES_SERVICE_HOST": "10.0.0.5",
        "OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH": "/etc/kubernetes/ca.crt",
    },
    {
        "OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL",
        "KUBERNETES_SERVICE_HOST": "fd00::5",
    },
)
_YAML_KEYS = {setting.env: setting.yaml for setting in SETTINGS}
_OCID = "ocid1.{}.oc1..aaaa"
_PROFILE = f"""[DEFAULT]
user = {_OCID.format("user")}
tenancy = {_OCID.format("tenancy")}
fingerprint = {":".join(["0a"] * 16)}
region = eu-frankfurt-1
pass_phrase = 50%%
"""
_RESOURCE = {
    "OCI_RESOURCE_PRINCIPAL_VERSION": "2.2",
    "OCI_RESOURCE_PRINCIPAL_RPST": "a.b.c",
    "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM": KEY.decode(),
    "OCI_RESOURCE_PRINCIPAL_REGION": "eu-frankfurt-1",
}


def _http(status: str, body: bytes, *headers: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status}".encode(), *headers, b"", body]
    return b"\r\n".join(lines)


def _variables(values: Mapping[str, str]) -> bytes:
    return "\0".join(f"{name}={value}" for name, value in values.items()).encode()


def _bytes(value: object) -> bytes:
    return json.dumps(value).encode()


SEEDS: dict[str, list[bytes]] = {
    "request": [
        request("fra.ocir.io/ns/repo"),
        request("h.io:1/a/b", serviceAccountToken="t", serviceAccountAnnotations={"a": "b"}),
    ],
    "image": [
        b"fra.ocir.io/ns/repo",
        # Injections in each part of the name.
        b"fra.ocir.io/ns/repo:v1 HTTP/1.1\r\nhost: evil.example\r\n",
        b"fra.ocir.io/ns/repo:v1?x=y",
        b"fra.ocir.io/ns/repo@sha256:" + b"0" * 64 + b"\r\nhost: evil.example",
        b"fra.ocir.io:443\r\nhost: evil.example/ns/repo",
        b"fra.ocir.io:443/ns/a__b/c--d:v1" + _DIGEST,
        b"busybox",
        b"localhost/a",
        b"[fd00::1]:443/a",
        b"s/../.sasa",
    ],
    "host": _HOSTS,
    "pattern": [
        b"ocir.*.oci.my.cloud ocir.us-acme-1.oci.my.cloud",
        b"registry.my.cloud:8443 registry.my.cloud:8443",
        b"*.*.ocir.io a.b.ocir.io",
        b"127.0.0.1:5000 127.0.0.1:5000",
        b"*.0.0.1 127.0.0.1",
    ],
    "environment": [*map(_variables, _SETTINGS), b"REGISTRY_TOKEN_PATH=//x\0DEFAULT_USER=u"],
    "yaml": [
        *(
            _bytes({_YAML_KEYS[name]: value for name, value in values.items()})
            for values in _SETTINGS
        ),
        b"registryTokenPath: /x\ndefaultUser: u\nocirHosts: [a.b, '*.c.d']\ndeadlineSeconds: 9\n",
        b"a: &x [1, 2]\nb: *x\n? [k]\n: !!binary aGk=\n",
        b"tokenCache: true\nlogLevel: !!str info\n---\nnext: 2001-12-14t21:59:43.10-05:00\n",
    ],
    "profile": [
        _PROFILE.encode(),
        _PROFILE.encode() + b"key_file = none.pem\nsecurity_token_file = ~none\n",
        b"[DEFAULT]\na = %(b)s\n[DEFAULT]\n a\n[x",
    ],
    "resource": [
        _variables(_RESOURCE),
        _variables({f"{name}_FOR_LEAF_RESOURCE": value for name, value in _RESOURCE.items()}),
    ],
    "cache_file": [_bytes(_ENTRY), _bytes(_FAILURE)],
    "helper": [
        b"https://fra.ocir.io/v2/",
        b"fra.ocir.io:443",
        b"https://fra.ocir.io@evil.example/",
    ],
    "account": [_bytes(_CLAIMS), _bytes({**_CLAIMS, "exp": float("inf")})],
    "cluster": [
        _bytes({"apiserver_host": "10.0.0.5:6443"}),
        _bytes(_KUBECONFIG),
        b"current-context: a\ncontexts: [{name: a, context: {cluster: b}}]\n"
        b"clusters: [{name: b, cluster: {server: 'https://[fd00::5]:6443'}}]\n",
    ],
    "answer": [
        _http("200 OK", _bytes(_TOKEN), b"Content-Length: %d" % len(_bytes(_TOKEN))),
        _http("200 OK", b"5\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        _http("429 Slow", b"", b"Retry-After: 7", b"opc-request-id: R", b"Content-Length: 0"),
        _http("401 No", b"{}", b"Date: Sun, 06 Nov 1994 08:49:37 GMT", b"Content-Length: 2"),
        _http("100 Continue", b"HTTP/1.1 204 None\r\n\r\n"),
    ],
    "token_body": [_bytes(_TOKEN)],
    "content": [_bytes(_REGION)],
    "certificate": [CERTIFICATE + b"\0" + KEY, KEY + b"\0" + CERTIFICATE],
    "proxy": [
        b"http://user:pass%20word@proxy.example:3128\0.oraclecloud.com,localhost",
        b"proxy.example\0*",
        b"http://[::1]:3128\0",
    ],
    "log": [b"a line", b"two\nlines=\x00 \xff"],
}
