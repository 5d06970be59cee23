"""Rules for the workflows, and their agreement with the rest of the repository."""

import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
EXAMPLES = REPOSITORY / "examples" / "run-on-worker-instance-principal"
ASSET = "oke-credential-provider-for-ocir-linux"
_PIN = re.compile(r"\s*(?:- )?uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")

# What ci may keep between runs. Another key could restore an interpreter of other sources.
INTERPRETER = {
    "path": "~/.cache/oke-credential-provider",
    "key": "python-${{ matrix.runner }}-${{ hashFiles('packaging/python/*', 'packaging/locks/ziglang.txt') }}",
}

Json = dict[Any, Any]


def load(text: str) -> Json:
    content = yaml.safe_load(text)
    assert isinstance(content, dict)
    # YAML 1.1 reads the key "on" as true.
    return {("on" if key is True else key): value for key, value in content.items()}


def jobs(content: Json) -> Iterator[tuple[str, Json]]:
    yield from content["jobs"].items()


def steps(content: Json) -> Iterator[tuple[str, Json]]:
    for name, job in jobs(content):
        for number, step in enumerate(job.get("steps", ()), 1):
            yield f"{name}, step {number}", step


# Each rule yields what breaks it. `make lint` checks the rest by zizmor: no credentials left by a
# checkout, no expressions in scripts.


def pinned(text: str) -> Iterator[str]:
    """Actions are pinned by commit, with the version in a comment; our own workflows exist."""
    for line in text.splitlines():
        own = re.search(r"uses: \$/(\S+)$", line)
        if own:
            if not (REPOSITORY / own[1]).is_file():
                yield f"there is no {own[1]}"
        elif "uses:" in line and not _PIN.fullmatch(line):
            yield line


def permissions(text: str) -> Iterator[str]:
    """None at the top, the least for each job, each with a reason."""
    content = load(text)
    if content.get("permissions") != {}:
        yield "permissions at the top are not {}"
    for name, job in jobs(content):
        if not isinstance(job.get("permissions"), dict):
            yield f"{name} has no permissions of its own"
    for line in text.splitlines():
        if re.match(r" {6}[a-z-]+: (read|write)$", line):
            yield f"no reason: {line.strip()}"


def triggers(text: str) -> Iterator[str]:
    """Code of unknown people never runs with secrets or a token with write permission."""
    content = load(text)
    events = content["on"]
    for event in ("pull_request_target", "workflow_run", "issue_comment"):
        if event in events:
            yield event
    if "pull_request" in events:
        for name, job in jobs(content):
            if "write" in job.get("permissions", {}).values() or "secrets" in job:
                yield f"{name} may write"
        if "secrets." in text or "github.token" in text:
            yield "a secret"


def timeouts(text: str) -> Iterator[str]:
    """Each job that runs something has a time limit."""
    for name, job in jobs(load(text)):
        if "uses" not in job and not isinstance(job.get("timeout-minutes"), int):
            yield name


def short(text: str) -> Iterator[str]:
    """A script has at most six lines. Longer ones are make targets."""
    for place, step in steps(load(text)):
        lines = step.get("run", "").strip().splitlines()
        if len(lines) > 6:
            yield place


def targets(text: str) -> Iterator[str]:
    """Each make target that a step calls exists."""
    makefile = (REPOSITORY / "Makefile").read_text()
    known = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.M))
    for place, step in steps(load(text)):
        for line in step.get("run", "").splitlines():
            for called in re.findall(r"\bmake((?: [a-z][a-z0-9-]*)+)", line):
                yield from (f"{place}: make {name}" for name in called.split() if name not in known)


def uncached(text: str) -> Iterator[str]:
    """No build uses a cache, except for the Python of the binary in the tests of ci, by a key of its sources."""
    if re.search(r"^\s+cache:|^\s+enable-cache:", text, re.M):
        yield "a cache"
    for place, step in steps(load(text)):
        if "actions/cache" in step.get("uses", ""):
            if load(text).get("name") != "ci":
                yield f"{place}: a cache outside of ci"
            if step["with"] != INTERPRETER:
                yield f"{place}: a cache of something else"


