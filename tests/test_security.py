"""SECURITY.md says what the tests show, and nothing else."""

from __future__ import annotations

import re

from tests.cloud.namespace import REPOSITORY
from tests.test_privilege import HOSTILE, INTERPRETERS

TEXT = (REPOSITORY / "SECURITY.md").read_text()


def test_every_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    files = (REPOSITORY / "tests").glob("test_*.py")
    there = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert len(named) > 20
    assert named - there == set()


def test_every_variable_that_is_tested_is_told_of() -> None:
    table = TEXT.partition("### Environment variables")[2].partition("###")[0]
    variables = {name for name in {**HOSTILE, **INTERPRETERS} if not name.startswith("PYTHON")}
    assert {name for name in variables if f"`{name}`" not in table} == set()


def test_every_command_that_is_named_is_a_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`", TEXT):
        assert re.search(rf"^{target}:.*##", makefile, re.M), target
