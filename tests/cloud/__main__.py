"""`python -m tests.cloud [--latency-ms N] -- COMMAND...`: run a command in a new cloud.

The command keeps the caller's environment, directory and terminal. CLOUD_CONTROL is the path of the
control socket, so that a script inside can control the stand-in with `Control(Path(...))`.
"""

import argparse
import os
import subprocess
import sys

from tests.cloud.harness import Cloud

# These variables would hide the CA certificates of the namespace from the command.
_HIDING = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cloud", description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="delay of each answer")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command")
    environment = {k: v for k, v in os.environ.items() if k not in _HIDING}
    with Cloud() as cloud:
        cloud.control.latency(options.latency_ms)
        environment["CLOUD_CONTROL"] = str(cloud.ns.folder / "control")
        argv = cloud.ns.command(command, cwd=os.getcwd())
        return subprocess.run(argv, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