def runners(text: str) -> Iterator[str]:
    """Runners have a version: ubuntu-latest can change during a release."""
    yield from re.findall(r"\S+-latest\b", text)


RULES = (pinned, permissions, timeouts, triggers, short, targets, uncached, runners)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_workflow_keeps_the_rule(file: Path, rule: Callable[[str], Iterator[str]]) -> None:
    assert list(rule(file.read_text())) == []


def scripts() -> Iterator[tuple[str, str]]:
    """Where each script of a step is, and its text."""
    for file in FILES:
        for place, step in steps(load(file.read_text())):
            if "run" in step:
                yield f"{file.name}: {place}", step["run"]


@pytest.mark.parametrize("script", [pytest.param(text, id=place) for place, text in scripts()])
def test_shellcheck_accepts_each_script(script: str) -> None:
    argv = ["shellcheck", "--shell=bash", "--severity=style", "-"]
    done = subprocess.run(argv, input=f"set -e\n{script}", text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_the_campaigns_of_the_week_are_make_targets() -> None:
    campaign = load((FOLDER / "weekly.yml").read_text())["jobs"]["campaign"]
    names = campaign["strategy"]["matrix"]["campaign"]
    assert names == ["faults", "fuzz", "soak"]
    assert [step.get("run") for step in campaign["steps"]] == [None, 'make "$CAMPAIGN"']
    makefile = (REPOSITORY / "Makefile").read_text()
    assert set(names) <= set(re.findall(r"^([a-z-]+):", makefile, re.M))


GOOD = """
on:
  pull_request:
permissions: {}
jobs:
  one:
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    permissions:
      contents: read # checkout
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
        with:
          persist-credentials: false
      - run: make lint
"""


def test_a_good_workflow_breaks_no_rule() -> None:
    assert [broken for rule in RULES for broken in rule(GOOD)] == []


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        (pinned, "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7"),
        (pinned, " # v7.0.1", ""),
        (pinned, "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "$/no.yml"),
        (permissions, "permissions: {}\n", ""),
        (permissions, "permissions: {}\n", "permissions: read-all\n"),
        (permissions, "    permissions:\n      contents: read # checkout\n", ""),
        (permissions, " # checkout", ""),
        (triggers, "pull_request:", "pull_request_target:"),
        (triggers, "contents: read", "contents: write"),
        (triggers, "make lint", "make lint TOKEN=$SECRET # secrets."),
        (timeouts, "    timeout-minutes: 5\n", ""),
        (short, "make lint", "|\n" + "          true\n" * 7),
        (targets, "make lint", "make lint no-such-target"),
        (targets, "make lint", "sudo make no-such-target IMAGE=x"),
        (
            uncached,
            "persist-credentials: false",
            "persist-credentials: false\n          cache: pip",
        ),
        (
            uncached,
            "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
            "actions/cache@27d5ce7f107fe9357f9df03efb73ab90386fccae # v5.0.5",
        ),
        (runners, "ubuntu-24.04", "ubuntu-latest"),
    ],
)
def test_a_workflow_that_breaks_a_rule_is_found(
    rule: Callable[[str], Iterator[str]], old: str, new: str
) -> None:
    assert old in GOOD
    assert list(rule(GOOD.replace(old, new))) != []


def test_ci_may_cache_only_the_interpreter_by_its_sources() -> None:
    text = (FOLDER / "ci.yml").read_text()
    assert "actions/cache@" in text
    for old, new in (
        ("name: ci\n", "name: release\n"),
        ("packaging/python/*", "packaging/python/debian.sh"),
        ("path: ~/.cache/oke-credential-provider", "path: build"),
    ):
        assert list(uncached(text.replace(old, new, 1))) != []


