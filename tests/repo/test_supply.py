"""What the program is made of: licences held against a list, and where each part comes from.

`make audit` asks for known faults.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution
from pathlib import Path

import pytest
import yaml

from provider.commands.licenses import _requirements

# What may be given on with the program under the UPL, as SPDX names them.
ALLOWED = {
    "Apache-2.0",
    "BSD-3-Clause",
    "MIT",
    "MIT-0",
    "MPL-2.0",  # certifi: a list of certificates, given on unchanged
    "PSF-2.0",
    "UPL-1.0",
}
# Wordings in metadata that are older than SPDX.
_SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Universal Permissive License 1.0 or Apache License 2.0": "UPL-1.0 OR Apache-2.0",
    "Dual License": "Apache-2.0 OR BSD-3-Clause",  # python-dateutil, by its classifiers
}
# The SDK names them, and the program never loads them: the frozen one has them not (see
# test_binary.py), and a source installation takes them from PyPI itself.
NOT_GIVEN_ON = {"crc32c": "LGPL-2.1-or-later"}


def licence_of(package: Distribution) -> str:
    for field in ("License-Expression", "License"):
        for named in package.metadata.get_all(field) or []:
            return _SPELLINGS.get(str(named).strip(), str(named).strip())
    return ""


def allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met: one side of each OR, all sides of each AND."""
    return all(
        any(one.strip(" ()") in ALLOWED for one in part.split(" OR "))
        for part in expression.split(" AND ")
    )


def test_every_licence_is_on_the_list() -> None:
    packages = {package.name: licence_of(package) for package in _requirements()}
    assert {"oci", "cryptography", "click", "PyYAML", "certifi"} <= packages.keys()
    refused = {name: text for name, text in packages.items() if not allowed(text)}
    assert refused == NOT_GIVEN_ON


@pytest.mark.parametrize(
    "text", ["", "GPL-3.0-only", "MIT AND GPL-2.0", "UNKNOWN", "LGPL-2.1-or-later"]
)
def test_another_licence_is_refused(text: str) -> None:
    assert not allowed(text)


def test_what_may_not_be_given_on_is_not_in_the_binary() -> None:
    from tests.support.built import tree

    names = {path.name.lower() for path in tree().rglob("*")}
    assert any(name.startswith("_rust") or name == "cryptography" for name in names)
    pattern = re.compile(rf"_?({'|'.join(NOT_GIVEN_ON)})\b.*")
    assert [name for name in names if pattern.match(name)] == []


# ---- where the parts come from -------------------------------------------------------------------

REPOSITORY = Path(__file__).parents[2]


def commands(pattern: str) -> list[str]:
    """The lines of Makefile, scripts and workflows that the pattern is in, continued ones joined."""
    files = [
        REPOSITORY / "Makefile",
        *(REPOSITORY / "packaging").rglob("*.sh"),
        *(REPOSITORY / ".github").rglob("*.yml"),
    ]
    texts = [re.sub(r"\\\n\s*", "", file.read_text()) for file in files]
    return [
        line
        for text in texts
        for line in text.splitlines()
        if re.search(pattern, line) and not line.lstrip().startswith("#")
    ]


def test_pip_installs_only_what_is_locked_by_hash() -> None:
    """But for this project itself, without dependencies."""
    installs = commands(r"\bpip\b.*\binstall\b")
    assert len(installs) >= 4
    ours = "--no-deps --no-build-isolation --editable ."
    # --no-deps: a lock is whole, and old versions of pip resolve extras to what has no hash.
    others = [each for each in installs if ours not in each]
    assert all("--require-hashes" in each and "--no-deps" in each for each in others)
    assert commands(r"\b(npm|pipx|cargo|go) install\b|curl .*\| *(ba)?sh") == []


@pytest.mark.parametrize("name", ["requirements.txt", "ziglang.txt", "fuzz.txt"])
def test_every_locked_version_has_a_hash(name: str) -> None:
    text = re.sub(r"\\\n\s*", "", (REPOSITORY / "packaging/locks" / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[\w.-]+==[\w.]+ .*--hash=sha256:[0-9a-f]{64}", line), line


def test_debians_sources_are_verified_by_debians_keys() -> None:
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert f"debian_keyring={keyring}" in (REPOSITORY / "packaging/python/debian.sh").read_text()
    sources = commands(r"^deb(-src)? ")
    assert len(sources) == 2
    assert all("[signed-by=$debian_keyring]" in line for line in sources)
    roots = commands(r"\bdebootstrap --")
    assert roots
    assert all('--keyring="$debian_keyring"' in line for line in roots)
    unverified = (
        r"allow-unauthenticated|allow-insecure|trusted=yes|no-check-gpg|AllowUnauthenticated"
    )
    assert commands(unverified) == []


def test_dependabot_waits_a_week() -> None:
    content = yaml.safe_load((REPOSITORY / ".github/dependabot.yml").read_text())
    assert [each["cooldown"] for each in content["updates"]] == [{"default-days": 7}] * 2


def test_no_workflow_has_a_secret_but_githubs_own_token() -> None:
    assert commands(r"\bsecrets\b") == []
