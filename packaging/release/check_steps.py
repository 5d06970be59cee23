"""Let shellcheck read the shell scripts inside workflows: each step's `run`.

    python packaging/release/check_steps.py .github/workflows/*.yml

Exit status 1 if shellcheck has a complaint. GitHub runs a step by `bash -e {0}`, or by
`bash --noprofile --norc -eo pipefail {0}` where `shell: bash` is set.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml


def scripts(workflow: Path) -> Iterator[tuple[str, str]]:
    """Where a script stands (job, number of the step), and its text."""
    content = yaml.safe_load(workflow.read_text())
    for job, body in content["jobs"].items():
        for number, step in enumerate(body.get("steps", ()), 1):
            if "run" in step:
                yield f"{workflow}: {job}, step {number}", step["run"]


def main(arguments: list[str]) -> int:
    """Check the workflows named; print what is wrong."""
    status = 0
    for path in arguments:
        for place, script in scripts(Path(path)):
            done = subprocess.run(
                ["shellcheck", "--shell=bash", "--severity=style", "-"],
                input=f"set -e\n{script}",
                text=True,
                capture_output=True,
                check=False,
            )
            if done.returncode != 0:
                print(f"{place}:\n{done.stdout}{done.stderr}", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
