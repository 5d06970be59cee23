"""The examples agree with each other. The commands in their README are valid shell."""

import base64
import re
import subprocess

import pytest
import yaml

from provider import __version__
from tests.support.node import EXAMPLES

README = (EXAMPLES / "README.md").read_text()
SCRIPT = (EXAMPLES / "cloud-init.sh").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
# The metadata of an instance is limited to 32,000 bytes (OCI's documentation), for all its keys.
USER_DATA_BYTES = 12_000


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_each_block_of_the_readme_can_be_pasted(block: str) -> None:
    # SC2154: a block may use a variable of an earlier block.
    argv = ["shellcheck", "--shell=bash", "--exclude=SC2154", "-"]
    done = subprocess.run(argv, input=block, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_each_variable_of_the_readmes_commands_is_set_in_it() -> None:
    text = "".join(BLOCKS)
    used = set(re.findall(r"\$\{?([A-Z_]+)", text))
    assert used <= set(re.findall(r"\b([A-Z_]+)(?==)", text))


def test_each_file_of_the_folder_is_in_the_readme() -> None:
    linked = set(re.findall(r"\]\(([\w.-]+)\)", README))
    assert linked == {path.name for path in EXAMPLES.iterdir()} - {"README.md"}


def test_the_script_installs_this_version() -> None:
    assert f"\nVERSION={__version__}\n" in SCRIPT
    assert f"VERSION={__version__}\n" in README


def test_the_script_fits_into_the_metadata() -> None:
    assert len(base64.b64encode(SCRIPT.encode())) < USER_DATA_BYTES


def test_karpenters_variables_are_those_that_the_readme_sets() -> None:
    text = (EXAMPLES / "karpenter.yaml").read_text()
    assert yaml.safe_load(text)["spec"]["metadata"]["user_data"] == "${USER_DATA}"
    (block,) = [block for block in BLOCKS if "karpenter.yaml" in block]
    for name in re.findall(r"\$\{([A-Z_]+)\}", text):
        assert f"{name}=" in block
