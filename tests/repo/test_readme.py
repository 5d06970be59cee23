"""README.md and CONTRIBUTING.md agree with the program."""

import re
import subprocess
from pathlib import Path

import pytest

from provider.commands.cli import commands
from tests.support.readme import README, parts, parts_of

REPOSITORY = README.parent
DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
    REPOSITORY / "examples/run-on-worker-instance-principal/README.md",
]


@pytest.mark.parametrize("name", sorted(parts()))
def test_a_table_of_the_readme_is_what_the_program_says(name: str) -> None:
    assert parts_of(README.read_text())[name] == parts()[name]


# Messages of CRI-O and containerd in the events of pods, from published logs of OKE nodes and `make kubelet`.
SEEN = (
    "initializing source docker://fra.ocir.io/ns/repo:tag: reading manifest tag in fra.ocir.io/ns/repo:",
    "unable to pull image or OCI artifact: pull image err:",
    "artifact err:",
    "denied: Anonymous users are only allowed read access on public repos",
    "denied: User UserId(ocid1.instance...) not authorized",
    "pulling from host phx.ocir.io failed with status code [manifests v1]: 403 Forbidden",
    "failed to authorize: failed to fetch anonymous token",
    "FREE_TIER_NOT_SUPPORTED",
    "unknown: Unauthorized",
)


@pytest.mark.parametrize("text", SEEN)
def test_troubleshooting_has_the_texts_that_people_see(text: str) -> None:
    section = README.read_text().partition("## When pulls fail")[2].partition("\n## ")[0]
    assert f"{text}`" in section


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (REPOSITORY / document).read_text()):
        assert (REPOSITORY / target).exists(), target


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    for document in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(r"(?:`|^)make ([a-z0-9-]+)", (REPOSITORY / document).read_text(), re.M)
        assert set(named) <= targets


def test_the_tree_has_every_package_and_module() -> None:
    """CONTRIBUTING.md lists exactly the modules and packages of provider/."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    tree = text.partition("\nprovider/ ")[2].partition("\n```")[0]
    shown = {}
    for name, slash, inside in re.findall(r"^  (\w+)(/?) .*\n((?:    .*\n)*)", f"{tree}\n", re.M):
        listed = re.sub(r"\(.*?\)", "", inside, flags=re.DOTALL).split(",") if slash else []
        shown[name] = {module.strip(" \n/") for module in listed}
    files = subprocess.run(
        ["git", "ls-files", "provider"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout.split()
    there: dict[str, set[str]] = {}
    for path in files:
        top, *below = Path(path).with_suffix("").parts[1:]
        there.setdefault(top, set()).update(below[:1])
    del there["__init__"]
    assert shown == {name: modules - {"__init__"} for name, modules in there.items()}


def test_the_tree_has_the_folders_of_tests_and_packaging() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    for top in ("tests", "packaging"):
        section = text.partition(f"\n{top}/ ")[2] or text.partition(f"\n{top}/\n")[2]
        shown = re.findall(r"^  (\w+)/ ", re.split(r"^\w", section, flags=re.M)[0], re.M)
        files = subprocess.run(
            ["git", "ls-files", top], capture_output=True, text=True, check=True, cwd=REPOSITORY
        ).stdout.split()
        assert sorted(shown) == sorted(
            {each.split("/")[1] for each in files if each.count("/") > 1}
        )


def test_commands_in_code_have_their_options() -> None:
    """Each option exists in `oke-credential-provider COMMAND --option` and `COMMAND --option`."""
    name = "|".join(commands.commands)
    command = re.compile(rf"(?:^|oke-credential-provider(?:-\S+)? )({name})( [^|;#]*)")
    found = 0
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", " ")
        fenced = re.findall(r"^ *```.*?^ *```$", text, re.M | re.DOTALL)
        for block in fenced:
            text = text.replace(block, "")
        for line in (*"\n".join(fenced).splitlines(), *re.findall(r"`+([^`]+)`+", text)):
            for used, words in command.findall(line):
                options = set(re.findall(r"(?<=\s)--[a-z-]+", words))
                known = {option for each in commands.commands[used].params for option in each.opts}
                assert options <= known, line
                found += len(options)
    assert found > 5
