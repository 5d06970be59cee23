"""packaging/release/notes.py with sources in which one version differs."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "packaging" / "release" / "notes.py"
CLOUD_INIT = "examples/run-on-worker-instance-principal/cloud-init.sh"
DAEMONSET = CLOUD_INIT.replace("cloud-init.sh", "daemonset.yaml")
CHECK = CLOUD_INIT.replace("cloud-init.sh", "check.yaml")
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-11-23

Words about it.

### Added

- A thing.

## [1.1.0] - 2026-10-01

- An older thing.

[1.2.0]: https://example.com/1.2.0
"""


def source(folder: Path, **changes: str) -> Path:
    """A source tree with version 1.2.0 everywhere, except for the changes."""
    files = {
        "CHANGELOG.md": CHANGELOG,
        "provider/__init__.py": '"""It."""\n\n__version__ = "1.2.0"\n',
        CLOUD_INIT: "#!/bin/bash\nVERSION=1.2.0\n",
        DAEMONSET: "      image: ghcr.io/a/b:1.2.0\n",
        CHECK: "      image: ghcr.io/a/b:1.2.0\n",
        "dist/binary": '#!/bin/sh\necho \'{"version": "1.2.0"}\'\n',
    }
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        old, _, new = changes.get(file.name.partition(".")[0].replace("-", "_"), "").partition("=>")
        assert old in text
        file.write_text(text.replace(old, new) if old else text)
    (folder / "dist/binary").chmod(0o755)
    (folder / "packaging/release").mkdir(parents=True)
    (folder / "packaging/release/notes.py").write_text(SCRIPT.read_text())
    return folder


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(root / "packaging/release/notes.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=root)


def test_the_notes_are_the_section_of_the_version_and_nothing_else(tmp_path: Path) -> None:
    done = run(source(tmp_path), "--tag", "v1.2.0", "--binary", "dist/binary")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Words about it.\n\n### Added\n\n- A thing.\n"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"__init__": "1.2.0=>1.2.1"}, "the tag is v1.2.0, provider.__version__ is 1.2.1"),
        (
            {"binary": "1.2.0=>1.1.0"},
            "the version of binary is 1.1.0, provider.__version__ is 1.2.0",
        ),
        ({"cloud_init": "1.2.0=>1.1.0"}, "cloud-init.sh downloads 1.1.0"),
        ({"daemonset": "1.2.0=>1.1.0"}, "daemonset.yaml has the image 1.1.0"),
        ({"check": "1.2.0=>1.1.0"}, "check.yaml has the image 1.1.0"),
        ({"CHANGELOG": "[1.2.0] =>[1.2.1] "}, "the changelog's newest version is 1.2.1"),
        ({"CHANGELOG": " - 2026-11-23=>"}, "the changelog has no date for 1.2.0"),
        ({"CHANGELOG": "[Unreleased]\n=>[Unreleased]\n\n- Not yet.\n"}, "unreleased entries"),
    ],
)
def test_whatever_does_not_agree_stops_the_release(
    changes: dict[str, str], told: str, tmp_path: Path
) -> None:
    done = run(source(tmp_path, **changes), "--tag", "v1.2.0", "--binary", "dist/binary")
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("tag", ["1.2.0", "v1.2", "v1.2.0-rc1", "v1.2.0;id"])
def test_a_tag_of_another_form_stops_the_release(tag: str, tmp_path: Path) -> None:
    done = run(source(tmp_path), "--tag", tag)
    assert done.returncode == 1
    assert f"the tag {tag} does not have the form vX.Y.Z" in done.stderr


def test_a_version_without_words_has_no_notes(tmp_path: Path) -> None:
    changelog = "## [1.2.0] - 2026-11-23\n\n## [1.1.0] - 2026-10-01\n\n- An older thing.\n"
    (source(tmp_path) / "CHANGELOG.md").write_text(changelog)
    done = run(tmp_path)
    assert done.returncode == 1
    assert "the changelog has no entries for 1.2.0" in done.stderr


def test_this_source_has_notes() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
