"""`python -m tests.campaigns.bench [--check] [--hour] [--markdown FILE] [--plot FILE]`, inside a test cloud."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from tests.campaigns.bench.hour import NODES, hour
from tests.campaigns.bench.measure import Bench, cloud_control
from tests.campaigns.bench.plot import svg
from tests.campaigns.bench.report import bars, bars_table, hours, markdown
from tests.conftest import INSTALLED


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.bench", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the storms as SVG")
    parser.add_argument("--rounds", type=int, default=15, help="calls behind each median")
    parser.add_argument("--storms", type=int, default=3, help="storms behind each median")
    parser.add_argument("--hour", action="store_true", help="only what a node asks in an hour")
    options = parser.parse_args()
    with closing(Bench(cloud_control())) as bench:
        if options.hour:
            print(_hours(bench))
            return 0
        if options.check and INSTALLED not in (program.name for program in bench.programs):
            parser.error(f"--check needs a form named {INSTALLED!r} in PROGRAMS")
        figures = bench.figures(options.rounds, options.storms)
        text = f"{markdown(figures)}\n\n{_hours(bench)}"
    found = bars(figures) if INSTALLED in figures.forms else []
    if found:
        text += f"\n\nBars, {INSTALLED} form:\n\n{bars_table(found)}"
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.plot:
        options.plot.write_text(svg(figures))
    return 1 if options.check and not all(bar.holds for bar in found) else 0


def _hours(bench: Bench) -> str:
    *_, program, _ = bench.programs
    found = hours([hour(bench, program, node) for node in NODES])
    asked = "What a kubelet asks in an hour, at the most (each image again as soon as its answer expires)"
    return f"{asked}, {program.name} form:\n\n{found}"


if __name__ == "__main__":
    sys.exit(main())
