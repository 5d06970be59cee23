"""`python -m tests.campaigns.bench [--check] [--hour] [--readme] [--markdown FILE] [--plot FILE]`, inside a test cloud."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from tests.campaigns.bench.hour import NODES, hour
from tests.campaigns.bench.measure import Bench, cloud_control
from tests.campaigns.bench.plot import svg
from tests.campaigns.bench.report import hours, limits, limits_table, markdown, with_figures
from tests.conftest import INSTALLED, ONE_FILE
from tests.support import built


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.bench", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is exceeded")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the tables to this file"
    )
    parser.add_argument("--readme", action="store_true", help="also update the table in README.md")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the storms as SVG")
    parser.add_argument("--rounds", type=int, default=15, help="calls per median")
    parser.add_argument("--storms", type=int, default=3, help="storms per median")
    parser.add_argument(
        "--hour", action="store_true", help="measure only the requests of a node in an hour"
    )
    options = parser.parse_args()
    with closing(Bench(cloud_control())) as bench:
        if options.hour:
            print(_hours(bench))
            return 0
        if options.check and INSTALLED not in (program.name for program in bench.programs):
            parser.error(f"--check needs a form named {INSTALLED!r} in PROGRAMS")
        figures = bench.figures(options.rounds, options.storms)
        text = f"{markdown(figures)}\n\n{_hours(bench)}"
    found = limits(figures) if INSTALLED in figures.forms else []
    if found:
        text += f"\n\nLimits, {INSTALLED} form:\n\n{limits_table(found)}"
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.plot:
        options.plot.write_text(svg(figures))
    if options.readme:
        sizes = {
            ONE_FILE: built.one_file().stat().st_size,
            INSTALLED: sum(
                file.stat().st_size for file in built.tree().rglob("*") if file.is_file()
            ),
        }
        megabytes = {form: size / 1e6 for form, size in sizes.items()}
        readme = built.ROOT / "README.md"
        readme.write_text(with_figures(readme.read_text(), figures, megabytes))
    return 1 if options.check and not all(limit.holds for limit in found) else 0


def _hours(bench: Bench) -> str:
    *_, program, _ = bench.programs
    found = hours([hour(bench, program, node) for node in NODES])
    title = (
        "Requests of a kubelet in an hour, at most (it asks again as soon as a response expires)"
    )
    return f"{title}, {program.name} form:\n\n{found}"


if __name__ == "__main__":
    sys.exit(main())
