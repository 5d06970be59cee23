"""The licences of what the program needs, held against a list; `make audit` asks for known faults."""

from __future__ import annotations

import re
from importlib.metadata import Distribution

import pytest

from provider.licenses import _requirements

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
    from tests.built import tree

    names = {path.name.lower() for path in tree().rglob("*")}
    assert any(name.startswith("_rust") or name == "cryptography" for name in names)
    pattern = re.compile(rf"_?({'|'.join(NOT_GIVEN_ON)})\b.*")
    assert [name for name in names if pattern.match(name)] == []
