"""The scripts of a release, with a stand-in for gh that records its arguments."""

import json
import subprocess
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from shutil import which

import pytest

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = Path("examples/run-on-worker-instance-principal")
CLOUD_INIT = EXAMPLES / "cloud-init.sh"
MANIFESTS = [EXAMPLES / "daemonset.yaml", EXAMPLES / "check.yaml"]
TAG = "v1.2.0"
ASSET = "oke-credential-provider-for-ocir-linux-amd64"
BUILT = [
    f"oke-credential-provider-for-ocir-linux-{architecture}{suffix}"
    for architecture in ("amd64", "arm64")
    for suffix in ("", ".cdx.json", ".licenses.txt")
]

# Records its arguments, one line per call. Answers for the releases and the downloads.
GH = """#!/bin/bash
echo "$*" >>"$NOTES"
case "$1 $2" in
    "release list") [ "$STATE" != unreachable ] || exit 1; echo "$STATE" ;;
    "release download") cp -r "$SERVED" "$5" ;;
    "attestation verify") [ "$3" != "$UNATTESTED" ] ;;
esac
"""

# Reads the image by the real skopeo. Records the other calls, and answers for the login and the copy.
SKOPEO = f"""#!/bin/bash
[ "$1" != inspect ] || exec {which("skopeo")} "$@"
echo "skopeo $*" >>"$NOTES"
[ "$1" != login ] || [ "$(cat)" = "$GH_TOKEN" ]
"""
DIGEST = f"sha256:{sha256(b'index').hexdigest()}"


def descriptor(version: str, digest: str = DIGEST) -> dict[str, object]:
    """What index.json has for the image of this version."""
    return {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": digest,
        "annotations": {"org.opencontainers.image.ref.name": version},
    }


