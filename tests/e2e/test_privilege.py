"""What the program reads, writes, runs and connects to; and which variables cannot influence it.

strace records a cold and a warm call. The test fails for a file, an address or a program that is not
on the list in this file.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provider.net.tls import NODE_BUNDLES, NODE_FOLDERS
from tests.cloud.harness import Cloud
from tests.cloud.model import Fault
from tests.cloud.namespace import REPOSITORY
from tests.conftest import Program
from tests.support.kubelet import read_response, request
from tests.support.processes import AS_OTHER, OTHER

pytestmark = pytest.mark.every_form

IMAGE = "fra.ocir.io/ns/repo"
IMDS = "169.254.169.254:80"
FEDERATION = "127.0.1.1:443"
REGISTRY = "127.0.2.1:443"
JOURNAL = "/run/systemd/journal/socket"

# --- the list ----------------------------------------------------------------------------------

STORE = r"/run/oke-credential-provider"
CERTIFICATES = (
    *(re.escape(bundle) for bundle in NODE_BUNDLES),
    *(rf"{re.escape(folder)}(/[0-9a-f]{{8}}\.[0-9])?" for folder in NODE_FOLDERS),
)
# Besides the files of the form itself.
READ = (
    r"/etc/ld\.so\.(cache|preload)",
    r"(/usr)?/lib(64)?/.+\.so(\.[0-9.]+)*",  # the node's own libraries
    r"(/usr)?/lib(64)?/glibc-hwcaps.*",
    r"/usr/lib(/.+)?/gconv/gconv-modules\.cache",
    r"/usr/(lib|share)/locale/.*",
    r"/(etc/localtime|usr/share/zoneinfo/.*)",  # Date headers
    r"/etc/(hosts|host\.conf|resolv\.conf|nsswitch\.conf|gai\.conf)",  # names to addresses
    *CERTIFICATES,
    r"(/etc|/usr/lib|/usr/local|/etc/pki)/(ssl|tls)/openssl\.cnf",
    r"/proc/self/mountinfo",  # is the credential cache on tmpfs?
    r"/proc/self/(cgroup|exe|maps)|/sys/fs/cgroup/.*|/proc/(stat|meminfo|sys/.*)|/sys/devices/system/cpu.*",  # glibc, OpenSSL
    r"/dev/(null|u?random)",
    rf"{STORE}(/[^/]+)?",
)
# A warm call reads none of these.
COLD_ONLY = (*CERTIFICATES, r".*/libssl[^/]*", r".*/_rust\.abi3\.so",
             r"/etc/(hosts|resolv\.conf)")  # fmt: skip
WRITTEN = (
    STORE,
    r"/proc/self/coredump_filter",  # if the limit cannot be raised
    rf"{STORE}/v2-(fra\.ocir\.io|identity|instance)-[0-9a-f]{{8}}(\.lock|\.[0-9]+\.new)?",
)
CONNECTED = (re.escape(IMDS), FEDERATION, REGISTRY, JOURNAL, r"/(var/)?run/nscd/socket")


@dataclass(frozen=True, slots=True)
class Form:
    """The files of one form, and the directory to which it unpacks itself."""

    read: tuple[str, ...]
    written: tuple[str, ...]
    run: tuple[str, ...]


def form_of(program: Program) -> Form:
    """The part of the list that differs between the source and a frozen form."""
    executable = Path(program.argv[0])
    resolved = executable.resolve()
    if resolved.read_bytes()[:2] == b"#!" or resolved.name.startswith("python"):
        paths = sysconfig.get_paths()
        folders = {paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"]}
        own = [*folders, sys.prefix, str(REPOSITORY / "provider"), str(REPOSITORY)]
        read = (
            *(rf"{re.escape(folder)}(/.*)?" for folder in own),
            r"/usr/lib(/.+)?/(python[0-9.]+|dist-packages).*",
            r"/usr/(local/)?bin/(pybuilddir\.txt|pyvenv\.cfg|python[0-9.]*)",
            r"/etc/(python[0-9.]+/.*|passwd|locale\.alias)",
            rf"{re.escape(sys.base_prefix)}/lib/libpython[0-9.]+so[0-9.]*",
        )
        run = (re.escape(str(executable)), rf"{re.escape(sys.prefix)}/bin/python[0-9.]*")
        written = (r".*/__pycache__(/.*)?",) if sys.flags.dont_write_bytecode else ()
        return Form(read, written, run)
    unpacked = r"(/tmp|/var/tmp|/run|/dev/shm)/oke-credential-provider\.[A-Za-z0-9]{6}(/.*)?"
    own = [re.escape(str(resolved.parent)) + r"(/.*)?", re.escape(str(executable))]
    # The launcher opens each parent of the directory to which it unpacks.
    return Form((*own, unpacked, "/", "/tmp", "/proc/sys/.*"), (unpacked,), (*own, unpacked))


# --- the record --------------------------------------------------------------------------------

_PATHS = "open|openat|creat|mkdir|mkdirat|rename|renameat|renameat2|unlink|unlinkat|rmdir|link|linkat|symlink|symlinkat|mknod|mknodat|chmod|fchmodat|chown|lchown|fchownat|truncate|utimensat|setxattr"
_CALLS = f"{_PATHS}|execve|execveat|connect|bind|sendto|sendmsg|ptrace|process_vm_writev|mount|bpf".replace(
    "|", ","
)
_LINE = re.compile(r"^(?P<call>\w+)\((?P<rest>.*)$")
_AT = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, )?"(?P<path>[^"]*)"')
_ADDRESS = re.compile(
    r"sin6?_port=htons\((?P<port>\d+)\).*?\"(?P<host>[0-9a-f.:]+)\"|sun_path=\"(?P<path>[^\"]+)\""
)


@dataclass(frozen=True, slots=True)
class Record:
    """What a call used: absolute paths, addresses (host:port or a socket's path), programs."""

    read: frozenset[str]
    written: frozenset[str]
    connected: frozenset[str]
    run: frozenset[str]
    other: frozenset[str]


def trace(program: Program, cloud: Cloud, tmp_path: Path) -> Record:
    """Run a successful call under strace. Not measured: coverage itself reads and loads more."""
    unmeasured = {name: v for name, v in program.env.items() if not name.startswith("COVERAGE_")}
    output = tmp_path / "trace"
    traced = Program(program.name, (*strace(output), *program.argv), unmeasured)
    assert traced.credentials(cloud, IMAGE).password
    return parse(output)


def strace(output: Path) -> list[str]:
    """A prefix for a command: one record per thread, in ``output`` with the thread's number behind it.

    In a common record the calls of two threads interleave, and a call's result is lines away from it.
    """
    calls = f"trace=?{_CALLS.replace(',', ',?')}"
    return [
        *("strace", "-ff", "-y", "-qq", "-s", "400", "-e", calls, "-e", "signal=none", "-o"),
        str(output),
    ]


def parse(output: Path) -> Record:
    lines: list[str] = []
    for thread in output.parent.glob(f"{output.name}.*"):
        lines += thread.read_text(errors="replace").splitlines()
        thread.unlink()  # the next record has the same name
    read: set[str] = set()
    written: set[str] = set()
    connected: set[str] = set()
    run: set[str] = set()
    other: set[str] = set()
    for line in lines:
        match = _LINE.match(line)
        if match is None or "= -1 ENO" in line or "= -1 EACCES" in line:
            continue  # not a call, or one that found nothing
        call, rest = match["call"], match["rest"]
        if call in ("execve", "execveat"):
            run |= set(list(_absolute(rest))[:1])  # the rest are its arguments
        elif call in ("connect", "bind", "sendto", "sendmsg"):
            connected |= set(_addresses(rest))
        elif call in ("open", "openat"):
            writes = re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", rest)
            (written if writes else read).update(_absolute(rest))
        elif call in _PATHS.split("|"):
            written |= set(_absolute(rest))
        else:
            other.add(call)
    return Record(*map(frozenset, (read, written, connected, run, other)))


def _absolute(rest: str) -> Iterator[str]:
    found = False
    for match in _AT.finditer(rest.partition(" = ")[0]):
        found = True
        folder = "/" if match["path"].startswith("/") else f"{match['folder'] or ''}/"
        yield re.sub(r"(/\.)+(?=/|$)|/(?=/)", "", folder + match["path"].lstrip("/"))
    if not found:  # a descriptor only
        descriptor = re.match(r"\d+<([^>]*)>", rest)
        if descriptor:
            yield descriptor[1]


def _addresses(rest: str) -> Iterator[str]:
    for match in _ADDRESS.finditer(rest):
        yield match["path"] or f"{match['host']}:{match['port']}"


def unlisted(found: frozenset[str], *lists: tuple[str, ...]) -> list[str]:
    """The items that no pattern matches."""
    patterns = [re.compile(pattern) for patterns in lists for pattern in patterns]
    return sorted(item for item in found if not any(p.fullmatch(item) for p in patterns))


# --- the tests ---------------------------------------------------------------------------------


def test_a_cold_and_a_warm_call_touch_nothing_that_is_not_listed(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    program.run(
        cloud, stdin=request("docker.io/library/nginx")
    ).check()  # so that Python writes its caches
    form = form_of(program)
    cold = trace(program, cloud, tmp_path)
    warm = trace(program, cloud, tmp_path)
    for record in (cold, warm):
        assert unlisted(record.read, READ, form.read) == []
        assert unlisted(record.written, WRITTEN, form.written) == []
        assert unlisted(record.connected, CONNECTED) == []
        assert unlisted(record.run, form.run) == []
        assert record.other == set()
    assert {IMDS, FEDERATION, REGISTRY, JOURNAL} <= cold.connected
    assert any(path.endswith(".new") for path in cold.written)
    # Warm: no server, no new file in the credential cache, no file that only the network needs.
    assert warm.connected <= {JOURNAL}
    assert not any(path.endswith(".new") for path in warm.written)
    crypto = re.compile("|".join(COLD_ONLY))
    assert [path for path in warm.read if crypto.fullmatch(path)] == []
    assert any(crypto.fullmatch(path) for path in cold.read)


def test_the_record_shows_what_a_program_does(cloud: Cloud, tmp_path: Path) -> None:
    code = (
        f"import os, socket; open('{tmp_path}/new', 'w'); os.rename('{tmp_path}/new', '{tmp_path}/n');"
        "socket.create_connection(('127.0.3.1', 80)); os.execv('/bin/true', ['true'])"
    )
    output = tmp_path / "trace"
    cloud.ns.run([*strace(output), sys.executable, "-c", code]).check()
    record = parse(output)
    assert {f"{tmp_path}/new", f"{tmp_path}/n"} <= record.written
    assert "127.0.3.1:80" in record.connected
    assert "/bin/true" in record.run
    assert unlisted(record.written, WRITTEN) == [f"{tmp_path}/n", f"{tmp_path}/new"]
    assert unlisted(record.connected, CONNECTED) == ["127.0.3.1:80"]


def test_the_record_leaves_out_files_that_threads_did_not_find(
    cloud: Cloud, tmp_path: Path
) -> None:
    code = (
        "import threading\n"
        "def look_up():\n"
        "    for number in range(300):\n"
        f"        try: open(f'{tmp_path}/none-{{number}}')\n"
        "        except OSError: pass\n"
        "for _ in 'abc': threading.Thread(target=look_up).start()\n"
    )
    output = tmp_path / "trace"
    cloud.ns.run([*strace(output), sys.executable, "-c", code]).check()
    record = parse(output)
    assert record.read
    assert [path for path in record.read if path.startswith(f"{tmp_path}/none")] == []


def core_limits(cloud: Cloud, program: Program, *before: str) -> set[tuple[str, str, bool]]:
    """For each process of a call that waits for OCI: the soft and the hard limit, and whether a core dump
    would contain memory. ``before`` is the command that starts it.
    """
    cloud.control.fault("federation", Fault("black_hole"))
    process = program.behind(*before).start(cloud, IMAGE)
    end = time.monotonic() + 10
    while not cloud.control.report().connections.get("federation") and time.monotonic() < end:
        time.sleep(0.02)
    found = [
        (Path(f"/proc/{pid}/limits").read_text(), Path(f"/proc/{pid}/coredump_filter").read_text())
        for pid in cloud.strays()
    ]
    process.terminate()
    process.communicate(timeout=10)
    result = set()
    for limits, kept in found:
        match = re.search(r"Max core file size\s+(\w+)\s+(\w+)", limits)
        assert match
        result.add((match[1], match[2], int(kept, 16) != 0))
    return result


# The limit is 1, not 0, because the kernel pipes a core dump to a program (systemd, apport) at any limit
# except 1; see fs/coredump.c. Root needs CAP_SYS_RESOURCE to raise a hard limit of 0. sudo sets the limit
# to 0, and containers lack that capability, so these tests cannot have another limit there.
RAISABLE = subprocess.run(["prlimit", "--core=unlimited", "true"]).returncode == 0
LIMITS = ["unlimited", "0:unlimited"] if RAISABLE else ["0:0"]


@pytest.mark.parametrize("limit", LIMITS)
def test_a_core_dump_is_impossible(cloud: Cloud, program: Program, limit: str) -> None:
    expected = ("1", "1", True) if RAISABLE else ("0", "0", False)
    assert core_limits(cloud, program, "prlimit", f"--core={limit}") == {expected}


def test_a_call_that_cannot_raise_the_limit_keeps_memory_out_of_a_core(
    cloud: Cloud, program: Program
) -> None:
    # As with sudo in a container: root without CAP_SYS_RESOURCE cannot raise a limit of 0.
    before = ("prlimit", "--core=0:0", "setpriv", "--bounding-set=-sys_resource")
    assert core_limits(cloud, program, *before) == {("0", "0", False)}


@pytest.mark.parametrize(
    ("limit", "then"), [*((limit, "1") for limit in LIMITS if limit != "0:0"), ("0:0", "0")]
)
def test_a_users_call_dumps_no_core_unless_its_hard_limit_is_0(
    cloud: Cloud, program: Program, limit: str, then: str
) -> None:
    assert core_limits(cloud, program, "prlimit", f"--core={limit}", *AS_OTHER) == {
        (then, then, then == "1")
    }


# --- the environment ---------------------------------------------------------------------------

# Variables with harmful values. The program ignores all of them.
HOSTILE = {
    "OCI_METADATA_BASE_URL": "http://elsewhere.example/opc/v2",
    "OCI_REGION_METADATA": '{"realmKey":"oc99","realmDomainComponent":"elsewhere.example",'
    '"regionKey":"FRA","regionIdentifier":"eu-frankfurt-1"}',
    "OCI_REGION": "us-ashburn-1",
    "OCI_AUTH": "security_token",
    "OCI_CLI_AUTH": "api_key",
    "OCI_RESOURCE_PRINCIPAL_VERSION": "2.2",
    "OCI_SDK_AUTH_CLIENT_REGION_URL": "http://elsewhere.example",
    "HTTP_PROXY": "http://proxy.example:3128",
    "http_proxy": "http://proxy.example:3128",
    "ALL_PROXY": "http://proxy.example:3128",
    "all_proxy": "http://proxy.example:3128",
    "SSL_CERT_DIR": "{folder}",
    "CURL_CA_BUNDLE": "{folder}/file",
    "NETRC": "{folder}/netrc",
    "HOME": "{folder}",
    "SSLKEYLOGFILE": "{folder}/keys",
    "OPENSSL_CONF": "{folder}/openssl.cnf",
    "OPENSSL_MODULES": "{folder}",
    "OPENSSL_ENGINES": "{folder}",
    "XDG_RUNTIME_DIR": "{folder}",  # root's credential cache is in /run
}
# Python reads these variables. The frozen program ignores them.
INTERPRETERS = {
    "PYTHONPATH": "{folder}",
    "PYTHONHOME": "{folder}",
    "PYTHONSTARTUP": "{folder}/json.py",
    "PYTHONINSPECT": "1",
    "PYTHONVERBOSE": "1",
    "PYTHONBREAKPOINT": "os.system",
    "PYTHONWARNINGS": "error",
    "LD_PRELOAD": "{folder}/preload.so",
    "LD_LIBRARY_PATH": "{folder}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_environment_turns_nothing_against_the_node(
    cloud: Cloud, program: Program, tmp_path: Path, name: str
) -> None:
    hostile_folder(tmp_path)
    before = sorted(tmp_path.iterdir())
    env = {name: HOSTILE[name].replace("{folder}", str(tmp_path))}
    answer = program.credentials(cloud, IMAGE, env)
    assert answer.cache_seconds > 3000
    report = cloud.control.report()
    assert (report.of_group("imds"), report.count("federation"), report.count("token")) == (4, 1, 1)
    assert report.connections.keys() <= {"imds", "federation", "registry"}
    assert sorted(tmp_path.iterdir()) == before
    if name.startswith("OPENSSL"):
        cloud.reset()
        record = trace(Program(program.name, program.argv, {**program.env, **env}), cloud, tmp_path)
        assert not [path for path in record.read if path.startswith(str(tmp_path))]


def test_a_users_cache_is_in_the_users_runtime_directory(cloud: Cloud, program: Program) -> None:
    runtime = cloud.ns.path("/run/runtime-of-a-user")
    runtime.mkdir(mode=0o700)
    os.chown(runtime, OTHER, OTHER)
    env = {"XDG_RUNTIME_DIR": "/run/runtime-of-a-user"}
    try:
        user = program.behind(*AS_OTHER)
        first, second = (user.credentials(cloud, IMAGE, env) for _ in "12")
        assert first.password == second.password
        assert cloud.control.report().count("federation") == 1
        assert list((runtime / "oke-credential-provider").iterdir())
    finally:
        shutil.rmtree(runtime)


def test_no_variable_reaches_python_inside_a_frozen_program(
    cloud: Cloud, program: Program, tmp_path: Path
) -> None:
    frozen = b"frozen        true" in program.run(cloud, "version").check().stdout
    hostile_folder(tmp_path)
    for name, value in INTERPRETERS.items():
        # The source form runs in the user's interpreter, which reads most of these variables. These
        # three never affect a program.
        if not frozen and name not in ("PYTHONSTARTUP", "PYTHONBREAKPOINT", "LD_LIBRARY_PATH"):
            continue
        # A shell sets it, so that no other program gets it.
        command = ("sh", "-c", f'{name}="$0" exec "$@"', value.replace("{folder}", str(tmp_path)))
        argv = [*command, *program.argv]
        result = cloud.ns.run(argv, stdin=request(IMAGE), env=program.env).check()
        assert read_response(result.stdout).password
        assert result.stderr == b"", name


def hostile_folder(folder: Path) -> None:
    """Write files that would do harm if the program read them."""
    (folder / "openssl.cnf").write_text("openssl_conf = nowhere\n[nowhere]\nengines = x\n[x]\n")
    (folder / "file").write_text("no certificates")
    hosts = ("auth.eu-frankfurt-1.oraclecloud.com", "fra.ocir.io", "169.254.169.254", "default")
    for name in ("netrc", ".netrc"):
        (folder / name).write_text(
            "".join(f"machine {host} login a password b\n" for host in hosts)
        )
        (folder / name).chmod(0o600)
    for module in ("json", "ssl", "sitecustomize", "usercustomize", "provider"):
        (folder / f"{module}.py").write_text("raise SystemExit('taken over')\n")
    (folder / "preload.so").write_bytes(b"\x7fELF, and nothing behind it")


def test_a_proxy_is_for_servers_and_never_for_the_metadata_service(
    cloud: Cloud, program: Program
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        cloud.reset()
        env = {name: "http://proxy.example:3128", "HTTP_PROXY": "http://proxy.example:3128"}
        program.run(cloud, stdin=request(IMAGE), env=env).check()
        report = cloud.control.report()
        targets = [seen.path for seen in report.requests if seen.endpoint == "proxy"]
        assert sorted(targets) == ["auth.eu-frankfurt-1.oraclecloud.com:443", "fra.ocir.io:443"]
        forwarded = ("via", "forwarded", "x-forwarded-for")
        assert not [s for s in report.requests if set(s.header_names) & set(forwarded)]
        assert report.of_group("imds") == 4


@pytest.mark.parametrize(
    ("no_proxy", "through"),
    [("*", 0), (".oraclecloud.com", 1), ("fra.ocir.io,.oraclecloud.com", 0), ("other.example", 2)],
)
def test_no_proxy_is_honored(cloud: Cloud, program: Program, no_proxy: str, through: int) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        cloud.reset()
        env = {"HTTPS_PROXY": "http://proxy.example:3128", name: no_proxy}
        program.run(cloud, stdin=request(IMAGE), env=env).check()
        assert cloud.control.report().count("proxy") == through


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_only_the_configured_bundle_is_trusted(
    cloud: Cloud, program: Program, tmp_path: Path, name: str
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(cloud.ca)
    program.run(cloud, stdin=request(IMAGE), env={name: str(bundle)}).check()
    cloud.reset()
    # The machine's bundle, which does not have the stand-in's CA.
    bundle.write_bytes(Path("/etc/ssl/certs/ca-certificates.crt").read_bytes())
    result = program.run(cloud, stdin=request(IMAGE), env={name: str(bundle)})
    assert result.returncode == 51
    cloud.reset()
    result = program.run(cloud, stdin=request(IMAGE), env={name: str(tmp_path / "none")})
    assert result.returncode == 11
