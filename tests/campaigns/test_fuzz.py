"""External input: random input from hypothesis, and inputs that once broke the program.

`make fuzz` runs the same targets with coverage guidance.
"""

import base64
import json
import socket
import subprocess
import threading
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from provider.auth.instance_principal import InstanceCertificate
from provider.errors import BadRequest, ImdsUnusable
from provider.image import parse_image
from provider.net.deadline import Deadline
from provider.net.http import MAX_BODY, Connection, Failure
from provider.ocir.hosts import REALM_DOMAINS, is_ocir
from provider.settings import AUTH_METHODS, SETTINGS
from tests.campaigns.fuzz import oracle, targets
from tests.campaigns.fuzz.corpus import SEEDS
from tests.campaigns.fuzz.targets import ORIGIN, TARGETS
from tests.cloud import pki
from tests.cloud.harness import Cloud
from tests.conftest import Program
from tests.support.kubelet import request

many = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


def _corrupted(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Replace a part of a seed, so that the result is almost valid and gets far."""

    def corrupt(seed: bytes, at: int, length: int, put: bytes) -> bytes:
        at %= len(seed) + 1
        return seed[:at] + put + seed[at + length :]

    junk = st.one_of(st.binary(max_size=8), st.sampled_from(_TOKENS))
    return st.builds(
        corrupt, st.sampled_from(seeds), st.integers(0, 4000), st.integers(0, 12), junk
    )


_TOKENS = [b"", b"\0", b"\r\n", b"\r\n\r\n", b".", b"..", b":", b"@", b"*", b"%", b"-1", b"NaN", b"1e999",
           b"null", b"{}", b"[]", b'"', b"\\", b"\xff", b"K", "\u212a".encode(), b"[" * 2000,
           b"9" * 5000, b"evil.example", b".ocir.io", b".oci.", b":443", b"\n"]  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_is_answered_or_refused_with_an_expected_error(name: str) -> None:
    target, seeds = TARGETS[name], SEEDS[name]
    for seed in seeds:
        target(seed)

    @many
    @given(
        st.one_of(
            st.binary(max_size=400),
            _corrupted(seeds),
            st.lists(st.sampled_from(seeds), max_size=3).map(b"".join),
        )
    )
    def check(data: bytes) -> None:
        target(data)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_the_program_accepts_the_first_seed(name: str) -> None:
    """Otherwise the target tests only refusals: seeds become outdated when formats or settings change."""
    assert TARGETS[name](SEEDS[name][0])


def test_the_seeds_name_every_setting_and_every_authentication_method() -> None:
    environment = b"\0".join(SEEDS["environment"]).decode()
    file = b"".join(SEEDS["yaml"]).decode()
    for setting in SETTINGS:
        assert f"{setting.env}=" in environment
        assert f'"{setting.yaml}"' in file
    assert oracle.AUTH_METHODS == AUTH_METHODS
    for method in oracle.AUTH_METHODS:
        assert f"={method}\0" in f"{environment.upper()}\0"
        assert f'"{method}"' in file.upper()
    assert all(map(targets.environment, SEEDS["environment"][: len(AUTH_METHODS)]))
    assert all(map(targets.yaml, SEEDS["yaml"][: len(AUTH_METHODS)]))


# --- host names --------------------------------------------------------------------------------

_labels = st.sampled_from(
    ["ocir", "oci", "io", "fra", "eu-frankfurt-1", "oraclecloud", "oraclecloud9", "com", "eu", "uk",
     "oraclegovcloud", "evil", "OCIR", "oc\u0131r", "xn--ocir", "", "-", "1", "acme", "cloud",
     "oraclegovcloud\u200b", "u\u212a", "*", "a" * 64]
)  # fmt: skip
_hosts = st.builds(
    lambda labels, port: ".".join(labels) + port,
    st.lists(_labels, min_size=1, max_size=7),
    st.sampled_from(["", ":443", ":80", ":0443", ":", ":99999", ":443:443", "@x", "#", "%00"]),
)


@settings(many, max_examples=2000)
@given(_hosts)
@example("ocir.uk-gov-london-1.oci.oraclegovcloud.u\u212a")  # KELVIN SIGN: lower() makes it a "k"
@example("fra.ocir.io:443")
@example("fra.ocir.io:80")
@example("a.b.ocir.io")
@example("evil-ocir.io")
@example("fra.ocir.io.evil.example")
@example("ocir.x.oci.evil.example")
@example("ocir.eu-frankfurt-1.oci.oraclecloud.com.evil.example")
def test_nothing_is_signed_for_a_host_outside_the_grammar(host: str) -> None:
    targets.host(host.encode("utf-8", "surrogatepass"))


@settings(many, max_examples=1000)
@given(_hosts, _hosts)
def test_a_listed_pattern_matches_as_the_oracle_says(pattern: str, host: str) -> None:
    targets.pattern(f"{pattern} {host}".encode("utf-8", "surrogatepass"))


def test_the_oracle_accepts_ocirs_hosts_only() -> None:
    for domain in REALM_DOMAINS.values():
        assert oracle.may_sign(f"ocir.r-1.oci.{domain}")
        assert is_ocir(f"ocir.r-1.oci.{domain}", ())
    for host in ("fra.ocir.io", "eu-frankfurt-1.ocir.io", "ocir.x.oci.acme.cloud"):
        assert oracle.may_sign(host, "acme.cloud")
        image = parse_image(f"{host}/ns/repo")
        assert targets.signs_for(image, "acme.cloud")
    for host in ("ocir.io", "a.b.ocir.io", "docker.io", "ocir.x.oci.acme.cloud"):
        assert not oracle.may_sign(host)


@pytest.mark.parametrize(
    "name",
    [
        *("s/../sasa", "s/../.sasa", "a//b", "a/./b", "a/-b", "a/b-", "a._b", "a___b", "A/b"),
        *("a b", "a\r\nhost: b", "a\nb", "a\tb", "a?b", "a#b", "a%2fb", "a\\b", "a/\u2025/b"),
    ],
)
def test_a_repository_cannot_escape_its_path(name: str) -> None:
    # The repository becomes a part of the pull check's path. A server may resolve dots in it.
    with pytest.raises(BadRequest):
        parse_image(f"fra.ocir.io/{name}")


# --- structures --------------------------------------------------------------------------------

_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from([10**400, -(10**400), "imds-throttled", "a.b.c"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
_CACHED_TOKEN = {"made": 0.0, "token": "t", "expires_in": 3600, "renewed": False, "request_id": "r", "principal": "p",
         "checks": {"ns/repo": ["allowed", None, 0.0], "ns/app": ["denied", "DENIED", 0.0]}}  # fmt: skip
_CACHED = {"tokens": [_CACHED_TOKEN], "code": "deadline", "message": "m", "hint": "h", "at": 1.0}


@settings(many, max_examples=500)
@given(
    st.dictionaries(st.sampled_from([*_CACHED, "host", "identity"]), _json),
    st.dictionaries(st.sampled_from([*_CACHED_TOKEN]), _json),
)
@example({"code": "deadline", "message": "m", "hint": "h", "at": 10**400}, {})
@example({}, {"expires_in": 10**20})
@example({}, {"made": float("nan"), "expires_in": 1})
@example({}, {"checks": {"ns/repo": ["allowed", None, 10**400]}})
@example({}, {"checks": {"ns/repo": [[], None, 0.0]}})
def test_a_cache_entry_of_any_shape_is_a_miss(
    content: dict[str, Any], token: dict[str, Any]
) -> None:
    targets.entry(content)
    targets.entry({**_CACHED, **content})
    targets.entry({"tokens": [{**_CACHED_TOKEN, **token}, token, _CACHED_TOKEN]})


def test_a_cache_entry_without_any_of_its_fields_is_a_miss() -> None:
    for name in _CACHED:
        targets.entry({key: value for key, value in _CACHED.items() if key != name})
    for name in _CACHED_TOKEN:
        token = {key: value for key, value in _CACHED_TOKEN.items() if key != name}
        targets.entry({"tokens": [token]})


@many
@given(st.dictionaries(st.sampled_from(["token", "access_token", "expires_in", "scope"]), _json))
def test_a_token_answer_of_any_shape_is_refused_or_valid(content: dict[str, Any]) -> None:
    targets.token_body(json.dumps(content).encode())


@many
@given(st.dictionaries(st.sampled_from(["regionIdentifier", "realmDomainComponent"]),
                       _json | _hosts))  # fmt: skip
def test_region_info_of_any_shape_gives_a_valid_host_or_none(content: dict[str, Any]) -> None:
    targets.content(json.dumps(content).encode())


@many
@given(
    st.dictionaries(st.sampled_from([key.yaml for key in SETTINGS]) | st.text(max_size=5), _json)
)
def test_a_settings_file_of_any_shape_is_read_or_refused(content: dict[str, Any]) -> None:
    targets.yaml(json.dumps(content).encode())


# --- inputs that once broke it -----------------------------------------------------------------


def _endless(sock: socket.socket, head: bytes, sent: list[int]) -> None:
    try:
        sock.sendall(head)
        while sent[0] < 64 << 20:
            sent[0] += sock.send(b"x" * 65536)
    except OSError:
        pass


@pytest.mark.parametrize(
    "head",
    [
        # http.client hands a chunk length of -1 to read(), which then reads to the end.
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",  # a ValueError
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nX: ",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"",
    ],
)
def test_an_endless_answer_is_read_within_bounds(head: bytes) -> None:
    ours, theirs = socket.socketpair()
    sent = [0]
    server = threading.Thread(target=_endless, args=(theirs, head, sent))
    server.start()
    connection = Connection(ORIGIN)
    connection._socket, connection._asked = ours, "GET http://localhost/"
    try:
        with pytest.raises(Failure) as failure:
            connection.receive(MAX_BODY, Deadline(20))
    finally:
        ours.close()
        server.join()
        theirs.close()
    assert not failure.value.retryable
    assert sent[0] < 3 * MAX_BODY  # what was read, and the socket's buffer


def test_endless_interim_answers_end_too() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(0.2)
        connection = Connection(ORIGIN)
        connection._socket, connection._asked = ours, "GET http://localhost/"
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    theirs.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
                except OSError:
                    return

        server = threading.Thread(target=serve)
        server.start()
        try:
            with pytest.raises(Failure):
                connection.receive(MAX_BODY, Deadline(20))
        finally:
            stop.set()
            server.join()


def armored(label: str, der: bytes) -> bytes:
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()


def test_an_unknown_key_type_is_imds_unusable() -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    unknown = pem.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f"))
    with pytest.raises(ImdsUnusable):
        InstanceCertificate.parse(targets.CERTIFICATE, armored("PRIVATE KEY", unknown))


def test_a_future_certificate_version_is_imds_unusable() -> None:
    der = load_pem_x509_certificate(targets.CERTIFICATE).public_bytes(serialization.Encoding.DER)
    version = bytes.fromhex("a003020102")  # RFC 5280, 4.1: version 3
    assert der.count(version) == 1
    pem = armored("CERTIFICATE", der.replace(version, bytes.fromhex("a003020126")))
    with pytest.raises(ImdsUnusable):
        InstanceCertificate.parse(pem, targets.KEY)


def test_an_inconsistent_key_is_imds_unusable() -> None:
    key = generate_private_key(65537, 2048)
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    prime = key.private_numbers().p
    # The key loads, because nothing verifies its primes. Then it cannot sign.
    wrong = der.replace(prime.to_bytes(128), (prime - 1).to_bytes(128))
    assert wrong != der
    with pytest.raises(ImdsUnusable):
        InstanceCertificate.parse(targets.CERTIFICATE, armored("RSA PRIVATE KEY", wrong))


@pytest.mark.parametrize("tenancy", ["", 'a"b', "a\r\nX-Injected: 1", "tök", "a b"])
def test_an_invalid_tenancy_never_becomes_a_header(tenancy: str) -> None:
    name = pki.instance_name("ocid1.instance.x", "ocid1.compartment.x", tenancy or " ")
    key = generate_private_key(65537, 2048)
    pem = pki.cert_pem(pki.authority("Fuzz", key).issue(name, key)).encode()
    with pytest.raises(ImdsUnusable):
        InstanceCertificate.parse(pem, pki.pem_of(key).encode())


def test_a_key_too_small_to_sign_is_imds_unusable() -> None:
    small = generate_private_key(65537, 1024)
    with pytest.raises(ImdsUnusable):
        InstanceCertificate.parse(targets.CERTIFICATE, pki.pem_of(small).encode())


@pytest.mark.parametrize(
    ("args", "env", "code"),
    [
        (("--config", "/tmp/\udcff\udcfe"), {}, 11),
        (("--verbose", "--config", "/tmp/\udcff\udcfe"), {}, 11),
        ((), {"HTTPS_PROXY": "http://\udcff:\udcfe@proxy.example"}, 11),
        ((), {"HTTPS_PROXY": f"http://{'a' * 70}.example:3128", "DEADLINE_SECONDS": "3"}, 30),
        ((), {"SSL_CERT_FILE": "/\udcff"}, 11),
        ((), {"LOG_LEVEL": "\udcff"}, 11),
    ],
    ids=["argv", "traceback", "proxy", "label", "bundle", "setting"],
)
def test_text_that_is_not_utf8_is_refused_with_a_reason(
    cloud: Cloud, program: Program, args: tuple[str, ...], env: dict[str, str], code: int
) -> None:
    result = program.run(cloud, *args, stdin=request("fra.ocir.io/ns/repo"), env=env)
    assert (result.returncode, result.stdout) == (code, b"")
    assert result.stderr.startswith(b"oke-credential-provider: ")


@pytest.mark.parametrize("first_bytes", [b"", b'{"kind":'])
def test_an_unfinished_request_ends_at_the_deadline(
    cloud: Cloud, program: Program, first_bytes: bytes
) -> None:
    env = {**program.env, "DEADLINE_SECONDS": "1"}
    process = cloud.ns.popen(program.argv, env=env, stdin=subprocess.PIPE)
    assert process.stdin is not None
    began = time.monotonic()
    process.stdin.write(first_bytes)
    process.stdin.flush()
    try:
        process.wait(15)
    finally:
        process.kill()
    assert time.monotonic() - began < 10
    assert process.returncode == 60
    process.communicate()


def test_an_oversized_request_is_not_read_to_its_end(cloud: Cloud, program: Program) -> None:
    command = ("sh", "-c", 'yes "{" | head -c 20000000 | exec "$@"', "sh", *program.argv)
    result = cloud.ns.run(command, env=program.env)
    assert result.returncode == 10