# In place of packaging/image/build.sh: the image of these files.
BUILD_IMAGE = f"""#!/bin/bash
echo "image $*" >>"$NOTES"
mkdir -p "$2/blobs/sha256"
printf index >"$2/blobs/sha256/{DIGEST[7:]}"
echo '{{"manifests": [{json.dumps(descriptor("1.2.0"))}]}}' >"$2/index.json"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source tree with version 1.2.0, the files of its release, and the files that GitHub serves."""
    files = {
        "provider/__init__.py": '__version__ = "1.2.0"\n',
        "CHANGELOG.md": "## [Unreleased]\n\n## [1.2.0] - 2026-11-23\n\n- A thing.\n",
        str(CLOUD_INIT): "VERSION=1.2.0\n",
        **dict.fromkeys(map(str, MANIFESTS), "  image: ghcr.io/owner/name:1.2.0\n"),
        "bin/gh": GH,
        "bin/skopeo": SKOPEO,
        "packaging/setup/as_root.sh": '#!/bin/bash\nexec "$@"\n',
        "packaging/image/build.sh": BUILD_IMAGE,
        "notes": "",
        **{f"{folder}/{ASSET}": "program" for folder in ("dist/release", "served")},
        "served/SHA256SUMS": f"{sha256(b'program').hexdigest()}  {ASSET}\n",
    }
    files |= {f"dist/{name}": name for name in BUILT}
    files["packaging/credential-provider-config.yaml"] = "kind: CredentialProviderConfig\n"
    scripts = ("assets.sh", "draft.sh", "download.sh", "image.sh", "notes.py")
    for name in scripts:
        files[f"packaging/release/{name}"] = (REPOSITORY / "packaging/release" / name).read_text()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(source: Path, script: str, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    """The exit code of the script, and the calls of gh."""
    done = subprocess.run(
        [source / "packaging/release" / script, *arguments],
        env={
            "PATH": f"{source}/bin:/usr/local/bin:/usr/bin:/bin",
            "TAG": TAG,
            "NOTES": str(source / "notes"),
            "SERVED": str(source / "served"),
            "GITHUB_REPOSITORY": "owner/name",
            "GITHUB_ACTOR": "somebody",
            "GH_TOKEN": "a-token",
            "HOME": str(source / "home"),
            "DIGEST": DIGEST,
            "STATE": "",
            "UNATTESTED": "",
            **environment,
        },
        capture_output=True,
    )
    return done.returncode, (source / "notes").read_text().splitlines()


def test_a_new_tag_gets_a_draft_with_the_changelogs_words(source: Path) -> None:
    code, asked = run(source, "draft.sh")
    assert code == 0
    [_, create] = asked
    assert create.startswith(f"release create {TAG} --draft --verify-tag")
    assert "--notes - A thing." in create
    assert create.endswith(f"dist/release/{ASSET}")


def test_a_draft_that_is_there_is_replaced(source: Path) -> None:
    code, asked = run(source, "draft.sh", STATE="true")
    assert code == 0
    assert [line.split(" --")[0] for line in asked[1:]] == [
        f"release delete {TAG}",
        f"release create {TAG}",
    ]


def test_a_published_release_is_left_as_it_is(source: Path) -> None:
    code, asked = run(source, "draft.sh", STATE="false")
    assert code == 0
    assert [line.split()[1] for line in asked] == ["list"]


def test_when_github_does_not_answer_nothing_is_made(source: Path) -> None:
    code, asked = run(source, "draft.sh", STATE="unreachable")
    assert code != 0
    assert [line.split()[1] for line in asked] == ["list"]


def test_a_tag_of_another_version_is_not_drafted(source: Path) -> None:
    code, asked = run(source, "draft.sh", TAG="v1.3.0")
    assert code != 0
    assert asked == []


def test_a_download_is_verified_file_by_file(source: Path) -> None:
    code, asked = run(source, "download.sh")
    assert code == 0
    verified = [line.split()[2] for line in asked if line.startswith("attestation verify")]
    assert sorted(verified) == ["SHA256SUMS", ASSET]
    for line in asked[1:]:
        assert (
            "--repo owner/name --signer-workflow owner/name/.github/workflows/release.yml" in line
        )
        assert f"--source-ref refs/tags/{TAG} --deny-self-hosted-runners" in line


def test_a_wrong_sum_stops_the_download(source: Path) -> None:
    (source / "served" / ASSET).write_text("another program")
    code, asked = run(source, "download.sh")
    assert code != 0
    assert [line.split()[1] for line in asked] == ["download"]


@pytest.mark.parametrize("name", [ASSET, "SHA256SUMS"])
def test_a_file_without_an_attestation_stops_the_download(source: Path, name: str) -> None:
    code, _ = run(source, "download.sh", UNATTESTED=name)
    assert code != 0


# ---- the assets are the built files --------------------------------------------------------------


def sums(names: Sequence[str]) -> str:
    """SUMS from the outputs of the build jobs: one line per file."""
    return "".join(f"{sha256(name.encode()).hexdigest()}  {name}\n" for name in names)


def test_assets_are_the_files_that_were_built(source: Path) -> None:
    code, _ = run(source, "assets.sh", "amd64", "arm64", SUMS=sums(BUILT))
    assert code == 0
    collected = {file.name for file in (source / "dist/release").iterdir()}
    manifests = {"cloud-init.sh", "credential-provider-config.yaml", "daemonset.yaml"}
    assert collected == {*BUILT, "SHA256SUMS", *manifests}


def test_the_image_is_made_of_the_checked_files_and_the_daemonset_names_its_digest(
    source: Path,
) -> None:
    code, notes = run(source, "assets.sh", "amd64", "arm64", SUMS=sums(BUILT))
    assert code == 0
    assert notes == ["image dist/release dist/image"]
    daemonset = (source / "dist/release/daemonset.yaml").read_text()
    assert daemonset == f"  image: ghcr.io/owner/name@{DIGEST}\n"
    name = sha256(daemonset.encode()).hexdigest()
    assert f"{name}  daemonset.yaml" in (source / "dist/release/SHA256SUMS").read_text()


@pytest.mark.parametrize("name", BUILT)
def test_a_file_that_is_not_the_one_that_was_built_stops_the_release(
    source: Path, name: str
) -> None:
    (source / "dist" / name).write_text("replaced")
    code, notes = run(source, "assets.sh", "amd64", "arm64", SUMS=sums(BUILT))
    assert code != 0
    assert notes == []  # no image
    assert not (source / "dist/release/SHA256SUMS").exists()


@pytest.mark.parametrize(
    "listed",
    [
        "\n\n",
        "",
        "no sum\n" + sums(BUILT),
        sums(BUILT[:3]) + "\n",
        sums(BUILT[1:]),
        sums([*BUILT, "oke-credential-provider-for-ocir-linux-riscv64"]),
    ],
)
def test_sums_that_are_not_of_exactly_these_files_stop_the_release(
    source: Path, listed: str
) -> None:
    """No outputs of one build job or of both, an invalid line, a file less, a file more."""
    code, _ = run(source, "assets.sh", "amd64", "arm64", SUMS=listed)
    assert code != 0
    assert not (source / "dist/release/SHA256SUMS").exists()


# ---- the image -----------------------------------------------------------------------------------


@pytest.fixture
def with_image(source: Path) -> Path:
    """The source tree after assets.sh."""
    assert run(source, "assets.sh", "amd64", "arm64", SUMS=sums(BUILT))[0] == 0
    (source / "notes").write_text("")
    return source


def test_the_image_is_pushed_with_its_digest_and_no_argument_has_the_token(
    with_image: Path,
) -> None:
    code, calls = run(with_image, "image.sh", STATE="")
    assert code == 0
    [_, login, copy] = calls
    assert login.startswith("skopeo login") and login.endswith("--password-stdin ghcr.io")
    assert copy.startswith("skopeo copy --all --preserve-digests")
    assert copy.endswith("oci:dist/image:1.2.0 docker://ghcr.io/owner/name:1.2.0")
    assert "a-token" not in " ".join(calls)


def test_the_image_of_a_published_release_is_left_as_it_is(with_image: Path) -> None:
    code, calls = run(with_image, "image.sh", STATE=TAG)
    assert code == 0
    assert [call.split()[:2] for call in calls] == [["release", "list"]]


@pytest.mark.parametrize("wrong", ["the index", "a second image", "a blob", "github"])
def test_another_image_is_not_pushed(with_image: Path, wrong: str) -> None:
    more = {}
    image = with_image / "dist/image"
    if wrong == "the index":
        more = {"DIGEST": f"sha256:{'0' * 64}"}
    elif wrong == "a second image":
        other = sha256(b"other").hexdigest()
        (image / "blobs/sha256" / other).write_text("other")
        both = [descriptor("1.1.0"), descriptor("1.2.0", f"sha256:{other}")]
        (image / "index.json").write_text(json.dumps({"manifests": both}))
    elif wrong == "a blob":
        (image / "blobs/sha256" / ("0" * 64)).write_text("another layer")
    else:
        more = {"STATE": "unreachable"}
    code, calls = run(with_image, "image.sh", **more)
    assert code != 0
    assert not [call for call in calls if call.startswith("skopeo")]
