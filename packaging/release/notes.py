#!/usr/bin/env python3
"""Print the release notes of this source's version, from CHANGELOG.md.

    python packaging/release/notes.py [--tag v0.1.0] [--binary PATH]...

With --tag or --binary it also checks that one version is everywhere: the tag, provider.__version__, the
binary's `version`, the newest section of the changelog, the download of cloud-init.sh, and the images of
the manifests. If not, the exit status is 1, with one line per difference. Uses only the standard library.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = Path("examples/run-on-worker-instance-principal")
CLOUD_INIT = EXAMPLES / "cloud-init.sh"
MANIFESTS = (EXAMPLES / "daemonset.yaml", EXAMPLES / "check.yaml")

# Keep a Changelog: "## [Unreleased]", "## [0.1.0] - 2026-11-23"; links may follow at the end.
_HEADING = re.compile(r"^## \[(?P<version>[^]]+)\](?: - (?P<date>\d{4}-\d{2}-\d{2}))?$", re.M)
_LINK = re.compile(r"^\[[^]]+\]: \S+\n?", re.M)
_TAG = re.compile(r"v\d+\.\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Section:
    """One version of the changelog. ``date`` is "" if there is none."""

    version: str
    date: str
    text: str


def sections(changelog: str) -> list[Section]:
    """The versions of the changelog, in its order."""
    text = _LINK.sub("", changelog)
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return [
        Section(heading["version"], heading["date"] or "", text[heading.end() : end].strip())
        for heading, end in zip(headings, ends, strict=True)
    ]


def source_version(root: Path) -> str:
    """provider.__version__, read without an import. Raises LookupError."""
    return _first(r'^__version__ = "([^"]+)"$', root / "provider" / "__init__.py")


def disagreements(
    root: Path, changelog: Sequence[Section], tag: str, binaries: Sequence[Path]
) -> Iterator[str]:
    """A line for each place with another version than the source."""
    version = source_version(root)
    if tag and not _TAG.fullmatch(tag):
        yield f"the tag {tag} does not have the form vX.Y.Z"
    elif tag and tag != f"v{version}":
        yield f"the tag is {tag}, provider.__version__ is {version}"
    downloaded = _first(r"^VERSION=(.*)$", root / CLOUD_INIT)
    if downloaded != version:
        yield f"{CLOUD_INIT.name} downloads {downloaded}, provider.__version__ is {version}"
    for manifest in MANIFESTS:
        for tag_of_image in re.findall(
            r"^ +image: [^:]+:(\S+)$", (root / manifest).read_text(), re.M
        ):
            if tag_of_image != version:
                yield f"{manifest.name} has the image {tag_of_image}, provider.__version__ is {version}"
    released = [section for section in changelog if section.version != "Unreleased"]
    if not released or released[0].version != version:
        newest = released[0].version if released else "nothing"
        yield f"the changelog's newest version is {newest}, provider.__version__ is {version}"
    elif not released[0].date:
        yield f"the changelog has no date for {version}"
    for section in changelog:
        if tag and section.version == "Unreleased" and section.text:
            yield "the changelog has unreleased entries: move them to the version"
    for binary in binaries:
        reported = _version_of(binary)
        if reported != version:
            yield f"the version of {binary.name} is {reported}, provider.__version__ is {version}"


def _first(pattern: str, file: Path) -> str:
    found = re.search(pattern, file.read_text(), re.M)
    if found is None:
        raise LookupError(f"{file}: no match for {pattern}")
    return found[1]


def _version_of(binary: Path) -> str:
    done = subprocess.run(
        [binary.resolve(), "version", "--output", "json"], check=True, capture_output=True
    )
    return str(json.loads(done.stdout)["version"])


def main(arguments: list[str] | None = None) -> int:
    """Print the notes, or the differences."""
    parser = argparse.ArgumentParser(description="Print the release notes of this version.")
    parser.add_argument("--tag", default="", help="the tag of this version, vX.Y.Z")
    parser.add_argument(
        "--binary", type=Path, action="append", default=[], help="a binary of this version"
    )
    options = parser.parse_args(arguments)
    changelog = sections((ROOT / "CHANGELOG.md").read_text())
    if options.tag or options.binary:
        wrong = list(disagreements(ROOT, changelog, options.tag, options.binary))
        if wrong:
            print("\n".join(wrong), file=sys.stderr)
            return 1
    notes = [each.text for each in changelog if each.version == source_version(ROOT)]
    if not notes or not notes[0]:
        print(f"the changelog has no entries for {source_version(ROOT)}", file=sys.stderr)
        return 1
    print(notes[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
