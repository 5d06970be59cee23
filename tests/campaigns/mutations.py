"""`python -m tests.campaigns.mutations`: remove one guard at a time; a test must fail.

Each mutation is applied to a copy of the tree. The tests of its family must pass before and fail after.
FAMILIES groups guards of one kind. Each claim of SECURITY.md and README.md (tests.support.claims) is a
family too, with the one test of the claim.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.claims import CLAIMS, Mutation

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Family:
    """Guards of one kind. `tests` are the arguments of pytest that select their tests."""

    name: str
    tests: tuple[str, ...]
    mutations: tuple[Mutation, ...]


FAMILIES = (
    Family(
        "host rule",
        ("tests/campaigns/test_fuzz.py", "tests/unit/test_hosts.py", "-k", "host or pattern or oracle or ocir"),
        (
            Mutation("provider/net/hostname.py", "if not image_host.isascii() or (colon", "if (colon"),
            Mutation("provider/net/hostname.py", 'or "*" in labels[-2:]', ""),
        ),
    ),
    Family(
        "limits of an answer",
        ("tests/campaigns/test_fuzz.py", "-k", "bounds or interim"),
        (
            Mutation("provider/net/http.py", "except (HTTPException, ValueError) as error", "except HTTPException as error"),
            Mutation("provider/net/http.py", "retryable = isinstance(error, IncompleteRead)", "retryable = True"),
        ),
    ),
    Family(
        "retries and time limits",
        ("tests/campaigns/test_faults.py", "-k", "50 or huge or endless or slow or DNS or Retry"),
        (
            Mutation("provider/net/retry.py", "RETRYABLE_STATUSES = (408, 429, 500, 502, 503, 504)", "RETRYABLE_STATUSES = (408, 429, 500, 501, 502, 503, 504, 505, 507, 508, 511)"),
            Mutation("provider/net/client.py", "if fresh or not failure.retryable:", "if fresh:"),
            Mutation("provider/net/http.py", "retryable = error.errno == socket.EAI_AGAIN", "retryable = True"),
        ),
    ),
    Family(
        "errors and logs",
        ("tests/e2e/test_redaction.py", "-k", "outcome or user"),
        (
            Mutation("provider/net/http.py", '(opc-request-id {self.request_id})"', '(opc-request-id {self.request_id}, {self.headers.items()})"'),
            Mutation("provider/net/http.py", "any(run in text for run in runs for text in sent)", "False"),
            Mutation("provider/net/http.py", '{reason}", retryable) from None', '{reason}, {error}", retryable) from None'),
            Mutation("provider/auth/instance_principal.py", 'raise FederationMalformed(f"{answer.describe()} without a token")', 'raise FederationMalformed(f"{answer.body!r} without a token")'),
            Mutation("provider/net/tls.py", 'raise BadSettings("HTTPS_PROXY is not a URL") from None', 'raise BadSettings("HTTPS_PROXY is not a URL")'),
            Mutation("provider/auth/oci_files.py", 'cannot be read ({type(error).__name__})") from None', 'cannot be read ({error})") from None'),
        ),
    ),
    Family(
        "credential cache",
        ("tests/e2e/test_sharing.py", "-k", "unsafe or private or tmpfs or identity or small"),
        (
            Mutation("provider/cache/tmpfs.py", "and _in_memory(os.path.dirname(path)):", "and True:"),
            Mutation("provider/cache/tmpfs.py", "{FOLDER}-{os.geteuid()}", "{FOLDER}"),
        ),
    ),
    Family(
        "unknown registries",
        ("tests/e2e/test_unknown_registries.py", "tests/unit/test_hosts.py"),
        (
            Mutation("provider/cache/token_cache.py", " or self._slot.read():", ":"),
            Mutation("provider/cache/token_cache.py", "return bool(own and split and is_registry_of(own, split[0]))", "return False"),
            Mutation("provider/cache/single_flight.py", "        if region and is_registry_of(region, host):", "        if False:"),
            Mutation("provider/cache/single_flight.py", "if recent and admitted != host:", "if recent:"),
            Mutation("provider/cache/token_cache.py", "            known = flight.region()\n", "            known = None\n"),
            Mutation("provider/cache/single_flight.py", ">= self.arrived and self.unknown_registry is None:", ">= self.arrived and False:"),
            Mutation("provider/cache/single_flight.py", ">= self.arrived and self.unknown_registry is None:", ">= self.arrived:"),
            Mutation("provider/cache/single_flight.py", "while lock and not lock.acquire():", "while False and not lock.acquire():"),
            Mutation("provider/cache/token_cache.py", "            if not self._flight.is_proving:", "            if True:"),
            Mutation("provider/cache/entries.py", "label[:100]", "label"),
            Mutation("provider/cache/token_cache.py", 'host.removesuffix(f":{HTTPS_PORT}")', "host"),
            Mutation("provider/cache/tmpfs.py", "                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n                    os", "                    os"),
            Mutation("provider/ocir/hosts.py", 'if "*" not in pattern.labels', "if True"),
            Mutation("provider/ocir/hosts.py", '    if realm_domain != REALM_DOMAINS["oc1"]:', "    if False:"),
        ),
    ),
    Family(
        "responses",
        ("tests/unit/test_response.py", "tests/campaigns/test_faults.py", "-k", "kubelet or token or expires or response"),
        (
            Mutation("provider/ocir/token.py", "not 0 < expires_in <= MAX_EXPIRES_IN", "not expires_in <= MAX_EXPIRES_IN"),
            Mutation("provider/plugin/response.py", "safe = max(expires_in - _MARGIN_SECONDS, expires_in // 2)", "safe = expires_in"),
        ),
    ),
    Family(
        "pull checks",
        ("tests/e2e/test_sharing.py", "tests/e2e/test_end_to_end.py", "-k", "proof or prove or denied or slow or restarted or newer or older or image_only or refusal or 404 or absent or another_repository"),
        (
            Mutation("provider/plugin/response.py", '"cacheKeyType": "Image"', '"cacheKeyType": "Registry"'),
            Mutation("provider/plugin/response.py", "UNPROVEN_SECONDS - int(age)", "UNPROVEN_SECONDS"),
            Mutation("provider/plugin/response.py", "max(UNPROVEN_SECONDS - int(age), _SHORTEST_SECONDS)", "UNPROVEN_SECONDS - int(age)"),
            Mutation("provider/ocir/registry_errors.py", 'case 404, "MANIFEST_UNKNOWN":', "case 404, _:"),
            Mutation("provider/ocir/pull_check.py", 'for method in ("HEAD", "GET"):', 'for method in ("HEAD",):'),
            Mutation("provider/ocir/registry_errors.py", 'case 403, "FREE_TIER_NOT_SUPPORTED":', 'case 403, "FREE_TIER":'),
            Mutation("provider/ocir/registry_errors.py", "isinstance(code, str) and code in _CODES", "isinstance(code, str)"),
            Mutation("provider/cache/entries.py", "NEW_SECONDS = 30", "NEW_SECONDS = 0"),
            Mutation("provider/cache/entries.py", "NEW_SECONDS = 30", "NEW_SECONDS = 3600"),
            Mutation("provider/cache/token_cache.py", "and not cached.renewed:", "and True:"),
            Mutation("provider/cache/token_cache.py", "*proven[-(_MAX_TOKENS - 1) :], new", "new"),
            Mutation("provider/cache/entries.py", 'if check.status == "allowed" and age >= NEW_SECONDS:', "if False:"),
            Mutation("provider/cache/token_cache.py", "._replace(age=now() - began)", ""),
            Mutation("provider/cache/token_cache.py", "            if not rejected:\n                raise\n", "            raise\n"),
            Mutation("provider/cache/token_cache.py", "limit = UNPROVEN_SECONDS if check == CHECK_NO_IMAGE else NEW_SECONDS", "limit = 3600 if check == CHECK_NO_IMAGE else NEW_SECONDS"),
            Mutation("provider/cache/token_cache.py", "return (proven or usable)[-1]", "return usable[-1]"),
        ),
    ),
    Family(
        "parsing of input",
        ("tests/campaigns/test_fuzz.py", "tests/unit/test_image.py", "tests/unit/test_errors.py", "-k", "request or image or repository or text or answered or line or shape"),
        (
            Mutation("provider/image.py", 'separator in (".", "_", "__")', "True"),
            Mutation("provider/__main__.py", 'text.encode(errors="backslashreplace")', "text.encode()"),
        ),
    ),
    Family(
        "proxy of an origin",
        ("tests/e2e/test_privilege.py", "-k", "proxy"),
        (
            Mutation("provider/net/client.py", 'if origin.scheme == "https" else None', "if False else None"),
        ),
    ),
    Family(
        "enable: killed while it runs",
        ("tests/e2e/test_enable_interrupted.py", "-k", "killed and enable"),
        (
            Mutation("provider/commands/kubelet_service/trial.py", "    guard.start(options.longest)\n", ""),
            Mutation("provider/commands/kubelet_service/guard.py", "{rm} -f {trial}; {systemctl} daemon-reload; {systemctl} reset", "{systemctl} daemon-reload; {systemctl} reset"),
        ),
    ),
    Family(
        "enable: power loss while it runs",
        ("tests/e2e/test_enable_interrupted.py", "-k", "power and enable"),
        (
            Mutation("provider/commands/node/kubelet_unit.py", 'TRIAL: Final = f"/run/', 'TRIAL: Final = f"/etc/'),
        ),
    ),
    Family(
        "enable: unhealthy kubelet",
        ("tests/e2e/test_enable.py", "-k", "healthy_is_rolled_back or another_user or crashes"),
        (
            Mutation("provider/commands/kubelet_service/health.py", "if still * 2 < len(before):", "if False:"),
            Mutation("provider/commands/kubelet_service/health.py", "_listeners(port) - {0}", "set() - {0}"),
            Mutation("provider/commands/kubelet_service/health.py", "ended = service.main_pid != first.main_pid or service.restarts != first.restarts", "ended = False"),
            Mutation("provider/commands/kubelet_service/health.py", "return _probe(*expected.healthz) if expected.healthz else None", "return None"),
            Mutation("provider/commands/kubelet_service/systemd.py", 'c if c.isprintable() else "?"', "c"),
        ),
    ),
    Family(
        "enable: refusals and leftovers",
        ("tests/e2e/test_enable.py", "-k", "wrong_state or a_person or other_values or own_flags or survives_a_power or interrupted"),
        (
            Mutation("provider/commands/kubelet_service/enable.py", "        refuse_pending(unit, kubelet)\n", ""),
            Mutation("provider/commands/kubelet_service/unit.py", "        if each.replaceable:", "        if False:"),
            Mutation("provider/commands/kubelet_service/unit.py", "        if not _is_same_path(setting.value, wanted[setting.flag]):", "        if False:"),
            Mutation("provider/commands/kubelet_service/trial.py", "    _on_signals(_end)\n", ""),
            Mutation("provider/commands/node/kubelet_unit.py", "return text.startswith(_MARK)", "return True"),
            Mutation("provider/commands/node/kubelet_unit.py", "        if backslashes % 2:", "        if False:"),
            Mutation("provider/commands/kubelet_service/guard.py", "ExecStopPost={sh} -c '{rm} -f {trial}; exec {systemctl} daemon-reload'\n", ""),
        ),
    ),
)  # fmt: skip


# Starts the program of the copy, as its installed script does. -S leaves out the directories that the
# virtual environment adds, and with them the original tree.
_SCRIPT = """#!{python} -S
import sys
sys.path[:1] = [{copy!r}]
sys.path.append({packages!r})
from provider.__main__ import main
main()
"""


def claims() -> Iterator[Family]:
    """Yield a family for each claim. Raises KeyError if a test does not exist."""
    where = {
        name: str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    for test, mutations in CLAIMS.items():
        yield Family(test, (where[test], "-k", test), mutations)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.mutations", description=__doc__
    )
    parser.add_argument("--only", default="", help="run only families whose name contains this")
    options = parser.parse_args()
    total = count = 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        os.chmod(name, 0o755)  # some tests run the program as another user
        copy = Path(name) / "tree"
        skip = shutil.ignore_patterns(".git", ".venv", ".*_cache", "build", "dist", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=skip)
        script = copy / "oke-credential-provider"
        packages = sysconfig.get_path("purelib")
        script.write_text(_SCRIPT.format(python=sys.executable, copy=str(copy), packages=packages))
        script.chmod(0o755)
        for family in (*FAMILIES, *claims()):
            if options.only not in family.name:
                continue
            print(f"{family.name}: {' '.join(family.tests)}", flush=True)
            if not passes(copy, family.tests, _is_built(family)):
                print("  the tests fail without a mutation", flush=True)
                count += len(family.mutations)
                continue
            for mutation in family.mutations:
                began = time.monotonic()
                detected = not with_mutation(copy, mutation, family)
                total, count = total + detected, count + 1
                seconds = time.monotonic() - began
                old, new = (" ".join(text.split())[:60] for text in (mutation.old, mutation.new))
                print(f"  {'detected' if detected else 'SURVIVED':<9}{seconds:4.0f} s  {mutation.file}: {old} => {new}", flush=True)  # fmt: skip
    print(f"\n{total} of {count} mutations detected")
    return 0 if total == count else 1


def with_mutation(copy: Path, mutation: Mutation, family: Family) -> bool:
    """Report whether the tests pass without the guard."""
    file = copy / mutation.file
    text = file.read_text()
    file.write_text(mutated(text, mutation))
    try:
        return passes(copy, family.tests, _is_built(family))
    finally:
        file.write_text(text)


def mutated(text: str, mutation: Mutation) -> str:
    """Return the text without the guard. Raises LookupError unless `old` occurs exactly once."""
    if text.count(mutation.old) != 1:
        raise LookupError(
            f"{mutation.file} contains {mutation.old!r} {text.count(mutation.old)} times"
        )
    return text.replace(mutation.old, mutation.new)


def _is_built(family: Family) -> bool:
    """Report whether the tests of the family run only the built program."""
    launcher = any(mutation.file == "packaging/freeze/launcher.c" for mutation in family.mutations)
    names = ("daemonset", "install", "merge", "nodes")
    built = {f"tests/e2e/test_{name}.py" for name in names}
    return launcher or family.tests[0] in built


def passes(copy: Path, tests: tuple[str, ...], build: bool) -> bool:
    """Run tests against the copy, after a new build if `build`. A test that hangs fails."""
    # The copy has no git repository.
    version = {"PROVIDER_COMMIT": "mutated", "SOURCE_DATE_EPOCH": "1700000000"}
    environ = {**os.environ, **version, "PYTHONPATH": str(copy)}
    if build:
        command = [sys.executable, "packaging/freeze/build.py"]
        subprocess.run(command, cwd=copy, env=environ, check=True, capture_output=True)
    else:
        environ["PROGRAMS"] = json.dumps({"mutated": [str(copy / "oke-credential-provider")]})
    pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", "-p", "no:cacheprovider"]
    with subprocess.Popen(
        [*pytest, *tests], cwd=copy, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            output, _ = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return False
    if process.returncode not in (0, 1, 2):
        raise RuntimeError(output.decode()[-2000:])
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
