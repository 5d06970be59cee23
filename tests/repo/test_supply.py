"""The parts of the program: their licenses are allowed, and their sources are locked or signed.

`make audit` reports known vulnerabilities.
"""

import re
from importlib.metadata import Distribution
from pathlib import Path

import pytest
import yaml

from provider.commands.licenses import _requirements

# SPDX names of the licenses of parts that a program under the UPL may contain.
ALLOWED = {
    "Apache-2.0",
    "BSD-3-Clause",
    "MIT",
    "MIT-0",
    "MPL-2.0",  # certifi: an unchanged list of certificates
    "PSF-2.0",
    "UPL-1.0",
}
# Names in metadata that are not SPDX.
_SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Universal Permissive License 1.0 or Apache License 2.0": "UPL-1.0 OR Apache-2.0",
    "Dual License": "Apache-2.0 OR BSD-3-Clause",  # python-dateutil, by its classifiers
}
# Dependencies of the SDK that the program never loads. The binary does not contain them.
NOT_GIVEN_ON = {"crc32c": "LGPL-2.1-or-later"}


def licence_of(package: Distribution) -> str:
    for field in ("License-Expression", "License"):
        for named in package.metadata.get_all(field) or []:
            return _SPELLINGS.get(str(named).strip(), str(named).strip())
    return ""


def allowed(expression: str) -> bool:
    """True if an SPDX expression is allowed: one side of each OR, all sides of each AND."""
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


# ---- sources of the parts ------------------------------------------------------------------------

REPOSITORY = Path(__file__).parents[2]


def commands(pattern: str) -> list[str]:
    """The lines of Makefile, scripts and workflows that match. Continued lines are joined."""
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
    """Except for this project itself, without dependencies."""
    installs = commands(r"\bpip\b.*\binstall\b")
    assert len(installs) >= 4
    ours = "--no-deps --no-build-isolation --editable ."
    # --no-deps: a lock is complete, and old versions of pip resolve extras to packages without a hash.
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
