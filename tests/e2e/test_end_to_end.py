"""The main job: a kubelet request in, credentials out, a pull of a private image with them."""

import json
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cloud.harness import Cloud
from tests.cloud.model import (
    ACME,
    COMPARTMENT,
    LANGLEY,
    USER,
    DynamicGroup,
    Fault,
    Iam,
    Imds,
    Policy,
)
from tests.conftest import Program
from tests.support.kubelet import read_response, request
from tests.support.oci_files import OciFiles

pytestmark = pytest.mark.every_form

DIGEST = "sha256:" + "a" * 64
IMAGE = "fra.ocir.io/ns/repo"


def test_each_kind_of_ocir_host_gets_a_working_token(cloud: Cloud, program: Program) -> None:
    registry = cloud.registry
    for image in (
        "fra.ocir.io/ns/repo",
        "eu-frankfurt-1.ocir.io/ns/repo",
        "ocir.eu-frankfurt-1.oci.oraclecloud.com/ns/repo",
        f"fra.ocir.io/ns/repo@{registry.digest}",
        f"fra.ocir.io/ns/repo:v1@{registry.digest}",
        "FRA.ocir.io/ns/repo",
    ):
        answer = program.credentials(cloud, image)
        host = image.partition("/")[0]
        assert list(answer.auth) == [host]
        assert answer.auth[host][0] == "BEARER_TOKEN"
        assert answer.cache_key_type == "Image"
        # Minus the age of the token: later calls get the token of the first one.
        assert answer.cache_seconds == pytest.approx(3300, abs=60)
        pull = image if "@" not in image else f"{host}/ns/repo@{registry.digest}"
        registry.pull_with_skopeo(pull.lower(), answer.password).check()


def test_containerd_and_skopeo_pull_with_the_credentials_and_not_without(
    cloud: Cloud, program: Program
) -> None:
    registry = cloud.registry
    password = program.credentials(cloud, IMAGE).password
    registry.pull_with_skopeo(f"{IMAGE}:latest", password).check()
    registry.pull_with_containerd(f"{IMAGE}:latest", password).check()
    for refused in (
        registry.pull_with_skopeo(f"{IMAGE}:latest", None),
        registry.pull_with_containerd(f"{IMAGE}:latest", None),
        registry.pull_with_skopeo(f"{IMAGE}:latest", password[:-4] + "AAAA"),
        registry.pull_with_skopeo("fra.ocir.io/other/secret:latest", password),
    ):
        assert refused.returncode != 0


def test_a_cold_call_makes_four_imds_requests_one_federation_and_one_token_request(
    cloud: Cloud, program: Program
) -> None:
    program.run(cloud, stdin=request(IMAGE)).check()
    report = cloud.control.report()
    assert report.of_group("imds") == 4
    assert report.count("federation") == 1
    assert report.count("token") == 1
    assert report.count("manifest") == 1
    assert report.connections == {"imds": 4, "federation": 1, "registry": 1}
    assert report.refusals() == []


@pytest.mark.parametrize(
    "image",
    [
        "docker.io/library/busybox",
        "busybox",
        "localhost/x",
        "fra.ocir.io.elsewhere.example/ns/repo",
        "evilocir.io/ns/repo",
        "a.fra.ocir.io/ns/repo",
        "ocir.io/ns/repo",
        "fra.ocir.io:8443/ns/repo",
        "127.0.0.1:5000/ns/repo",
        "[::1]:5000/ns/repo",
        "ocir.eu-frankfurt-1.oci.oraclecloud.com.elsewhere.example:5000/ns/repo",
    ],
)
def test_another_registry_gets_an_empty_response_without_a_packet(
    cloud: Cloud, program: Program, image: str, tmp_path: Path
) -> None:
    sends = "trace=connect,sendto,sendmsg,?sendmmsg"
    strace = ["strace", "-f", "-qq", "-e", sends, "-o", str(tmp_path / "sent")]
    result = cloud.ns.run([*strace, *program.argv], stdin=request(image), env=program.env).check()
    answer = read_response(result.stdout)
    assert answer.auth == {}
    assert answer.cache_seconds == 0
    assert cloud.control.report().connections == {}
    sent = (tmp_path / "sent").read_text()
    assert "AF_UNIX" in sent  # the socket of the journal
    assert "AF_INET" not in sent  # nor to a DNS server


