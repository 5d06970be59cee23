"""Container tools get credentials through the docker credential helper protocol."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cloud.harness import STORES, Cloud
from tests.cloud.model import ACME, Fault, Iam, Imds
from tests.cloud.namespace import PATH, REPOSITORY, Completed
from tests.conftest import Program
from tests.support.oci_files import OciFiles

pytestmark = pytest.mark.every_form

NOT_FOUND = b"credentials not found in native keychain\n"


@pytest.fixture
def helper(program: Program, tmp_path: Path) -> Program:
    """Return the program under the name that tools run."""
    path = tmp_path / "docker-credential-ocir"
    if len(program.argv) == 1:
        path.symlink_to(program.argv[0])
    else:
        path.write_text(f"#!{program.argv[0]}\nfrom provider.__main__ import main\n\nmain()\n")
        path.chmod(0o755)
    return Program(program.name, (str(path),), program.env)


def get(cloud: Cloud, helper: Program, server: str, **env: str) -> Completed:
    return helper.run(cloud, "get", stdin=server.encode(), env=env)


def secret(result: Completed) -> str:
    answer = json.loads(result.check().stdout)
    assert set(answer) == {"ServerURL", "Username", "Secret"}
    return str(answer["Secret"])


# --- get ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "server",
    [
        "fra.ocir.io",
        "fra.ocir.io\n",
        "https://fra.ocir.io",
        "https://fra.ocir.io/",
        "https://fra.ocir.io/v2/",
        "fra.ocir.io/ns/repo",
        "fra.ocir.io:443",
        "https://eu-frankfurt-1.ocir.io:443/v1/",
        "ocir.eu-frankfurt-1.oci.oraclecloud.com",
    ],
)
def test_an_ocir_host_gets_the_nodes_credentials_and_its_name_unchanged(
    cloud: Cloud, helper: Program, server: str
) -> None:
    answer = json.loads(get(cloud, helper, server).check().stdout)
    assert answer["ServerURL"] == server.strip()
    assert answer["Username"] == "BEARER_TOKEN"
    assert answer["Secret"].count(".") == 2
    report = cloud.control.report()
    assert report.count("token") == 1
    assert report.count("manifest") == 0


@pytest.mark.parametrize(
    "server",
    [
        "https://index.docker.io/v1/",
        "docker.io",
        "ghcr.io",
        "evilocir.io",
        "fra.ocir.io.elsewhere.example",
        "https://fra.ocir.io.elsewhere.example/v2/",
        "https://fra.ocir.io@elsewhere.example",
        "https://user:password@fra.ocir.io",
        "https://elsewhere.example/fra.ocir.io",
        "https://elsewhere.example#fra.ocir.io",
        "fra.ocir.io:8443",
        "http://fra.ocir.io",
        "ftp://fra.ocir.io",
        "fra.ocir.io\nelsewhere.example",
        "[::1]:5000",
        "localhost:5000",
        "://",
    ],
)
def test_another_server_is_not_found_without_a_request(
    cloud: Cloud, helper: Program, server: str
) -> None:
    result = get(cloud, helper, server)
    assert (result.returncode, result.stdout, result.stderr) == (1, NOT_FOUND, b"")
    assert cloud.control.report().connections == {}


def test_a_dedicated_region_is_known_by_imds(cloud: Cloud, helper: Program) -> None:
    cloud.control.imds(Imds(region=ACME))
    assert secret(get(cloud, helper, "https://ocir.us-acme-1.oci.acmecloud.example"))


@pytest.mark.parametrize("server", ["", "\n", " \n "])
def test_a_missing_server_is_reported(cloud: Cloud, helper: Program, server: str) -> None:
    result = get(cloud, helper, server)
    assert (result.returncode, result.stdout) == (1, b"no credentials server URL\n")


def test_a_tool_and_the_kubelet_share_a_token(
    cloud: Cloud, program: Program, helper: Program
) -> None:
    password = program.credentials(cloud, "fra.ocir.io/ns/repo").password
    cloud.control.reset_counters()
    assert secret(get(cloud, helper, "https://fra.ocir.io")) == password
    assert cloud.control.report().connections == {}
    assert cloud.ns.log()[-1].fields["OKE_TOKEN"] == "shared"


def test_a_users_profile_gets_credentials(cloud: Cloud, helper: Program, tmp_path: Path) -> None:
    env = OciFiles(tmp_path).write(cloud.control.api_key())
    assert secret(get(cloud, helper, "fra.ocir.io", **env))
    assert cloud.control.report().connections == {"registry": 1}


def test_a_failure_is_printed_where_tools_read_it(cloud: Cloud, helper: Program) -> None:
    cloud.control.fault("federation", Fault("status", status=401))
    result = get(cloud, helper, "fra.ocir.io")
    assert (result.returncode, result.stderr) == (31, b"")
    assert result.stdout.startswith(b"oke-credential-provider: federation-refused: ")
    assert cloud.ns.log()[-1].fields["OKE_CODE"] == "federation-refused"


def test_invalid_settings_are_printed_there_too(cloud: Cloud, helper: Program) -> None:
    result = get(cloud, helper, "fra.ocir.io", OCIR_AUTH_METHOD="NOBODY")
    assert result.returncode == 11
    assert result.stdout.startswith(b"oke-credential-provider: bad-settings: ")


# --- the other actions -------------------------------------------------------------------------


def test_list_is_empty(cloud: Cloud, helper: Program) -> None:
    assert helper.run(cloud, "list").check().stdout == b"{}\n"


def test_version_has_the_protocols_form(cloud: Cloud, helper: Program) -> None:
    name, package, version = helper.run(cloud, "version").check().stdout.decode().split()
    assert name == "docker-credential-ocir"
    assert package == "(oke-credential-provider-for-ocir)"
    assert version[0].isdigit()


@pytest.mark.parametrize("action", ["store", "erase"])
def test_store_and_erase_are_refused_with_a_reason_and_keep_nothing(
    cloud: Cloud, helper: Program, action: str, tmp_path: Path
) -> None:
    given = b'{"ServerURL": "https://fra.ocir.io", "Username": "u", "Secret": "hunter2"}'
    output = tmp_path / "written"
    strace = ["strace", "-f", "-qq", "-s", "500", "-o", str(output)]
    strace += ["-e", "trace=write,pwrite64,writev,sendto,sendmsg"]
    argv = [*strace, *helper.argv, action]
    result = cloud.ns.run(argv, stdin=given * 500, env=helper.env)
    assert "stores no credentials" in output.read_text()
    assert "hunter2" not in output.read_text()  # in no file, through no socket
    assert result.returncode == 1
    assert result.stdout == (
        b"docker-credential-ocir stores no credentials: it gets them from OCI\n"
    )
    assert cloud.control.report().connections == {}
    assert not any(b"hunter2" in entry.raw for entry in cloud.ns.log())


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), b"Usage: docker-credential-ocir <store|get|erase|list|version>\n"),
        (("get", "more"), b"Usage: docker-credential-ocir <store|get|erase|list|version>\n"),
        (("steal",), b"Unknown credential action `steal`\n"),
    ],
)
def test_an_unknown_action_gets_the_protocols_text(
    cloud: Cloud, helper: Program, args: tuple[str, ...], text: bytes
) -> None:
    result = helper.run(cloud, *args)
    assert (result.returncode, result.stdout) == (1, text)


def test_the_command_is_the_same_helper(cloud: Cloud, program: Program, helper: Program) -> None:
    server = b"https://fra.ocir.io"
    by_command = program.run(cloud, "docker-credential", "get", stdin=server)
    assert secret(by_command) == secret(get(cloud, helper, server.decode()))
    refused = program.run(cloud, "docker-credential", "get", stdin=b"ghcr.io")
    assert (refused.returncode, refused.stdout) == (1, NOT_FOUND)


def test_the_helper_loads_no_more_than_a_kubelet_call() -> None:
    script = """
