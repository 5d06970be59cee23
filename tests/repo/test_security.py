"""The claims of SECURITY.md have tests, and its tables agree with the program."""

import re

import yaml

from provider.net.http import MAX_BODY
from provider.settings import Settings
from tests.campaigns.mutations import FAMILIES, claims, mutated
from tests.cloud.namespace import REPOSITORY
from tests.e2e.test_privilege import HOSTILE, INTERPRETERS
from tests.support.claims import CLAIMS

TEXT = (REPOSITORY / "SECURITY.md").read_text()


def test_every_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    files = (REPOSITORY / "tests").rglob("test_*.py")
    there = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert len(named) > 20
    assert named - there == set()


def test_every_claim_has_a_mutation_that_makes_it_false() -> None:
    """`make mutations` runs them. This test checks that each one still applies to its file."""
    assert set(re.findall(r"`(test_\w+)`", TEXT)) - CLAIMS.keys() == set()
    for family in (*FAMILIES, *claims()):
        assert family.mutations, family.name
        for mutation in family.mutations:
            text = (REPOSITORY / mutation.file).read_text()
            assert mutated(text, mutation) != text


def test_every_variable_that_is_tested_is_told_of() -> None:
    table = TEXT.partition("### Environment variables")[2].partition("###")[0]
    variables = {name for name in {**HOSTILE, **INTERPRETERS} if not name.startswith("PYTHON")}
    assert {name for name in variables if f"`{name}`" not in table} == set()


def test_every_command_that_is_named_is_a_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`", TEXT):
        assert re.search(rf"^{target}:.*##", makefile, re.M), target


def test_the_jobs_of_a_release_are_told_with_what_they_may_do() -> None:
    workflow = (REPOSITORY / ".github/workflows/release.yml").read_text()
    jobs = yaml.safe_load(workflow)["jobs"]
    table = TEXT.partition("| job of [`release.yml`]")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)`.* \| ([^|]+) \|$", table, re.M)
    assert [name for name, _ in rows] == list(jobs)
    for name, may in rows:
        given = jobs[name]["permissions"]
        words = set(re.findall(r"\w+", may))
        assert ("releases" in words or "draft" in words) == (given["contents"] == "write"), name
        assert ("sign" in words) == (given.get("id-token") == "write"), name
        assert ("sign" in words) == (given.get("attestations") == "write"), name
        assert ("packages" in words) == (given.get("packages") == "write"), name
        assert given.keys() <= {"contents", "packages", "id-token", "attestations"}, name


def test_the_numbers_are_the_programs() -> None:
    row = dict(re.findall(r"^\| ([\w ]+) \| .+ \| (.+) \|$", TEXT, re.M))
    assert row["answers of any size"] == f"{MAX_BODY >> 20} MiB"
    assert f"one deadline, {Settings().deadline_seconds:g} s" in row["time limit"]