@pytest.mark.parametrize(("workflow", "last"), [("ci.yml", "green"), ("weekly.yml", "report")])
def test_the_last_job_waits_for_all_others(workflow: str, last: str) -> None:
    content = load((FOLDER / workflow).read_text())
    assert content["jobs"][last]["needs"] == [name for name, _ in jobs(content) if name != last]


def test_ci_is_green_only_if_every_job_succeeded() -> None:
    content = load((FOLDER / "ci.yml").read_text())
    green = content["jobs"]["green"]
    assert green["if"] == "always()", "a job that is skipped counts as passed"
    [step] = green["steps"]
    assert step["run"] == f'test "$RESULTS" = "{" ".join(["success"] * len(green["needs"]))}"'


def test_a_release_is_a_chain_in_which_publishing_comes_last() -> None:
    content = load((FOLDER / "release.yml").read_text())
    chain = ["agree", "build", "verify", "assets", "draft", "download", "try", "image", "publish"]
    assert [name for name, _ in jobs(content)] == chain
    for before, name in itertools.pairwise(chain):
        needs = content["jobs"][name]["needs"]
        assert before in ([needs] if isinstance(needs, str) else needs)
    # The first job that makes something public. publish waits for it.
    assert [name for name, job in jobs(content) if "environment" in job] == ["image"]
    assert content["jobs"]["publish"]["needs"] == "image"


def test_only_the_jobs_that_must_may_write() -> None:
    writes = {
        (file.name, name, permission)
        for file in FILES
        for name, job in jobs(load(file.read_text()))
        for permission, level in job["permissions"].items()
        if level == "write"
    }
    assert writes == {
        ("release.yml", "build", "id-token"),
        ("release.yml", "build", "attestations"),
        ("release.yml", "assets", "id-token"),
        ("release.yml", "assets", "attestations"),
        ("release.yml", "draft", "contents"),
        ("release.yml", "download", "contents"),
        ("release.yml", "image", "packages"),
        ("release.yml", "image", "id-token"),
        ("release.yml", "image", "attestations"),
        ("release.yml", "publish", "contents"),
        ("weekly.yml", "report", "issues"),
    }


def release_steps(job: str) -> list[Json]:
    found = load((FOLDER / "release.yml").read_text())["jobs"][job]["steps"]
    assert isinstance(found, list)
    return found


def test_a_binary_is_attested_where_it_is_built_before_anything_else_gets_it() -> None:
    """The steps after the build are its sums, the attestation and the upload, and no other."""
    [_, build, sums, attest, upload] = release_steps("build")
    assert build == {"run": "make release-binary"}
    assert sums["id"] == "sums"
    assert attest["uses"].startswith("actions/attest-build-provenance@")
    assert upload["uses"].startswith("actions/upload-artifact@")
    assert attest["with"]["subject-path"] == upload["with"]["path"] == f"dist/{ASSET}-*"
    assert not {"if", "continue-on-error"} & {key for step in (sums, attest) for key in step}


def test_ci_builds_as_a_release_does() -> None:
    """The build job of release has the steps of the one in ci, and those that sign."""
    tried = load((FOLDER / "binaries.yml").read_text())["jobs"]["build"]
    released = load((FOLDER / "release.yml").read_text())["jobs"]["build"]
    assert tried["steps"] == [step for step in released["steps"] if step in tried["steps"]]
    assert tried["strategy"]["matrix"] == released["strategy"]["matrix"]


def test_the_sums_of_a_build_are_those_of_its_files(tmp_path: Path) -> None:
    """Runs the script of the step. It sets the output of its architecture only."""
    [_, _, sums, _, _] = release_steps("build")
    names = [f"{ASSET}-arm64{suffix}" for suffix in ("", ".cdx.json", ".licenses.txt")]
    (tmp_path / "dist").mkdir()
    for name in names:
        (tmp_path / "dist" / name).write_text(name)
    output = tmp_path / "output"
    subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", sums["run"]],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "ARCHITECTURE": "arm64", "GITHUB_OUTPUT": str(output)},
        check=True,
    )
    expected = [f"{sha256(name.encode()).hexdigest()}  {name}" for name in names]
    assert output.read_text().splitlines() == ["arm64<<END", *expected, "END"]
    outputs = load((FOLDER / "release.yml").read_text())["jobs"]["build"]["outputs"]
    assert outputs == {a: f"${{{{ steps.sums.outputs.{a} }}}}" for a in ("amd64", "arm64")}


