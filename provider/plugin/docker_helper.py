"""The docker credential helper protocol: how container tools ask for a registry's credentials.

Docker, podman, skopeo, buildah, nerdctl, helm, crane and others start ``docker-credential-<name>``
with an action; texts and forms are those of github.com/docker/docker-credential-helpers: answers
and errors both go to standard output, and the exit code tells them apart.
"""

import json
import re
from collections.abc import Mapping

from provider import __version__
from provider.errors import ProviderError
from provider.image import Image
from provider.plugin.call import Call, standard_input
from provider.plugin.request import Request
from provider.settings import Settings, settings_from_environment

NAME = "docker-credential-ocir"
ACTIONS = ("store", "get", "erase", "list", "version")
# Tools know it by this text, and then ask without credentials.
NOT_FOUND = "credentials not found in native keychain"
NO_SERVER = "no credentials server URL"
STORES_NOTHING = f"{NAME} stores nothing: it asks OCI for new credentials each time"
_MAX_BYTES = 1 << 16
_SERVER = re.compile(r"((?P<scheme>[a-z]+)://)?(?P<host>[A-Za-z0-9.-]+(:[0-9]+)?)(/.*)?", re.A)


def serve(action: str | None, environ: Mapping[str, str]) -> tuple[int, str]:
    """Do what a tool asks for. Returns the exit code, and a line for standard output."""
    if action == "list":
        return 0, "{}"
    if action == "version":
        return 0, f"{NAME} (oke-credential-provider-for-ocir) {__version__}"
    if action not in ACTIONS:
        usage = f"Usage: {NAME} <{'|'.join(ACTIONS)}>"
        return 1, usage if action is None else f"Unknown credential action `{action}`"
    try:
        return _with_input(action, settings_from_environment(environ), environ)
    except ProviderError as error:
        return error.exit_code, error.line()


def _with_input(action: str, settings: Settings, environ: Mapping[str, str]) -> tuple[int, str]:
    call = Call(settings, environ)
    try:
        # Also what is not wanted: who writes it must not meet a closed pipe.
        server = standard_input(_MAX_BYTES, call.deadline).decode("utf-8", "replace").strip()
    except OSError:
        server = ""
    if action != "get":
        return 1, STORES_NOTHING
    if not server:
        return 1, NO_SERVER
    host = _host(server, settings)
    if host is None:
        return 1, NOT_FOUND
    given = call.reply(lambda: Request(Image(host, "")))
    if given.grant is None:
        return 1, NOT_FOUND
    response = given.response
    return 0, json.dumps(
        {"ServerURL": server, "Username": response.username, "Secret": response.password}
    )


def _host(server: str, settings: Settings) -> str | None:
    """The registry in ``https://fra.ocir.io/v2/`` or ``fra.ocir.io``; None when it is none of ours.

    A tool that asks for another scheme would send the credentials unencrypted.
    """
    match = _SERVER.fullmatch(server)
    if match is None or match["scheme"] not in (None, settings.registry_protocol):
        return None
    return match["host"]