import os, sys
from provider.__main__ import run
reading, writing = os.pipe()
os.write(writing, b"ghcr.io"); os.close(writing); os.dup2(reading, 0)
assert run(["get"], {}, "docker-credential-ocir") == 1
heavy = {"click", "yaml", "ssl", "oci", "cryptography", "http"}
assert not heavy & {name.split(".")[0] for name in sys.modules}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == NOT_FOUND


# --- real tools --------------------------------------------------------------------------------

STORAGE = ("--storage-driver", "vfs")
TOOLS = {
    "skopeo": ("skopeo", "--policy={}/policy.json", "copy"),
    "podman": (
        *("podman", "--root={}/root", "--runroot={}/run", "--tmpdir={}/tmp", *STORAGE),
        *("--events-backend=none", "pull", "--signature-policy={}/policy.json"),
    ),
    "buildah": (
        *("buildah", "--root={}/root", "--runroot={}/run", *STORAGE),
        *("pull", "--signature-policy={}/policy.json"),
    ),
}


class Tool:
    """A container tool with its own directory, where the helper is configured."""

    def __init__(self, cloud: Cloud, helper: Program, tool: str) -> None:
        self._cloud = cloud
        self._tool = tool
        self._folder = cloud.ns.folder / f"{tool}-{helper.name}"  # each form pulls again
        self._folder.mkdir(exist_ok=True)
        policy = '{"default": [{"type": "insecureAcceptAnything"}]}'
        (self._folder / "policy.json").write_text(policy)
        self._env = {
            **helper.env,
            "PATH": f"{os.path.dirname(helper.argv[0])}:{PATH}",
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder),
            "REGISTRY_AUTH_FILE": str(self._folder / "auth.json"),
        }
        self.helpers({"fra.ocir.io": "ocir"})

    def helpers(self, by_host: dict[str, str]) -> None:
        text = json.dumps({"credHelpers": by_host} if by_host else {})
        (self._folder / "auth.json").write_text(text)

    def pull(self, image: str) -> Completed:
        argv = [part.format(self._folder) for part in TOOLS[self._tool]]
        target = [f"docker://{image}", f"dir:{self._folder}/pulled"]
        source = target if self._tool == "skopeo" else [image]
        return self._cloud.ns.run([*argv, *source], env=self._env, timeout=60)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_real_tool_pulls_what_the_node_may_read_and_nothing_else(
    cloud: Cloud, helper: Program, tool: str
) -> None:
    registry = cloud.registry
    tried = Tool(cloud, helper, tool)
    image = f"fra.ocir.io/ns/app@{registry.digest}"
    tried.helpers({})
    assert tried.pull(image).returncode != 0
    tried.helpers({"fra.ocir.io": "ocir"})
    tried.pull(image).check()
    denied = tried.pull("fra.ocir.io/other/secret:latest")
    assert denied.returncode != 0
    assert b"denied: User UserId(ocid1.instance." in denied.stderr
    cloud.reset()
    cloud.control.iam(Iam(policies=()))
    assert tried.pull("fra.ocir.io/ns/repo:latest").returncode != 0
    assert cloud.control.report().count("federation") == 1


def test_in_a_container_real_tools_share_one_exchange(helper: Program, tmp_path: Path) -> None:
    with Cloud(log="devlog") as cloud:
        image = f"fra.ocir.io/ns/app@{cloud.registry.digest}"
        cloud.ns.on_disk(tmp_path, "/run")
        for tool in ("podman", "skopeo", "skopeo"):
            Tool(cloud, helper, tool).pull(image).check()
        report = cloud.control.report()
        assert (report.of_group("imds"), report.count("federation")) == (4, 1)
        assert cloud.ns.path(STORES[1]).is_dir()