def test_the_assets_are_the_named_artifacts_with_the_sums_of_the_build() -> None:
    steps = release_steps("assets")
    downloads = [s["with"] for s in steps if "download-artifact@" in s.get("uses", "")]
    assert downloads == [{"name": f"binary-{a}", "path": "dist"} for a in ("amd64", "arm64")]
    collect, digest = [step for step in steps if "run" in step]
    assert collect["run"] == 'make release-assets ARCHITECTURES="amd64 arm64"'
    assert collect["env"]["SUMS"].split("\n") == [
        "${{ needs.build.outputs.amd64 }}",
        "${{ needs.build.outputs.arm64 }}",
        "",
    ]
    assert digest["id"] == "image"


def test_the_image_that_is_pushed_and_attested_is_the_one_that_was_built(tmp_path: Path) -> None:
    """Its digest is an output of the job that built it, and the job that pushes it runs nothing else."""
    (tmp_path / "dist/image").mkdir(parents=True)
    (tmp_path / "dist/image/index.json").write_text('{"manifests": [{"digest": "sha256:abc"}]}')
    [digest] = [step for step in release_steps("assets") if step.get("id") == "image"]
    env = {"PATH": "/usr/bin:/bin", "GITHUB_OUTPUT": str(tmp_path / "output")}
    subprocess.run(["bash", "-ec", digest["run"]], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "output").read_text() == "digest=sha256:abc\n"
    content = load((FOLDER / "release.yml").read_text())["jobs"]
    assert content["assets"]["outputs"] == {"image": "${{ steps.image.outputs.digest }}"}
    [_, download, push, attest] = content["image"]["steps"]
    assert download["with"] == {"name": "image", "path": "dist/image"}
    assert push["run"] == "make release-image"
    assert push["env"]["DIGEST"] == "${{ needs.assets.outputs.image }}"
    assert attest["uses"].startswith("actions/attest-build-provenance@")
    assert attest["with"] == {
        "subject-name": "ghcr.io/${{ github.repository }}",
        "subject-digest": "${{ needs.assets.outputs.image }}",
        "push-to-registry": True,
    }
    assert not {"if", "continue-on-error"} & {*push, *attest}


def test_each_published_file_is_attested_once() -> None:
    attested = {
        job: step["with"]["subject-path"].split()
        for job, _ in jobs(load((FOLDER / "release.yml").read_text()))
        if job in ("build", "assets")
        for step in release_steps(job)
        if "attest-build-provenance@" in step.get("uses", "")
    }
    assert attested["build"] == [f"dist/{ASSET}-*"]
    others = {name for name in published() if not name.startswith(ASSET)}
    assert sorted(attested["assets"]) == sorted(f"dist/release/{name}" for name in others)


def test_the_draft_is_verified_again_right_before_it_is_published() -> None:
    [_, verify, publish] = release_steps("publish")
    assert verify["run"] == "make release-download"
    assert publish["run"] == 'gh release edit "$TAG" --draft=false'
    assert not {"if", "continue-on-error"} & {*verify, *publish}


def test_a_job_that_may_write_to_the_repository_installs_nothing() -> None:
    content = load((FOLDER / "release.yml").read_text())
    makefile = (REPOSITORY / "Makefile").read_text()
    for name, job in jobs(content):
        if "write" in (job["permissions"].get("contents"), job["permissions"].get("packages")):
            for step in job["steps"]:
                for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
                    recipe = re.search(rf"^{target}:([^#\n]*)", makefile, re.M)
                    assert recipe is not None
                    assert recipe[1].strip() == "", f"{name} runs more than {target}"


