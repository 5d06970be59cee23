"""``config --merge``, ``install --merge``: a config of others gets this program's entry and loses it again.

The cases are in merge_cases/, among them configs of ECR's, GCP's, ACR's, JFrog's and Harbor's
providers. The files to refuse are in merge_cases/refused/.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from provider.commands.config import ALL, write
from provider.commands.kubelet_config import load, validate
from tests.conftest import Program
from tests.e2e.test_install import ALIAS, ALONE, GO, NAME, Target, run, state
from tests.e2e.test_install import target as target  # the fixture
from tests.support.processes import OTHER, Done
from tests.support.processes import kubelet as kubelet_at

CASES = Path(__file__).with_name("merge_cases")
BEFORE = sorted(CASES.glob("*.before.*"))
OURS = write(ALL, (), as_json=False)
GCP = CASES / "gcp.before.yaml"
GCP_ENTRY = GCP.read_text().partition("providers:\n")[2]
ECR = CASES / "ecr.before.json"

Merge = Callable[..., Done]


def after(case: Path) -> bytes:
    return case.with_name(case.name.replace(".before.", ".after.")).read_bytes()


def text_of(case: Path) -> str:
    return case.read_bytes().decode()


@pytest.fixture
def merge(program: Program) -> Merge:
    def merged(path: Path | str, *args: str, stdin: bytes = b"", realm: str = ALL) -> Done:
        argv = [*program.argv, "config", "--realm", realm, "--merge", path, *args]
        return run(argv, stdin, **program.env)

    return merged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "config.d"
    folder.mkdir()
    return folder


def is_kept(before: bytes, whole: bytes) -> bool:
    """True if ``whole`` is ``before`` with text inserted at one place."""
    return any(
        whole.startswith(before[:at]) and whole.endswith(before[at:])
        for at in range(len(before) + 1)
    )


# ---- config --merge ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BEFORE, ids=lambda case: case.name)
def test_the_entry_is_added_and_every_other_byte_is_kept(
    program: Program, merge: Merge, case: Path
) -> None:
    argv = [*program.argv, "config", "--realm", ALL, "--merge", str(case)]
    done = subprocess.run(argv, capture_output=True, check=True)
    assert done.stdout == after(case)
    assert is_kept(case.read_bytes(), after(case))
    assert done.stderr.decode() == f"{case}: entry added\n"
    text = done.stdout.decode()
    assert load(text).providers == (*load(text_of(case)).providers, *load(OURS).providers)
    assert [each for each in validate(text) if each.severity == "fatal"] == []


@pytest.mark.parametrize("case", BEFORE, ids=lambda case: case.name)
def test_a_second_merge_changes_nothing(program: Program, case: Path) -> None:
    argv = [*program.argv, "config", "--realm", ALL, "--merge", "-"]
    done = subprocess.run(argv, input=after(case), capture_output=True, check=True)
    assert done.stdout == after(case)
    assert b"unchanged" in done.stderr
    assert b"other values" not in done.stderr


REFUSED = {
    "anchor-on-the-list.yaml": "an alias, or has an anchor or a tag",
    "carriage-returns.yaml": "neither LF nor CRLF",
    "duplicate-field.yaml": "providers[0].defaultCacheDuration: duplicate field",
    "duplicate-key.yaml": "providers: duplicate field",
    "duplicate-provider.yaml": "duplicate provider name",
    "empty.yaml": "Object 'Kind' is missing",
    "flow-file.yaml": "the file is in YAML's flow style",
    "flow-list.yaml": "the list of providers is in YAML's flow style",
    "latin-1.yaml": "not UTF-8 text",
    "merge-key.yaml": "merged (<<)",
    "negative-duration.yaml": "the duration is negative",
    "next-line-character.yaml": "neither LF nor CRLF",
    "no-providers.yaml": "providers: required field is missing",
    "not-json.json": "not JSON",
    "not-yaml.yaml": "not YAML",
    "own-entry-without-duration.yaml": "defaultCacheDuration: required field is missing",
    "other-kind.yaml": 'unknown kind "KubeletConfiguration"',
    "several-documents.yaml": "several YAML documents",
    "tag-on-the-list.yaml": "an alias, or has an anchor or a tag",
    "unknown-field.yaml": "providers[0].cacheDuration: unknown field",
}


def pasted(error: str) -> dict[str, object]:
    """The entry to paste that an error gives."""
    entry = json.loads(error.partition("after a dash): ")[2])
    assert isinstance(entry, dict)
    return entry


def test_every_file_to_refuse_has_its_reason() -> None:
    assert sorted(REFUSED) == sorted(path.name for path in (CASES / "refused").iterdir())


@pytest.mark.parametrize("name", REFUSED)
def test_a_merge_that_would_be_a_guess_is_refused_with_the_text_to_paste(
    merge: Merge, name: str
) -> None:
    done = merge(CASES / "refused" / name)
    assert done.code == 17
    assert done.stdout == ""
    assert f"cannot-merge: {CASES}/refused/{name}: " in done.stderr
    assert REFUSED[name] in done.stderr
    assert done.stderr.count("\n") == 1
    # The text is an entry in a YAML list, and in a JSON list.
    entry = json.dumps(pasted(done.stderr))
    yaml = text_of(CASES / "acr.before.yaml") + f"- {entry}\n"
    assert load(yaml).providers[1:] == load(OURS).providers
    json_text = text_of(ECR).replace("    }\n  ]", f"    }}, {entry}\n  ]")
    assert load(json_text).providers[1:] == load(OURS).providers


@pytest.mark.parametrize("what", ["missing", "too large"])
def test_a_file_that_cannot_be_read_is_refused(merge: Merge, tmp_path: Path, what: str) -> None:
    path = tmp_path / "config.yaml"
    if what == "too large":
        path.write_text(text_of(GCP) + "#" * (1 << 20))
    done = merge(path)
    assert done.code == 17
    assert {"missing": "No such file", "too large": "larger than 1 MiB"}[what] in done.stderr
    assert pasted(done.stderr)["name"] == NAME


def test_the_rules_are_those_of_the_given_kubelet_version(merge: Merge) -> None:
    harbor = CASES / "harbor.before.yaml"
    assert merge(harbor, "--kubelet-version", "1.34").code == 0
    done = merge(harbor, "--kubelet-version", "1.33")
    assert done.code == 17
    assert "cacheType: unknown field" in done.stderr
    assert merge(harbor, "--kubelet-version", "new").code == 2


OTHER_VALUES = """\
  matchImages: [fra.ocir.io]
  defaultCacheDuration: 12h
  args: [--config, /etc/oke.yaml]
  env:
  - {name: DEFAULT_USER, value: BEARER_TOKEN}
  - {name: OCIR_AUTH_METHOD, value: WORKLOAD_IDENTITY}
  - {name: HTTPS_PROXY, value: "http://user:secret@proxy"}
