"""`python -m tests.campaigns.faults`: the complete fault matrix, as a table. Exits with 1 if a cell fails."""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from tests.campaigns.faults.matrix import ENDPOINTS, STORM, Cell, cells, expected, faults, nature
from tests.campaigns.faults.run import judge, observe
from tests.cloud.harness import Cloud
from tests.conftest import Program, programs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.faults", description=__doc__)
    parser.add_argument("--clouds", type=int, default=2, help="number of cells to run in parallel")
    parser.add_argument("--only", default="", help="run only cells whose ID contains this")
    options = parser.parse_args()
    chosen = [cell for cell in cells() if options.only in cell.id]
    began, failed = time.monotonic(), 0
    for program in programs():
        results = run_all(program, chosen, options.clouds)
        print(table(program, chosen, results))
        for cell, wrong in results.items():
            for reason in wrong:
                print(f"FAILED {program.name} {cell}: {reason}")
            failed += bool(wrong)
    seconds = time.monotonic() - began
    count = len(chosen) * len(programs())
    processes = sum(cell.calls for cell in chosen) * len(programs())
    print(f"{count} cells, {processes} calls, {failed} cells failed, {seconds / 60:.0f} minutes")
    return 1 if failed else 0


def run_all(program: Program, chosen: Sequence[Cell], at_once: int) -> dict[str, list[str]]:
    """Run and check the cells, several in parallel, each in its own cloud."""
    clouds: SimpleQueue[Cloud] = SimpleQueue()
    made = [Cloud() for _ in range(at_once)]
    for cloud in made:
        clouds.put(cloud)

    def one(cell: Cell) -> list[str]:
        cloud = clouds.get()
        try:
            return judge(cell, observe(cell, cloud, program.argv, program.env))
        finally:
            clouds.put(cloud)

    results: dict[str, list[str]] = {}
    try:
        with ThreadPoolExecutor(at_once) as pool:
            for number, (cell, wrong) in enumerate(zip(chosen, pool.map(one, chosen), strict=True)):
                results[cell.id] = wrong
                if sys.stderr.isatty():
                    print(f"\r{number + 1} of {len(chosen)}", end="", file=sys.stderr)
    finally:
        for cloud in made:
            cloud.close()
    return results


def table(program: Program, chosen: Sequence[Cell], results: dict[str, list[str]]) -> str:
    """Return a table: faults as rows, endpoints as columns, the code of the calls in each cell."""
    lines = [
        f"{program.name}: the result of a single call and of {STORM} parallel calls; FAILED if it is not as expected",
        "",
        f"| fault | nature | {' | '.join(ENDPOINTS)} |",
        f"|---|---|{'---|' * len(ENDPOINTS)}",
    ]
    for name, fault in faults().items():
        columns = []
        for endpoint in ENDPOINTS:
            here = [c for c in chosen if (c.name, c.endpoint) == (name, endpoint)]
            columns.append(_outcome(here, results))
        if any(columns):
            lines.append(f"| {name} | {nature(fault).value} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _outcome(here: Sequence[Cell], results: dict[str, list[str]]) -> str:
    if not here:
        return ""
    must = expected(here[0])
    credentials = "credentials" if must.proven else "credentials for 120 s"
    outcome = must.error.code if must.error else credentials
    return f"FAILED ({outcome})" if any(results[cell.id] for cell in here) else outcome


if __name__ == "__main__":
    sys.exit(main())