def test_a_name_of_ocirs_form_in_a_foreign_domain_is_refused_after_asking_imds(
    cloud: Cloud, program: Program
) -> None:
    image = "ocir.eu-frankfurt-1.oci.elsewhere.example/ns/repo"
    answer = program.credentials(cloud, image)
    assert answer.auth == {}
    report = cloud.control.report()
    assert report.connections == {"imds": 1}


def test_a_dedicated_region_is_known_by_imds(cloud: Cloud, program: Program) -> None:
    cloud.control.imds(Imds(region=ACME))
    image = "ocir.us-acme-1.oci.acmecloud.example/ns/repo"
    answer = program.credentials(cloud, image)
    assert answer.password
    assert cloud.control.report().of_group("imds") == 5


def test_a_dedicated_region_can_be_listed(cloud: Cloud, program: Program) -> None:
    cloud.control.imds(Imds(region=ACME))
    image = "ocir.us-acme-1.oci.acmecloud.example/ns/repo"
    env = {"OCIR_HOSTS": "registry.example.org, ocir.*.oci.acmecloud.example"}
    answer = program.credentials(cloud, image, env)
    assert answer.password
    assert cloud.control.report().of_group("imds") == 4


def test_the_government_realm_works(cloud: Cloud, program: Program) -> None:
    cloud.control.imds(Imds(region=LANGLEY))
    image = "ocir.us-langley-1.oci.oraclegovcloud.com/ns/repo"
    assert program.credentials(cloud, image).password


# --- the pull check ----------------------------------------------------------------------------


def test_a_denied_image_is_cached_for_two_minutes_and_the_log_says_why(
    cloud: Cloud, program: Program
) -> None:
    cloud.control.iam(Iam(policies=()))
    answer = program.credentials(cloud, IMAGE)
    assert answer.cache_seconds == pytest.approx(120, abs=10)
    (entry,) = cloud.ns.log()
    assert entry.fields["PRIORITY"] == "4"
    assert "policy or the dynamic group is missing" in entry.fields["OKE_PULL_CHECK"]
    assert entry.fields["OKE_REGISTRY_CODE"] == "DENIED"


@pytest.mark.parametrize("image", [f"{IMAGE}@{DIGEST}", "fra.ocir.io/ns/untagged"])
def test_an_absent_tag_proves_that_the_principal_may_read(
    cloud: Cloud, program: Program, image: str
) -> None:
    answer = program.credentials(cloud, image)
    assert answer.cache_seconds == 3300
    head, get = (seen for seen in cloud.control.report().requests if seen.endpoint == "manifest")
    assert (head.method, get.method) == ("HEAD", "GET")
    assert head.path == get.path
    assert head.connection == get.connection
    (entry,) = cloud.ns.log()
    assert entry.fields["OKE_REGISTRY_CODE"] == "MANIFEST_UNKNOWN"


OTHER_404 = [
    "",
    "Not Found",
    "[]",
    '{"errors": []}',
    '{"errors": [{"code": ["MANIFEST_UNKNOWN"]}]}',
    '{"errors": [{"code": "NAME_UNKNOWN"}]}',
    '{"errors": [{"code": "unknown code", "message": "MANIFEST_UNKNOWN"}]}',
    '{"code": "NotAuthorizedOrNotFound", "message": "Authorization failed or resource not found"}',
]


@pytest.mark.parametrize("body", OTHER_404)
def test_any_other_404_proves_nothing(cloud: Cloud, program: Program, body: str) -> None:
    fault = Fault("status", status=404, body=body or " ")
    cloud.control.fault("manifest", fault)
    answer = program.credentials(cloud, IMAGE)
    assert answer.cache_seconds == pytest.approx(120, abs=5)
    (entry,) = cloud.ns.log()
    assert entry.fields["OKE_PULL_CHECK"].startswith("unclear: GET ")
    assert "unknown code" not in entry.text


