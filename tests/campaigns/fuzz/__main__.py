"""`python -m tests.campaigns.fuzz`: run each target with atheris, in its own process.

It needs atheris (packaging/locks/fuzz.txt) in addition to the packages of the tests. It saves the input of
a crash in build/fuzz and then exits with 1.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

_BUILD = Path("build/fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", help="run only these targets")
    parser.add_argument("--seconds", type=int, default=60, help="time per target")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        fuzz(options.target[0], options.seconds)
        return 0
    from tests.campaigns.fuzz.targets import TARGETS

    failed, total = 0, 0
    print("| target | executions | corpus | edges | seconds | crashes |\n|---|---|---|---|---|---|")
    for name in options.target or TARGETS:
        began = time.monotonic()
        argv = ["-m", "tests.campaigns.fuzz", "--inside", name, "--seconds", str(options.seconds)]
        run = subprocess.run([sys.executable, *argv], stderr=subprocess.PIPE)
        text = run.stderr.decode(errors="replace")
        executions = max(map(int, re.findall(r"^#(\d+)", text, re.M)), default=0)
        edges = max(map(int, re.findall(r" cov: (\d+)", text)), default=0)
        corpus = len(list((_BUILD / name).glob("*")))
        crashes = len(list(_BUILD.glob(f"{name}-*")))
        seconds = time.monotonic() - began
        print(
            f"| {name} | {executions} | {corpus} | {edges} | {seconds:.0f} | {crashes} |",
            flush=True,
        )
        total += executions
        if run.returncode:
            print(text[-4000:], file=sys.stderr)
            failed += 1
    print(f"\n{total} executions, {failed} targets failed")
    return 1 if failed else 0


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process. atheris ends the process."""
    import atheris

    with atheris.instrument_imports(include=["provider"]):
        from tests.campaigns.fuzz.corpus import SEEDS
        from tests.campaigns.fuzz.targets import TARGETS
    corpus = _BUILD / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = ["-max_len=4096", f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024"]
    prefix = f"-artifact_prefix={_BUILD}/{name}-"
    atheris.Setup([sys.argv[0], str(corpus), prefix, *limits], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
