"""The program. Called by the kubelet it answers a request; every other use is in ``provider.cli``."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from provider.errors import BadRequest, ProviderError, Terminated
from provider.frozen import enter, leave

if TYPE_CHECKING:
    from provider.deadline import Deadline
    from provider.exchange import Grant
    from provider.image import Image
    from provider.settings import Settings


class KubeletCall(NamedTuple):
    """The options of a kubelet call."""

    settings_file: str | None
    verbose: bool


def main() -> NoReturn:
    """Entry point: runs, then ends the process at once, whatever threads still wait for."""
    enter()
    code = run(sys.argv[1:], os.environ)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                code = code or 1
    leave()
    os._exit(code)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The program, and the one place where errors are caught. Returns the exit code."""
    call = kubelet_call(argv)
    try:
        if call is None:
            from provider.cli import run_command

            return run_command(argv)
        _write(1, answer(call, environ) + "\n")
    except Exception as error:
        verbose = call.verbose if call else "--verbose" in argv
        return _fail(error, verbose)
    return 0


def kubelet_call(argv: Sequence[str]) -> KubeletCall | None:
    """The options when the kubelet calls; None for a command. ``-config`` is the Go program's form."""
    settings_file, verbose = None, False
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("-config", "--config"):
            settings_file = value if equals else next(words, None)
            if not settings_file:
                return None
        elif word == "--verbose":
            verbose = True
        else:
            return None
    return KubeletCall(settings_file, verbose)


def answer(call: KubeletCall, environ: Mapping[str, str]) -> str:
    """Read the request, answer it, log the call. Returns the response as JSON."""
    started = time.monotonic()
    from provider.deadline import Deadline
    from provider.log import Log
    from provider.plugin import reply
    from provider.request import parse_request
    from provider.settings import settings_from_environment, settings_from_file

    _no_core_dumps()
    settings = (
        settings_from_file(call.settings_file)
        if call.settings_file
        else settings_from_environment(environ)
    )
    log = Log(settings.log_level)
    deadline = Deadline(settings.deadline_seconds)
    fields: dict[str, object] = {}
    try:
        _end_on_signals()
        image = parse_request(_read_request(deadline)).image
        fields = {"registry": image.host, "image": image.repository}
        given = reply(
            image,
            settings,
            lambda: _instance_realm_domain(deadline),
            lambda wanted: _exchange(wanted, settings, deadline, environ),
        )
    except ProviderError as error:
        log.write("error", error.line(), {**fields, "code": error.code, "seconds": _since(started)})
        raise
    level, outcome = given.outcome()
    log.write(level, "call", {**fields, **outcome, "seconds": _since(started)})
    if call.verbose:
        _write(2, "".join(f"{line}\n" for line in log.lines))
    return given.response.to_json()


# These two are imported when an image needs them: every other image's answer comes 10 ms earlier.
def _instance_realm_domain(deadline: "Deadline") -> str:
    from provider.exchange import instance_realm_domain

    return instance_realm_domain(deadline)


def _exchange(
    image: "Image", settings: "Settings", deadline: "Deadline", environ: Mapping[str, str]
) -> "Grant":
    from provider.exchange import exchange

    return exchange(image, settings, deadline, environ)


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.3f}"


def _read_request(deadline: "Deadline") -> bytes:
    """Standard input to its end, or one byte more than a request may have. Raises BadRequest."""
    import select

    from provider.request import MAX_BYTES

    data = b""
    try:
        if os.isatty(0):
            raise BadRequest(
                "standard input is a terminal",
                "The kubelet calls this program with a request on standard input. For people there are"
                " commands: oke-credential-provider --help",
            )
        while len(data) <= MAX_BYTES:
            select.select([0], [], [], deadline.left("reading the request"))
            part = os.read(0, 65536)
            if not part:
                break
            data += part
    except OSError as error:
        raise BadRequest(f"standard input cannot be read: {error.strerror}") from error
    return data


def _no_core_dumps() -> None:
    """A core of this process would hold the node's key."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_on_signals() -> None:
    import signal

    def end(number: int, _frame: object) -> NoReturn:
        raise Terminated(f"ended by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _write(fd: int, text: str) -> None:
    data = text.encode()
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