@pytest.mark.parametrize(
    ("status", "code", "message", "reason"),
    [
        (403, "DENIED", "User UserId(x) not authorized", "policy or the dynamic group is missing"),
        (403, "DENIED", "User UserId(x) not authorized", "the repository does not exist there"),
        (403, "FREE_TIER_NOT_SUPPORTED", "Free tier", "this tenancy's tier does not include"),
        (401, "UNKNOWN", "Unauthorized", "does not accept the token itself"),
        (401, "UNAUTHORIZED", "authentication required", "does not accept the token itself"),
    ],
)
def test_a_refusal_is_reported_by_its_code_without_the_registrys_text(
    cloud: Cloud, program: Program, status: int, code: str, message: str, reason: str
) -> None:
    body = json.dumps({"errors": [{"code": code, "message": message}]})
    cloud.control.fault("manifest", Fault("status", status=status, body=body))
    answer = program.credentials(cloud, IMAGE)
    assert answer.cache_seconds == pytest.approx(120, abs=5)
    (entry,) = cloud.ns.log()
    assert entry.fields["OKE_REGISTRY_CODE"] == code
    check = entry.fields["OKE_PULL_CHECK"]
    assert f"answered {status} (opc-request-id " in check
    assert f", {code}; " in check
    assert reason in check
    assert message not in entry.text


def test_a_manifest_that_only_get_returns_is_proof(cloud: Cloud, program: Program) -> None:
    """Some proxies refuse HEAD requests."""
    cloud.control.fault("manifest", Fault("status", status=405, times=1))
    answer = program.credentials(cloud, IMAGE)
    assert answer.cache_seconds == 3300


@pytest.mark.parametrize("fault", [Fault("status", status=500), Fault("reset_headers")])
def test_a_pull_check_without_an_answer_never_costs_the_credentials(
    cloud: Cloud, program: Program, fault: Fault
) -> None:
    cloud.control.fault("manifest", fault)
    answer = program.credentials(cloud, IMAGE)
    assert answer.password
    assert answer.cache_seconds == pytest.approx(120, abs=10)


def test_the_pull_check_can_be_disabled(cloud: Cloud, program: Program) -> None:
    env = {"TOKEN_VALIDATION": "Disabled"}
    answer = program.credentials(cloud, IMAGE, env)
    assert answer.cache_seconds == 3300
    assert cloud.control.report().count("manifest") == 0


@pytest.mark.parametrize(
    ("lifetime", "cached"), [(90_000, 89_700), (3600, 3300), (300, 150), (3, 1)]
)
def test_the_cache_duration_is_shorter_than_the_tokens_lifetime(
    cloud: Cloud, program: Program, lifetime: int, cached: int
) -> None:
    cloud.control.fault("token", Fault("patch", patch={"expires_in": lifetime}))
    answer = program.credentials(cloud, IMAGE)
    assert answer.cache_seconds == cached


# --- failures ----------------------------------------------------------------------------------

FAILURES = [
    ("federation", Fault("status", status=401), "federation-refused", 31),
    ("federation", Fault("invalid_json"), "federation-malformed", 32),
    ("federation", Fault("redirect"), "federation-refused", 31),
    ("federation", Fault("tls_unknown_ca"), "tls-untrusted", 51),
    ("federation", Fault("status", status=503), "federation-unreachable", 30),
    ("token", Fault("status", status=401), "token-refused", 41),
    ("token", Fault("status", status=403), "token-refused", 41),
    ("token", Fault("patch", patch={"token": "", "access_token": ""}), "token-malformed", 42),
    ("token", Fault("cut_body"), "registry-unreachable", 40),
    ("token", Fault("invalid_json"), "token-malformed", 42),
    ("token", Fault("html"), "token-malformed", 42),
    ("token", Fault("patch", patch={"expires_in": -1}), "token-malformed", 42),
    ("token", Fault("patch", patch={"expires_in": "3600"}), "token-malformed", 42),
    ("token", Fault("redirect"), "token-refused", 41),
    ("token", Fault("echo", status=401), "token-refused", 41),
    ("token", Fault("refused"), "registry-unreachable", 40),
    ("token", Fault("tls_expired"), "tls-untrusted", 51),
    ("imds.cert", Fault("status", status=429), "imds-throttled", 21),
    ("imds.cert", Fault("html"), "imds-unusable", 22),
    ("imds.key", Fault("status", status=404), "imds-unusable", 22),
    ("imds.region", Fault("refused"), "imds-unreachable", 20),
    ("imds.region", Fault("invalid_json"), "imds-unusable", 22),
]


