"""What a call imports from the standard library if its token is in the cache.

A node with a hundred pods makes a hundred such calls at once, and imports are most of their time.
"""

import re
import sys

from tests.cloud.harness import Cloud
from tests.conftest import Program
from tests.support.built import ROOT
from tests.support.kubelet import read_response, request

IMAGE = "fra.ocir.io/ns/repo"
# Beside what os imports: C modules, and __future__, which is one small class.
ALLOWED = {
    "__future__",
    "_json",
    "_operator",
    "_signal",
    "_socket",
    "fcntl",
    "resource",
    "select",
    "time",
    "zlib",
}
CALL = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from provider.__main__ import main; main()"


def _imported(cloud: Cloud, script: str) -> set[str]:
    # Where the hard limit of core dumps is 0, the program does more.
    python = ["prlimit", "--core=0", sys.executable, "-I", "-S", "-X", "importtime"]
    result = cloud.ns.run([*python, "-c", script], stdin=request(IMAGE)).check()
    assert script != CALL or read_response(result.stdout).password
    return set(re.findall(r"^import time:.*\| +(\S+)$", result.stderr.decode(), re.M))


def test_a_call_whose_token_is_in_the_cache_imports_little(cloud: Cloud, program: Program) -> None:
    program.run(cloud, stdin=request(IMAGE)).check()
    imported = _imported(cloud, CALL) - _imported(cloud, "import os")
    assert cloud.control.report().count("token") == 1
    others = {name for name in imported if name.split(".")[0] != "provider"}
    assert {"_json", "fcntl"} <= others <= ALLOWED
