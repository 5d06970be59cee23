"""The program. Called by the kubelet it answers a request; every other use is in ``provider.commands.cli``."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from provider.errors import ProviderError, Terminated
from provider.frozen import enter, leave
from provider.plugin.arguments import kubelet_call


def main() -> NoReturn:
    """Entry point: runs, then ends the process at once, whatever threads still wait for."""
    enter()
    code = run(sys.argv[1:], os.environ, os.path.basename(sys.argv[0]))
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                code = code or 1
    leave()
    os._exit(code)


def run(argv: Sequence[str], environ: Mapping[str, str], name: str = "") -> int:
    """The program, and the one place where errors are caught. Returns the exit code.

    ``name`` is the one it was started by.
    """
    call = kubelet_call(argv)
    try:
        _close_side_doors()
        if name.startswith("docker-credential-"):
            from provider.plugin.docker_helper import serve

            _end_on_signals()
            code, line = serve(argv[0] if len(argv) == 1 else None, environ)
            _write(1, line + "\n")
            return code
        if call is None:
            from provider.commands.cli import run_command

            return run_command(argv)
        from provider.plugin.kubelet import answer

        _end_on_signals()
        outcome = answer(call.settings_file, environ)
        if call.verbose:
            _write(2, "".join(f"{line}\n" for line in outcome.log))
        _write(1, outcome.response + "\n")
    except Exception as error:
        verbose = call.verbose if call else "--verbose" in argv
        return _fail(error, verbose)
    return 0


def _close_side_doors() -> None:
    """No core dumps, which would hold the node's key; no OpenSSL but the one that we brought."""
    import resource
    from contextlib import suppress

    try:
        # Not 0: a core that goes to a program (systemd's, apport's) is made at any limit but 1
        # (fs/coredump.c).
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    except ValueError:
        # The limit is 0, and this process may not raise it: such a core holds no memory at least.
        with suppress(OSError), open("/proc/self/coredump_filter", "w", encoding="ascii") as file:
            file.write("0")
    for name in ("OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES"):
        os.environ.pop(name, None)


def _end_on_signals() -> None:
    import signal

    def end(number: int, _frame: object) -> NoReturn:
        raise Terminated(f"ended by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _write(fd: int, text: str) -> None:
    # What came in by argv or the environment may be no UTF-8.
    data = text.encode(errors="backslashreplace")
    while data:
        data = data[os.write(fd, data) :]


def _fail(error: Exception, verbose: bool) -> int:
    """Say what failed, first line first. Returns the exit code."""
    from contextlib import suppress

    if isinstance(error, ProviderError):
        failure = error
    else:
        # Only the type: the text of an unexpected exception may quote anything.
        failure = ProviderError(f"unexpected {type(error).__name__}")
    text = failure.line() + "\n"
    if verbose:
        import traceback

        text += "".join(traceback.format_exception(error))
    with suppress(OSError):
        _write(2, text)
    return failure.exit_code


if __name__ == "__main__":
    main()