@pytest.mark.parametrize(
    ("endpoint", "fault", "code", "exit_code"),
    FAILURES,
    ids=[f"{endpoint}-{fault.kind}-{fault.status}" for endpoint, fault, _, _ in FAILURES],
)
def test_a_failure_has_its_own_code_and_prints_no_password(
    cloud: Cloud, program: Program, endpoint: str, fault: Fault, code: str, exit_code: int
) -> None:
    cloud.control.fault(endpoint, fault)  # type: ignore[arg-type] # it is one of the literals
    result = program.run(cloud, stdin=request(IMAGE))
    assert (result.returncode, result.stdout) == (exit_code, b"")
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"oke-credential-provider: {code}: ")
    assert " | " in lines[0]
    (entry,) = cloud.ns.log()
    assert entry.fields["OKE_CODE"] == code
    assert cloud.control.report().of_group("elsewhere") == 0


@pytest.mark.parametrize("offset", [600, -600])
def test_a_wrong_clock_is_reported(cloud: Cloud, program: Program, offset: float) -> None:
    cloud.control.clock(offset)
    result = program.run(cloud, stdin=request(IMAGE))
    assert result.returncode == 50
    side = "behind" if offset > 0 else "ahead of"
    assert f" s {side} OCI's" in result.stderr.decode()