def published() -> set[str]:
    """The names of the published files, from packaging/release/assets.sh."""
    script = (REPOSITORY / "packaging" / "release" / "assets.sh").read_text()
    assert f"asset={ASSET}" in script
    suffixes = set(re.findall(r"\$asset-\$architecture([\w.]*)", script))
    assert suffixes == {"", ".cdx.json", ".licenses.txt"}
    examples = r"(?:packaging|examples/[\w-]+)/([\w-]+\.(?:yaml|sh)) "
    files = set(re.findall(examples, script))
    binaries = {f"{ASSET}-{arch}{suffix}" for arch in ("amd64", "arm64") for suffix in suffixes}
    return binaries | files | {"SHA256SUMS"}


def test_the_names_that_are_published_stay() -> None:
    assert published() == {
        *(f"{ASSET}-{arch}" for arch in ("amd64", "arm64")),
        *(f"{ASSET}-{arch}.cdx.json" for arch in ("amd64", "arm64")),
        *(f"{ASSET}-{arch}.licenses.txt" for arch in ("amd64", "arm64")),
        *("SHA256SUMS", "cloud-init.sh", "credential-provider-config.yaml", "daemonset.yaml"),
    }


@pytest.mark.parametrize(
    "file",
    [REPOSITORY / "README.md", REPOSITORY / "SECURITY.md", *sorted(EXAMPLES.iterdir())],
    ids=lambda file: str(file.name),
)
def test_who_names_an_asset_names_one_that_is_published(file: Path) -> None:
    named = set(re.findall(rf"{ASSET}-[\w.$]*\w", file.read_text()))
    variables = {f"{ASSET}-$arch", f"{ASSET}-$ARCH", f"{ASSET}-"}
    assert named - variables <= published()


def test_cloud_init_downloads_by_the_published_names() -> None:
    script = (EXAMPLES / "cloud-init.sh").read_text()
    assert f"asset={ASSET}-$arch" in script
    assert set(re.findall(r"\barch=(\w+)", script)) == {"amd64", "arm64"}
    assert "fetch SHA256SUMS" in script


def test_the_workflows_hand_over_the_published_names() -> None:
    for name in ("binaries.yml", "release.yml"):
        assert f"path: dist/{ASSET}-*" in (FOLDER / name).read_text()


def test_security_md_tells_what_the_download_job_does() -> None:
    """Users and the release verify with the same commands."""

    def verification(text: str) -> list[str]:
        command = re.search(r"^ *gh attestation verify (.*(?:\\\n.*)+)", text, re.M)
        assert command
        return re.sub(r"\\\n", "", command[1]).split()[1:]

    script = (REPOSITORY / "packaging" / "release" / "download.sh").read_text()
    names = {"$GITHUB_REPOSITORY": "$REPOSITORY", "$TAG": "v$VERSION"}
    for theirs, ours in names.items():
        script = script.replace(theirs, ours)
    text = (REPOSITORY / "SECURITY.md").read_text()
    assert verification(text) == verification(script)
    for each in (script, text):
        assert re.search(r"^sha256sum --check .*SHA256SUMS$", each, re.M)


@pytest.mark.parametrize("script", ["assets.sh", "draft.sh", "download.sh", "image.sh"])
def test_a_release_script_stops_at_what_is_missing(script: str, tmp_path: Path) -> None:
    """Without gh, a tag or a binary, nothing is created."""
    folder = tmp_path / "packaging" / "release"
    folder.mkdir(parents=True)
    for name in (script, "notes.py"):
        copy = folder / name
        copy.write_bytes((REPOSITORY / "packaging" / "release" / name).read_bytes())
        copy.chmod(0o755)
    done = subprocess.run([folder / script], env={"PATH": "/usr/bin:/bin"}, capture_output=True)
    assert done.returncode != 0
    assert not (tmp_path / "dist" / "release").exists()
