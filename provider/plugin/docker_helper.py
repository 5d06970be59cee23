"""The Docker credential helper protocol, which container tools use to ask for credentials.

Docker, Podman, skopeo, buildah, nerdctl, Helm, crane and others run ``docker-credential-<name>`` with an action.
Answers and errors both go to standard output, and the exit code tells them apart. Formats and messages are those
of https://github.com/docker/docker-credential-helpers.
"""

import json
import re
from collections.abc import Mapping

from provider import __version__
from provider.errors import ProviderError
from provider.image import Image
from provider.plugin.call import get_response, read_stdin, start
from provider.plugin.request import Request
from provider.settings import Settings, settings_from_environment

NAME = "docker-credential-ocir"
ACTIONS = ("store", "get", "erase", "list", "version")
# Tools recognize this text, and then pull without credentials.
NOT_FOUND = "credentials not found in native keychain"
NO_SERVER = "no credentials server URL"
STORES_NOTHING = f"{NAME} stores no credentials: it gets them from OCI"
_MAX_BYTES = 1 << 16
_SERVER = re.compile(r"((?P<scheme>[a-z]+)://)?(?P<host>[A-Za-z0-9.-]+(:[0-9]+)?)(/.*)?", re.A)


def serve(action: str | None, environ: Mapping[str, str]) -> tuple[int, str]:
    """Carry out an action. Returns the exit code and a line for standard output."""
    if action == "list":
        return 0, "{}"
    if action == "version":
        return 0, f"{NAME} (oke-credential-provider-for-ocir) {__version__}"
    if action not in ACTIONS:
        usage = f"Usage: {NAME} <{'|'.join(ACTIONS)}>"
        return 1, usage if action is None else f"Unknown credential action `{action}`"
    try:
        return _serve_input(action, settings_from_environment(environ), environ)
    except ProviderError as error:
        return error.exit_code, error.line()


def _serve_input(action: str, settings: Settings, environ: Mapping[str, str]) -> tuple[int, str]:
    invocation = start(settings, environ)
    try:
        # Read it for every action, so that the tool never writes to a closed pipe.
        server = read_stdin(_MAX_BYTES, invocation.deadline).decode("utf-8", "replace").strip()
    except OSError:
        server = ""
    if action != "get":
        return 1, STORES_NOTHING
    if not server:
        return 1, NO_SERVER
    host = _host(server, settings)
    if host is None:
        return 1, NOT_FOUND
    response = get_response(Request(Image(host, "")), invocation)
    if response.host is None:
        return 1, NOT_FOUND
    return 0, json.dumps(
        {"ServerURL": server, "Username": response.username, "Secret": response.password}
    )


def _host(server: str, settings: Settings) -> str | None:
    """Return the registry in ``https://fra.ocir.io/v2/`` or ``fra.ocir.io``; None for any other text.

    A scheme that is not the configured one is refused: the tool might send the credentials unencrypted.
    """
    match = _SERVER.fullmatch(server)
    if match is None or match["scheme"] not in (None, settings.registry_protocol):
        return None
    return match["host"]