def test_one_deadline_ends_a_call_that_hangs(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("federation", Fault("black_hole"))
    env = {"DEADLINE_SECONDS": "3"}
    result = program.run(cloud, stdin=request(IMAGE), env=env)
    assert result.returncode == 60
    assert result.seconds < 6
    assert "auth.eu-frankfurt-1.oraclecloud.com" in result.stderr.decode()


def test_a_temporary_failure_is_retried(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("imds.key", Fault("status", status=429, times=2))
    cloud.control.fault("federation", Fault("reset_accept", times=1))
    cloud.control.fault("token", Fault("status", status=503, times=1))
    assert program.credentials(cloud, IMAGE).password


def test_retry_after_is_honored_within_the_deadline(cloud: Cloud, program: Program) -> None:
    wait = Fault("status", status=429, headers=(("Retry-After", "1"),), times=1)
    cloud.control.fault("token", wait)
    assert program.run(cloud, stdin=request(IMAGE)).check().seconds > 1
    cloud.reset()
    wait = Fault("status", status=429, headers=(("Retry-After", "3600"),))
    cloud.control.fault("token", wait)
    result = program.run(cloud, stdin=request(IMAGE))
    assert result.returncode == 40
    assert cloud.control.report().count("token") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_call_with_a_reason(
    cloud: Cloud, program: Program, number: signal.Signals
) -> None:
    cloud.control.fault("federation", Fault("black_hole"))
    process = program.start(cloud, IMAGE)
    end = time.monotonic() + 10
    while not cloud.control.report().connections.get("federation") and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=10)
    assert (process.returncode, stdout) == (61, b"")
    assert f" terminated: ended by {number.name} | ".encode() in stderr


def test_sigterm_ends_a_call_that_parses_its_request(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("federation", Fault("black_hole"))
    env = {**program.env, "DEADLINE_SECONDS": "5"}
    process = cloud.ns.popen(program.argv, env=env, stdin=subprocess.PIPE)
    assert process.stdin is not None
    # It is larger than the pipe. When all of it is written, the program has set its handlers.
    process.stdin.write(request(IMAGE, more=[[]] * 300_000))
    process.stdin.close()
    process.stdin = None
    time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == b""
    assert process.returncode == 61


def test_a_traceback_is_shown_only_with_verbose(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("token", Fault("status", status=401))
    quiet = program.run(cloud, stdin=request(IMAGE)).stderr.decode()
    cloud.reset()
    cloud.control.fault("token", Fault("status", status=401))
    verbose = program.run(cloud, "--verbose", stdin=request(IMAGE)).stderr.decode()
    assert "Traceback" not in quiet
    assert "Traceback" in verbose
    assert verbose.splitlines()[0].startswith("oke-credential-provider: token-refused: ")


# --- requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"\n",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"kind":"CredentialProviderRequest","image":"fra.ocir.io/ns/repo"}',
        request("").replace(b'"image":""', b'"image":7'),
        request(""),
        request("user@fra.ocir.io/ns/repo"),
        request("https://fra.ocir.io/ns/repo"),
        request("fra.ocir.io/ns/repo\n"),
        request(IMAGE).replace(b"v1", b"v1beta1"),
        request(IMAGE).replace(b"Request", b"Response"),
        request(IMAGE, padding="x" * (1 << 20)),
        b"[" * 100_000,
    ],
    ids=range(16),
)
def test_a_bad_request_is_refused_without_a_packet(
    cloud: Cloud, program: Program, stdin: bytes
) -> None:
    result = program.run(cloud, stdin=stdin)
    assert (result.returncode, result.stdout) == (10, b"")
    assert result.stderr.startswith(b"oke-credential-provider: bad-request: ")
    assert cloud.control.report().connections == {}


def test_fields_of_newer_kubelets_are_ignored(cloud: Cloud, program: Program) -> None:
    stdin = request(IMAGE, serviceAccountToken="no token at all", more={"nested": [1]})
    assert read_response(program.run(cloud, stdin=stdin).check().stdout).password


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_request_may_have_each_encoding_of_json(
    cloud: Cloud, program: Program, encoding: str
) -> None:
    stdin = request(IMAGE).decode().encode(encoding)
    assert read_response(program.run(cloud, stdin=stdin).check().stdout).password


def test_a_terminal_on_standard_input_gets_an_explanation(cloud: Cloud, program: Program) -> None:
    ours, theirs = pty.openpty()
    try:
        process = subprocess.run(
            cloud.ns.command([*program.argv]),
            stdin=theirs,
            capture_output=True,
            timeout=10,
            env={"PATH": os.environ["PATH"], **program.env},
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 10
    assert b"standard input is a terminal" in process.stderr
    assert b"--help" in process.stderr


# --- settings ----------------------------------------------------------------------------------


def test_a_settings_file_replaces_the_environment_in_each_spelling_of_the_option(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    settings = tmp_path / "config.yaml"
    settings.write_text("defaultUser: somebody\nocirAuthMethod: instance_principal\n")
    for words in (
        ["-config", str(settings)],
        ["--config", str(settings)],
        [f"-config={settings}"],
        [f"--config={settings}"],
    ):
        # The environment is ignored.
        env = {"DEFAULT_USER": "other", "OCIR_AUTH_METHOD": "nonsense"}
        result = program.run(cloud, *words, stdin=request(IMAGE), env=env).check()
        assert read_response(result.stdout).auth["fra.ocir.io"][0] == "somebody"


def test_only_the_settings_file_selects_the_oci_config(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    env = OciFiles(tmp_path).write(cloud.control.session(), "DEFAULT")
    env["HOME"] = str(tmp_path / "none")
    (tmp_path / "settings.yaml").write_text("ocirAuthMethod: user_principal\n")
    args = ("--config", str(tmp_path / "settings.yaml"))
    result = program.run(cloud, *args, stdin=request(IMAGE), env=env)
    assert result.returncode == 12
    assert b"~/.oci/config" in result.stderr


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"OCIR_AUTH_METHOD": "RESOURCE"}, "OCIR_AUTH_METHOD is 'RESOURCE'; allowed: "),
        ({"REGISTRY_PROTOCOL": "ftp"}, "REGISTRY_PROTOCOL is 'ftp'"),
        ({"REGISTRY_PROTOCOL": "http"}, "REGISTRY_PROTOCOL is http"),
        ({"REGISTRY_TOKEN_PATH": "token"}, "REGISTRY_TOKEN_PATH is 'token'"),
        ({"REGISTRY_TOKEN_PATH": "/x\r\ny: z"}, "REGISTRY_TOKEN_PATH is "),
        ({"TOKEN_VALIDATION": "maybe"}, "TOKEN_VALIDATION is 'maybe'"),
        ({"OCIR_HOSTS": "*.com"}, "OCIR_HOSTS is '*.com'"),
        ({"OCIR_HOSTS": "10.0.0.1"}, "OCIR_HOSTS is '10.0.0.1'"),
        ({"DEADLINE_SECONDS": "60"}, "DEADLINE_SECONDS is '60'"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL is 'loud'"),
        ({"SSL_CERT_FILE": "/nowhere"}, "SSL_CERT_FILE is '/nowhere'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_an_invalid_setting_is_named_with_the_allowed_values(
    cloud: Cloud, program: Program, env: dict[str, str], named: str
) -> None:
    result = program.run(cloud, stdin=request(IMAGE), env=env)
    assert (result.returncode, result.stdout) == (11, b"")
    assert named in result.stderr.decode()
    report = cloud.control.report()
    assert report.of_group("federation") == report.of_group("registry") == 0


# --- principals --------------------------------------------------------------------------------


@pytest.mark.parametrize("passphrase", [None, "a secret phrase"])
def test_a_user_with_an_api_key(
    cloud: Cloud, program: Program, tmp_path: Path, passphrase: str | None
) -> None:
    env = OciFiles(tmp_path).write(cloud.control.api_key(passphrase=passphrase))
    home = tmp_path / "home"
    (home / ".oci").mkdir(parents=True)
    (home / ".oci" / "config").write_text("[WORK]\nuser=somebody else\n")
    env["HOME"] = str(home)  # the configured file is used
    assert program.credentials(cloud, IMAGE, env).password
    report = cloud.control.report()
    assert report.of_group("imds") == report.of_group("federation") == 0
    assert USER in cloud.ns.log()[-1].text


def test_a_users_session_token(cloud: Cloud, program: Program, tmp_path: Path) -> None:
    env = OciFiles(tmp_path).write(cloud.control.session(), "DEFAULT", fingerprint="00")
    del env["OCI_CLI_PROFILE"]
    with (tmp_path / "session").open("a") as file:
        file.write("\n")
    assert program.credentials(cloud, IMAGE, env).password


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[DEFAULT]\n", "is missing"),
        ("[OTHER]\nuser=x\n", "Profile 'WORK' not found"),
        ("nonsense", "cannot be read"),
        ("[DEFAULT]\ntenancy=t\nuser=u\nfingerprint=f\nkey_file=/none\n", "/none"),
    ],
    ids=["empty", "profile", "nonsense", "key"],
)
def test_a_bad_user_configuration_says_what_is_wrong(
    cloud: Cloud, program: Program, tmp_path: Path, text: str, expected: str
) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    profile = "WORK" if "OTHER" in text else "DEFAULT"
    env = {
        "OCIR_AUTH_METHOD": "USER_PRINCIPAL",
        "OCI_CONFIG_FILE": str(config),
        "OCI_CLI_PROFILE": profile,
    }
    result = program.run(cloud, stdin=request(IMAGE), env=env)
    assert (result.returncode, result.stdout) == (12, b"")
    assert expected in result.stderr.decode()


def test_an_oci_config_never_replaces_the_instance_principal(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    (tmp_path / ".oci").mkdir()
    OciFiles(tmp_path / ".oci").write(cloud.control.api_key(), "DEFAULT")
    env = {"HOME": str(tmp_path)}
    program.run(cloud, stdin=request(IMAGE), env=env).check()
    cloud.reset()
    cloud.control.fault("imds", Fault("refused"))
    assert program.run(cloud, stdin=request(IMAGE), env=env).returncode == 20


# --- the log -----------------------------------------------------------------------------------


def test_success_is_one_structured_line_in_the_journal(cloud: Cloud, program: Program) -> None:
    result = program.run(cloud, stdin=request(IMAGE)).check()
    assert result.stderr == b""
    (entry,) = cloud.ns.log()
    fields = entry.fields
    assert fields["SYSLOG_IDENTIFIER"] == "oke-credential-provider"
    assert fields["OKE_REGISTRY"] == "fra.ocir.io"
    assert fields["OKE_IMAGE"] == "ns/repo"
    assert fields["OKE_PRINCIPAL"].startswith("ocid1.instance.")
    assert fields["OKE_TOKEN"] == "fresh"
    assert fields["OKE_PULL_CHECK"] == "allowed"
    assert fields["OKE_TOKEN_REQUEST_ID"] != "none"
    assert float(fields["OKE_SECONDS"]) > 0
    assert read_response(result.stdout).password not in entry.text


def test_the_log_level_is_honored(cloud: Cloud, program: Program) -> None:
    program.run(cloud, stdin=request(IMAGE), env={"LOG_LEVEL": "Warning"}).check()
    assert cloud.ns.log() == []


def test_syslog_is_used_without_a_journal_and_nothing_fails_without_both(program: Program) -> None:
    with Cloud(log="devlog") as cloud:
        program.run(cloud, stdin=request(IMAGE)).check()
        (entry,) = cloud.ns.log()
        assert entry.text.startswith("<30>oke-credential-provider[")
    with Cloud(log="") as cloud:
        program.run(cloud, stdin=request(IMAGE)).check()


# --- the commands ------------------------------------------------------------------------------


def test_version_prints_text_and_json(cloud: Cloud, program: Program) -> None:
    text = program.run(cloud, "version").check().stdout.decode()
    told = json.loads(program.run(cloud, "version", "--output", "json").check().stdout)
    assert text.startswith(f"oke-credential-provider {told['version']}\n")
    assert {"commit", "python", "oci", "architecture"} <= told.keys()
    assert told["version"].encode() in program.run(cloud, "--version").check().stdout


def test_licenses_are_those_of_the_packages_in_the_program(cloud: Cloud, program: Program) -> None:
    text = program.run(cloud, "licenses").check().stdout.decode()
    assert "\ncryptography " in text
    assert "\npytest " not in text


def test_help_describes_the_kubelet_and_the_commands(cloud: Cloud, program: Program) -> None:
    text = program.run(cloud, "--help").check().stdout.decode()
    assert "CredentialProviderRequest" in text
    assert "version" in text


def test_an_unknown_command_is_refused(cloud: Cloud, program: Program) -> None:
    assert program.run(cloud, "nonsense").returncode == 2


def test_nothing_is_written_to_the_working_directory(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    shell = f"cd {folder} && exec {' '.join(program.argv)}"
    cloud.ns.run(["/bin/sh", "-c", shell], stdin=request(IMAGE), env=dict(program.env)).check()
    assert list(folder.iterdir()) == []
    shutil.rmtree(folder)


def test_the_next_call_uses_a_late_dynamic_group(cloud: Cloud, program: Program) -> None:
    env = {"TOKEN_CACHE": "disabled"}
    late = Iam(dynamic_groups=(DynamicGroup(compartment="ocid1.compartment.oc1..other"),))
    cloud.control.iam(late)
    answer = program.credentials(cloud, IMAGE, env)
    assert answer.cache_seconds == pytest.approx(120, abs=10)
    time.sleep(1.1)  # the stand-in's tokens have whole seconds
    group = DynamicGroup(compartment=COMPARTMENT, since=time.time() - 1)
    cloud.control.iam(Iam(dynamic_groups=(group,), policies=(Policy(),)))
    answer = program.credentials(cloud, IMAGE, env)
    assert answer.cache_seconds == 3300