"""


@pytest.mark.parametrize("name", [NAME, ALIAS])
def test_an_entry_with_other_values_is_kept_and_the_differences_are_printed(
    merge: Merge, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "config.yaml"
    head = f"- name: {name}\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n"
    path.write_text(text_of(CASES / "acr.before.yaml") + head + OTHER_VALUES)
    done = merge(path, realm="oc1").check()
    assert done.stdout == path.read_text()
    assert f"{path}: unchanged" in done.stderr
    for difference in (
        "matchImages lacks *.ocir.io, ocir.*.oci.oraclecloud.com; matchImages also has fra.ocir.io",
        "defaultCacheDuration is 43200 s",
        "args differ",
        "env lacks REGISTRY_PROTOCOL, REGISTRY_TOKEN_PATH, TOKEN_VALIDATION",
        "env also has HTTPS_PROXY",
        "env has other values of OCIR_AUTH_METHOD",
    ):
        assert difference in done.stderr
    assert ("name is" in done.stderr) == (name == ALIAS)
    assert "secret" not in done.stderr


def test_in_a_directory_the_entry_gets_its_own_file(merge: Merge, folder: Path) -> None:
    shutil.copy(GCP, folder / "gcp.yaml")
    (folder / "oke-credential-provider.yaml").write_bytes(ECR.read_bytes())  # a name that is taken
    done = merge(folder).check()
    assert done.stderr == f"{folder}/oke-credential-provider-2.yaml: entry added\n"
    assert done.stdout == OURS
    (folder / "oke-credential-provider-2.yaml").write_text(done.stdout)
    again = merge(folder).check()
    assert again.stdout == OURS
    assert f"{folder}/oke-credential-provider-2.yaml: unchanged" in again.stderr
    done = merge(folder, "--kubelet-version", "1.33")
    assert done.code == 17
    assert "a directory needs kubelet 1.34" in done.stderr
    (folder / "a.yml").write_text("kind: [")
    assert "a.yml: " in merge(folder).stderr


@pytest.mark.parametrize("args", [("--validate", "x"), ("--output", "json"), ("--bin-dir", "/x")])
def test_options_that_contradict_are_rejected(merge: Merge, args: tuple[str, str]) -> None:
    done = merge(GCP, *args)
    assert done.code == 2
    assert "--merge" in done.stderr
    assert done.stdout == ""


def test_workload_identity_also_needs_what_is_not_in_the_config(
    program: Program, merge: Merge
) -> None:
    done = merge(GCP, "--workload-identity", "https://issuer").check()
    printed = [*program.argv, "config", "--realm", ALL, "--workload-identity", "https://issuer"]
    note = (
        run(printed, b"", **program.env)
        .check()
        .stdout.partition("requireServiceAccount: true\n")[2]
    )
    assert 'resources: ["https://issuer"]' in note
    assert done.stderr == f"{GCP}: entry added\n{note}"
    assert "resources:" not in done.stdout


def test_a_relative_path_works(program: Program, merge: Merge) -> None:
    argv = [*program.argv, "config", "--realm", ALL, "--merge", GCP.name]
    done = subprocess.run(argv, cwd=CASES, capture_output=True, check=True)
    assert done.stdout == after(GCP)
    argv = [*program.argv, "config", "--validate", GCP.name]
    assert b"unreadable" not in subprocess.run(argv, cwd=CASES, capture_output=True).stderr


# ---- install --merge -----------------------------------------------------------------------------


def add_programs(target: Target) -> None:
    """Add the programs that the cases name."""
    target.bin_dir.mkdir(exist_ok=True)
    for name in re.findall(r"[a-z-]+-(?:provider|gcp|public)\b", "".join(map(text_of, BEFORE))):
        if name not in (NAME, ALIAS):
            (target.bin_dir / name).write_text("#!/bin/sh\n")
            (target.bin_dir / name).chmod(0o755)


@pytest.fixture
def merging(target: Target) -> Target:
    """A node with the programs of other providers, and an installation."""
    add_programs(target)
    target.install().check()
    target.config.unlink()
    return target


def place(target: Target, case: Path, name: str = "") -> Path:
    path = target.config.with_name(name or case.name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(case.read_bytes())
    return path


def backup_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.before-install")


def test_install_merges_each_case_and_uninstall_restores_it_byte_for_byte(merging: Target) -> None:
    paths = {case: place(merging, case) for case in BEFORE}
    for number, (case, path) in enumerate(paths.items()):
        path.chmod(0o640 if number % 2 else 0o600)
        before = path.stat()
        said = merging.install("--merge", str(path)).check().stdout
        assert (
            f"{path}: merged with the entry of {NAME} (backup: {path.name}.before-install)" in said
        )
        assert path.read_bytes() == after(case)
        assert (path.stat().st_mode, path.stat().st_uid) == (before.st_mode, before.st_uid)
        assert backup_of(path).read_bytes() == case.read_bytes()
        assert backup_of(path).stat().st_mode == before.st_mode
    snapshot = merging.snapshot()
    said = merging.install("--merge", str(path)).check().stdout
    assert "nothing to change" in said
    assert merging.snapshot() == snapshot
    merging.uninstall().check()
    assert {p.name for p in merging.config.parent.iterdir()} == {p.name for p in paths.values()}
    for number, (case, path) in enumerate(paths.items()):
        assert path.read_bytes() == case.read_bytes()
        assert path.stat().st_mode & 0o777 == (0o640 if number % 2 else 0o600)


def test_uninstall_keeps_what_was_changed_since(merging: Target) -> None:
    path = place(merging, GCP)
    merging.install("--merge", str(path)).check()
    more = ECR.read_text().partition("[")[2].rpartition("]")[0].strip().replace("\n", " ")
    changed = after(GCP).decode().replace("1m\n", "2m\n") + f"  # new\n  - {more}\n"
    path.write_text(changed)
    merging.uninstall().check()
    assert path.read_text() == text_of(GCP).replace("1m\n", "2m\n") + f"  # new\n  - {more}\n"
    assert not backup_of(path).exists()


def test_uninstall_takes_out_an_entry_that_was_changed_since(merging: Target) -> None:
    path = place(merging, GCP)
    merging.install("--merge", str(path)).check()
    path.write_bytes(after(GCP).replace(b'"5m"', b'"7m"'))
    said = merging.install("--merge", str(path)).check().stdout
    assert "defaultCacheDuration is 420 s" in said
    assert path.read_bytes() == after(GCP).replace(b'"5m"', b'"7m"')
    merging.uninstall().check()
    assert path.read_bytes() == GCP.read_bytes()


def test_an_entry_of_the_user_survives_uninstall(merging: Target) -> None:
    path = place(merging, GCP)
    path.write_bytes(after(GCP))
    before = state(path)
    assert f"{path}: unchanged" in merging.install("--merge", str(path)).check().stdout
    merging.uninstall().check()
    assert state(path) == before


@pytest.mark.parametrize("case", [GCP, ECR], ids=["yaml", "json"])
def test_the_only_provider_stays_in_the_config(merging: Target, case: Path) -> None:
    """The others were removed since: the kubelet rejects a config without providers."""
    path = place(merging, case)
    merging.install("--merge", str(path)).check()
    others = case.read_text().partition("providers:")[2]
    only = after(case).decode().replace(others, "\n", 1)
    if case == ECR:
        content = json.loads(after(case))
        content["providers"] = content["providers"][1:]
        only = json.dumps(content)
    path.write_text(only)
    before = merging.snapshot()
    assert f"{path}: unchanged" in merging.install("--merge", str(path)).check().stdout
    done = merging.uninstall()
    assert done.code == 17
    assert "it is the only provider" in done.stderr
    assert merging.snapshot() == before
    merging.uninstall("--force").check()
    assert path.read_text() == only


@pytest.mark.parametrize("case", [GCP, ECR], ids=["yaml", "json"])
def test_an_entry_that_install_added_is_updated(merging: Target, case: Path) -> None:
    """As if an older version with other defaults had added it."""
    path = place(merging, case)
    merging.install("--merge", str(path)).check()
    record = merging.prefix / "installed.json"
    content = json.loads(record.read_text())
    older = after(case).replace(b"enabled", b"disabled")
    path.write_bytes(older)
    argv: list[str | Path] = [merging.link, "config", "--realm", ALL, "--merge", "-"]
    assert "TOKEN_VALIDATION" in run(argv, older).check().stderr
    content["merged"][str(path)] = digest_by_other_means(case.read_bytes(), older)
    record.write_text(json.dumps(content))
    said = merging.install("--merge", str(path)).check().stdout
    assert f"{path}: merged" in said
    assert "backup" not in said
    assert path.read_bytes() == after(case)
    assert backup_of(path).read_bytes() == case.read_bytes()
    merging.uninstall().check()
    assert path.read_bytes() == case.read_bytes()


def digest_by_other_means(before: bytes, whole: bytes) -> str:
    """The SHA-256 of the entry that was inserted, without its separator."""
    from hashlib import sha256

    at = next(at for at in range(len(before), -1, -1) if whole.startswith(before[:at]))
    inserted = whole[at : at + len(whole) - len(before)]
    return sha256(inserted.strip(b", \n")).hexdigest()


@pytest.mark.parametrize("case", [GCP, ECR], ids=["yaml", "json"])
def test_an_update_keeps_the_place_of_the_entry(merging: Target, case: Path) -> None:
    """The kubelet tries providers in this order. Others were added after the entry, or removed."""
    path = place(merging, case)
    merging.install("--merge", str(path), "--realm", "oc1").check()
    shutil.copy(merging.bin_dir / "auth-provider-gcp", merging.bin_dir / "other")
    text = path.read_text()
    if case == ECR:
        other = json.dumps({**json.loads(text)["providers"][0], "name": "other"})
        path.write_text(text.replace("    }\n  ]", f"    }},\n    {other}\n  ]"))
    else:
        other = "  # others\n" + GCP_ENTRY.replace("auth-provider-gcp", "other")
        path.write_text(text + other)
    others = [each for each in load(path.read_text()).providers if each.name != NAME]
    merging.install("--merge", str(path), "--realm", "oc2").check()
    first, ours, last = load(path.read_text()).providers
    assert (ours.name, [first, last]) == (NAME, others)
    assert ours.match_images == ("ocir.*.oci.oraclegovcloud.com",)
    assert other in path.read_text()


def test_an_entry_that_is_the_only_one_left_is_updated(merging: Target) -> None:
    path = place(merging, GCP)
    merging.install("--merge", str(path), "--realm", "oc1").check()
    path.write_text(path.read_text().replace(GCP_ENTRY, ""))
    merging.install("--merge", str(path), "--realm", "oc2").check()
    (ours,) = load(path.read_text()).providers
    assert ours.match_images == ("ocir.*.oci.oraclegovcloud.com",)


@pytest.mark.parametrize("form", ["file", "default file", "directory"])
def test_a_later_install_updates_what_an_earlier_one_added(
    merging: Target, folder: Path, form: str
) -> None:
    if form == "default file":
        folder = merging.config.parent
        folder.mkdir(exist_ok=True)
    path = folder / "credential-provider-config.yaml"
    shutil.copy(GCP, path)
    given = folder if form == "directory" else path
    written = folder / "oke-credential-provider.yaml" if form == "directory" else path
    merging.install("--merge", str(given), "--realm", "oc1").check()
    merging.install().check()  # scripts rely on the default config
    assert merging.config.exists()
    assert merging.install("--dry-run").code == 0
    assert merging.install("--dry-run", "--realm", "oc2").code == 2
    said = merging.install("--realm", "oc2").check().stdout
    assert f"{written}: {'written' if form == 'directory' else 'merged'}" in said
    entry = load(written.read_text()).providers[-1]
    assert entry.match_images == ("ocir.*.oci.oraclegovcloud.com",)
    # An entry that was edited, or removed, stays so.
    for text in (written.read_text().replace('"5m"', '"7m"'), text_of(GCP)):
        if form == "directory":
            break
        path.write_text(text)
        merging.install("--realm", "oc1").check()
        assert path.read_text() == text
    merging.uninstall().check()
    assert path.read_bytes() == GCP.read_bytes()
    assert not list(folder.glob("oke-*"))


def test_an_entry_is_kept_in_a_text_that_cannot_be_edited(merging: Target) -> None:
    path = place(merging, GCP)
    merging.install("--merge", str(path)).check()
    flow = json.dumps(yaml.safe_load(path.read_text())).replace("{", "# mine\n{", 1)
    path.write_text(flow)
    for args in (["--merge", str(path)], ["--realm", "oc1"]):
        assert f"{path}: unchanged" in merging.install(*args).check().stdout
    assert path.read_text() == flow
    assert merging.uninstall().code == 17


def test_uninstall_does_not_need_a_config_that_is_gone(merging: Target) -> None:
    path = place(merging, GCP)
    merging.install("--merge", str(path)).check()
    path.unlink()
    path.mkdir()
    merging.uninstall().check()
    assert path.is_dir()
    assert not os.path.lexists(merging.link)


def test_a_full_disk_is_named_and_nothing_is_left(merging: Target) -> None:
    folder = merging.config.parent
    folder.mkdir(exist_ok=True)
    script = f"""
        mount -t tmpfs -o size=16k,mode=755 none {folder} && cp {GCP} {folder}/config.yaml
        dd if=/dev/zero of={folder}/fill bs=1k 2>/dev/null
        "$@"; code=$?; cmp {GCP} {folder}/config.yaml && echo "left:" $(ls -A {folder}); exit $code
    """
    before = ["unshare", "--mount", "sh", "-c", script, "sh"]
    done = merging.install("--merge", f"{folder}/config.yaml", before=before)
    assert done.code == 73
    assert f"{folder}/config.yaml: No space left on device" in done.stderr
    assert "left: config.yaml config.yaml.before-install fill\n" in done.stdout


def test_root_is_not_told_to_become_root(merging: Target) -> None:
    """For example, the config has the immutable attribute."""
    path = place(merging, GCP)
    refused = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=linkat:error=EPERM"]
    done = merging.install("--merge", str(path), before=refused)
    assert done.code == 73
    assert "Operation not permitted" in done.stderr
    assert "as root" not in done.stderr
    assert path.read_bytes() == GCP.read_bytes()


def test_in_a_directory_install_adds_a_file_and_uninstall_removes_it(
    merging: Target, folder: Path
) -> None:
    shutil.copy(GCP, folder / "10-gcp.yaml")
    before = state(folder / "10-gcp.yaml")
    merging.install("--merge", str(folder)).check()
    assert {p.name for p in folder.iterdir()} == {"10-gcp.yaml", "oke-credential-provider.yaml"}
    assert (folder / "oke-credential-provider.yaml").read_text() == OURS
    assert state(folder / "10-gcp.yaml") == before
    snapshot = merging.snapshot()
    assert "nothing to change" in merging.install("--merge", str(folder)).check().stdout
    assert merging.snapshot() == snapshot
    merging.uninstall().check()
    assert [p.name for p in folder.iterdir()] == ["10-gcp.yaml"]


def test_a_directory_that_the_kubelet_would_reject_is_refused(
    merging: Target, folder: Path
) -> None:
    shutil.copy(GCP, folder / "a.yaml")
    shutil.copy(GCP, folder / "b.yaml")
    before = merging.snapshot()
    done = merging.install("--merge", str(folder))
    assert done.code == 73
    assert "duplicate provider name" in done.stderr
    assert len(list(folder.iterdir())) == 2
    assert merging.snapshot() == before


def test_a_dry_run_of_a_merge_changes_nothing(merging: Target) -> None:
    path = place(merging, GCP)
    before = merging.snapshot()
    done = merging.install("--merge", str(path), "--dry-run")
    assert done.code == 2
    assert f"{path}: would be merged with the entry" in done.stdout
    assert merging.snapshot() == before
    merging.install("--merge", str(path)).check()
    assert merging.install("--merge", str(path), "--dry-run").code == 0


def test_the_entry_has_the_realm_and_hosts_of_this_run_and_later_runs_keep_them(
    merging: Target,
) -> None:
    path = place(merging, GCP)
    merging.install("--merge", str(path)).check()
    merging.install("--merge", str(path), "--realm", "oc1", "--host", "ocir.my.cloud").check()
    entry = load(path.read_text()).providers[1]
    assert entry.match_images == ("*.ocir.io", "ocir.*.oci.oraclecloud.com", "ocir.my.cloud")
    assert "nothing to change" in merging.install("--merge", str(path)).check().stdout
    merging.uninstall().check()
    assert path.read_bytes() == GCP.read_bytes()


def test_an_entry_of_the_go_provider_stays_its_own(merging: Target) -> None:
    """Two entries for the same images would call both programs."""
    path = place(merging, GCP)
    path.write_text(OURS.replace(f"name: {NAME}", f"name: {ALIAS}"))
    (merging.bin_dir / ALIAS).unlink()
    (merging.bin_dir / ALIAS).write_bytes(GO)
    (merging.bin_dir / ALIAS).chmod(0o755)
    before = state(path)
    said = merging.install("--merge", str(path)).check().stdout
    assert f"{path}: unchanged, because it has an entry {ALIAS}" in said
    assert "which is Oracle's Go provider, so the kubelet does not call this program" in said
    assert state(path) == before


@pytest.mark.parametrize(
    "name", [*REFUSED, "a program that is not there", "a directory for a program", "missing"]
)
def test_install_refuses_what_cannot_be_merged_and_changes_nothing(
    merging: Target, name: str
) -> None:
    if name in REFUSED:
        path = place(merging, CASES / "refused" / name)
    else:
        path = place(merging, GCP)
        (merging.bin_dir / "auth-provider-gcp").unlink()
        if name == "a directory for a program":
            (merging.bin_dir / "auth-provider-gcp").mkdir()
        if name == "missing":
            path.unlink()
    before = merging.snapshot()
    done = merging.install("--merge", str(path))
    assert done.code == 17, done
    assert merging.snapshot() == before
    assert "state=failed cause=cannot-merge" in done.stdout
    if name != "missing":
        assert pasted(done.stderr)["name"] == NAME


# Shell: in the directory $1, make $1/config.yaml replaceable by user $2.
UNSAFE = {
    "a file of another user": 'chown $2 "$1/config.yaml"',
    "a file that others can write": 'chmod 666 "$1/config.yaml"',
    "a directory of another user": 'chown $2 "$1"',
    "a link of another user": 'mv "$1/config.yaml" "$1/x"; ln -s x "$1/config.yaml"; chown -h $2 "$1/config.yaml"',
    "a link to a file of another user": 'mv "$1/config.yaml" "$1/x"; ln -s x "$1/config.yaml"; chown $2 "$1/x"',
}


@pytest.mark.parametrize("how", UNSAFE)
def test_a_config_that_another_user_can_replace_is_not_changed(
    merging: Target, folder: Path, how: str
) -> None:
    shutil.copy(GCP, folder / "config.yaml")
    run(["sh", "-c", UNSAFE[how], "sh", folder, str(OTHER)]).check()
    before = {str(path): state(path) for path in folder.iterdir()}
    done = merging.install("--merge", str(folder / "config.yaml"))
    assert done.code == 73
    assert "whoever can write there would own the node" in done.stderr
    assert {str(path): state(path) for path in folder.iterdir()} == before


def test_a_link_of_root_is_followed_and_stays(merging: Target, folder: Path) -> None:
    shutil.copy(GCP, folder / "real.yaml")
    link = merging.config
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(folder / "real.yaml")
    merging.install("--merge").check()
    assert link.is_symlink()
    assert (folder / "real.yaml").read_bytes() == after(GCP)
    assert backup_of(folder / "real.yaml").exists()
    merging.uninstall().check()
    assert (folder / "real.yaml").read_bytes() == GCP.read_bytes()


def test_without_a_config_merge_writes_the_default_one(merging: Target) -> None:
    merging.install("--merge").check()
    assert merging.config.read_text() == OURS
    merging.uninstall().check()
    assert not merging.config.exists()


# ---- with a kubelet ------------------------------------------------------------------------------

CONFIG_FLAG, BIN_DIR_FLAG = (
    "--image-credential-provider-config",
    "--image-credential-provider-bin-dir",
)


def beside_a_kubelet(target: Target, config: Path, bin_dir: Path) -> list[str]:
    """Run a program beside a kubelet with these flags."""
    path = kubelet_at(target.folder.parent / "kubelet")
    flags = f"{CONFIG_FLAG}={config} {BIN_DIR_FLAG}={bin_dir}"
    wait = f'until [ "$(readlink /proc/$!/exe)" = {path} ]; do sleep 0.01; done'
    return [*ALONE, "bash", "-c", f'{path} {flags} >/dev/null 2>&1 & {wait}; "$@"', "bash"]


def test_without_a_path_merge_takes_the_running_kubelets_config(merging: Target) -> None:
    path = place(merging, ECR, "config.json")
    before = beside_a_kubelet(merging, path, merging.bin_dir)
    merging.install("--merge", before=before).check()
    assert path.read_bytes() == after(ECR)
    assert not merging.config.exists()


def test_the_kubelet_must_look_for_programs_in_the_bin_dir(merging: Target, folder: Path) -> None:
    path = place(merging, ECR)
    done = merging.install("--merge", before=beside_a_kubelet(merging, path, folder))
    assert done.code == 73
    assert f"Add --bin-dir {folder}" in done.stderr
    assert path.read_bytes() == ECR.read_bytes()


def test_a_file_of_the_kubelets_directory_is_refused(merging: Target, folder: Path) -> None:
    shutil.copy(GCP, folder / "gcp.yaml")
    before = beside_a_kubelet(merging, folder, merging.bin_dir)
    done = merging.install("--merge", str(folder / "gcp.yaml"), before=before)
    assert done.code == 17
    assert f"Run install --merge {folder}" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["gcp.yaml"]


def kubelet_flags(config: Path, bin_dir: Path) -> list[str]:
    return [f"{CONFIG_FLAG}={config}", f"{BIN_DIR_FLAG}={bin_dir}"]


@pytest.mark.parametrize("form", ["file", "directory"])
def test_uninstall_proceeds_if_the_kubelet_keeps_its_other_providers(
    merging: Target, folder: Path, form: str
) -> None:
    path = folder / "gcp.yaml"
    shutil.copy(GCP, path)
    config = path if form == "file" else folder
    merging.install("--merge", str(config)).check()
    done = merging.uninstall(kubelet=kubelet_flags(config, merging.bin_dir)).check()
    assert "restart the kubelet (pid " in done.stdout
    assert path.read_bytes() == GCP.read_bytes()
    assert not os.path.lexists(merging.link)


@pytest.mark.parametrize(
    "why", ["no other provider", "another name of this program", "another config"]
)
def test_uninstall_refuses_if_the_kubelet_could_not_start_without_it(
    merging: Target, why: str
) -> None:
    path = place(merging, GCP)
    merging.install("--merge", str(path)).check()
    config = path
    if why == "no other provider":
        path.write_text(OURS)
    elif why == "another name of this program":
        path.write_text(
            after(GCP).decode().replace("- name: auth-provider-gcp", f"- name: {ALIAS}")
        )
    else:
        config = place(merging, GCP, "other.yaml")
        config.write_text(OURS)
    before = merging.snapshot()
    done = merging.uninstall(kubelet=kubelet_flags(config, merging.bin_dir))
    assert done.code == (17 if why == "no other provider" else 74)
    assert merging.snapshot() == before
    merging.uninstall("--force", kubelet=kubelet_flags(config, merging.bin_dir)).check()
    assert not os.path.lexists(merging.link)


# ---- interrupted ---------------------------------------------------------------------------------

CHANGES = "rename,unlink,linkat,fsync,fchmod,fchown"


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_killed_at_any_step_it_leaves_the_old_or_the_new_file(
    merging: Target, command: str, tmp_path: Path
) -> None:
    path = place(merging, GCP)
    args = ["--merge", str(path)] if command == "install" else []
    if command == "uninstall":
        merging.install("--merge", str(path)).check()
    kept = tmp_path / "kept"
    shutil.copytree(merging.folder, kept, symlinks=True)
    log = tmp_path / "log"

    def act(*options: str) -> Done:
        shutil.rmtree(merging.folder)
        shutil.copytree(kept, merging.folder, symlinks=True)
        trace = ["strace", "-o", str(log), "-y", "-e", f"trace={CHANGES}", *options]
        program = merging.prefix / merging.current / "bin" / NAME
        places: list[str | Path] = ["--prefix", merging.prefix]
        if command == "install":
            places += ["--bin-dir", merging.bin_dir, "--config-dir", path.parent]
        return run([*ALONE, *trace, program, command, *places, *args])

    act().check()
    expected = after(GCP) if command == "install" else GCP.read_bytes()
    assert path.read_bytes() == expected
    counted: dict[str, int] = {}
    points = []
    for line in log.read_text().splitlines():
        call = line.partition("(")[0]
        counted[call] = counted.get(call, 0) + 1
        if f"{path.parent}" in line and " = -1 " not in line:
            points.append((call, counted[call]))
    assert {"rename", "fsync", "fchmod", "fchown"} <= {call for call, _ in points}
    seen = set()
    for call, count in points:
        killed = act("-e", f"inject={call}:signal=SIGKILL:when={count}")
        assert killed.code in (-signal.SIGKILL, 128 + signal.SIGKILL), (call, count, killed)
        seen.add(path.read_bytes())
        # Each state is valid for a kubelet that starts now.
        assert os.access(merging.link, os.X_OK) or path.read_bytes() == GCP.read_bytes()
    assert seen == {GCP.read_bytes(), after(GCP)}
