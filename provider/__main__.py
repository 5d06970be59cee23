"""The entry point: dispatches to the kubelet plugin, the Docker credential helper or the commands."""

from __future__ import annotations

import os
import sys

from provider.errors import Terminated, as_provider_error
from provider.frozen import clean_environment, remove_extraction_dir
from provider.light_typing import TYPE_CHECKING
from provider.plugin.arguments import kubelet_call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn


def main() -> NoReturn:
    """Run the program, then end the process at once, without waiting for its threads."""
    clean_environment()
    code = run(sys.argv[1:], os.environ, os.path.basename(sys.argv[0]))
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                code = code or 1
    remove_extraction_dir()
    os._exit(code)


def run(argv: Sequence[str], environ: Mapping[str, str], name: str = "") -> int:
    """Run the program and return its exit code. This is the only place that catches all errors.

    ``name`` is the file name under which the program was started.
    """
    call = kubelet_call(argv)
    try:
        _harden_process()
        if name.startswith("docker-credential-"):
            from provider.plugin.docker_helper import serve as serve_tool

            _exit_on_signals()
            code, line = serve_tool(argv[0] if len(argv) == 1 else None, environ)
            _write(1, line + "\n")
            return code
        if call is None:
            from provider.commands.cli import run_command

            return run_command(argv)
        from provider.plugin.kubelet import serve as serve_kubelet

        _exit_on_signals()
        output = serve_kubelet(call.settings_file, environ)
        if call.verbose:
            _write(2, "".join(f"{line}\n" for line in output.log))
        _write(1, output.response + "\n")
    except Exception as error:
        verbose = call.verbose if call else "--verbose" in argv
        return _fail(error, verbose)
    return 0


def _harden_process() -> None:
    """Disable core dumps, which would contain the node's key. Ignore the caller's OpenSSL configuration."""
    import resource

    try:
        # Not 0: the kernel pipes a core to a program (systemd-coredump, apport) at any limit except 1
        # (https://github.com/torvalds/linux/blob/v6.12/fs/coredump.c).
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    except ValueError:
        # The hard limit is 0 and cannot be raised. Exclude all memory from a core dump instead. Bytes: text needs
        # the import of a codec.
        try:
            with open("/proc/self/coredump_filter", "wb") as file:
                file.write(b"0")
        except OSError:
            pass
    for name in ("OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES"):
        os.environ.pop(name, None)


def _exit_on_signals() -> None:
    # The C module: importing the Python module takes 3 ms, most of it for enum.
    from _signal import SIGINT, SIGTERM, signal  # type: ignore[import-not-found] # has no types

    def end(number: int, _frame: object) -> NoReturn:
        name = "SIGINT" if number == SIGINT else "SIGTERM"
        raise Terminated(f"ended by {name}")

    signal(SIGTERM, end)
    signal(SIGINT, end)


def _write(fd: int, text: str) -> None:
    # Text from the arguments or the environment may not be valid UTF-8.
    data = text.encode(errors="backslashreplace")
    while data:
        data = data[os.write(fd, data) :]


def _fail(error: Exception, verbose: bool) -> int:
    """Print the error and return the exit code."""
    failure = as_provider_error(error)
    text = failure.line() + "\n"
    if verbose:
        import traceback

        # The place of each error without its message.
        cause: BaseException | None = error
        while cause:
            frames = traceback.format_tb(cause.__traceback__)
            text += (
                f"Traceback of {type(cause).__name__} (most recent call last):\n{''.join(frames)}"
            )
            cause = cause.__cause__
    try:
        _write(2, text)
    except OSError:
        pass
    return failure.exit_code


if __name__ == "__main__":
    main()
