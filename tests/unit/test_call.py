"""One call with its exchange replaced: which registries get a token, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest

from provider.auth.region import RegionInfo
from provider.errors import TokenRefused
from provider.image import Image
from provider.invocation import Invocation
from provider.log import Log
from provider.net.deadline import Deadline
from provider.ocir.credentials import PULL_STATUSES, PullCheck, RegistryCredentials
from provider.ocir.token import Token
from provider.plugin import call
from provider.plugin.request import Request
from provider.plugin.response import NO_CREDENTIALS, Response
from provider.settings import Settings

if TYPE_CHECKING:
    from provider.ocir.credentials import PullStatus


def respond(
    monkeypatch: pytest.MonkeyPatch, host: str, settings: Settings, status: PullStatus
) -> Response:
    """Return the response for an image of ``host``, on an instance in the realm acme.cloud."""
    found = RegistryCredentials(Token("t", 3600, "id"), "me", PullCheck(status, "x"))
    region = RegionInfo("r-1", "acme.cloud")
    monkeypatch.setattr(call, "get_or_fetch", lambda *_: found)
    monkeypatch.setattr(call, "instance_region", lambda _: region)
    invocation = Invocation(settings, {}, Deadline(5), Log("error"))
    return call.get_response(Request(Image(host, "ns/repo")), invocation)


@pytest.mark.parametrize("status", PULL_STATUSES)
def test_only_a_proven_token_is_cached_long(
    monkeypatch: pytest.MonkeyPatch, status: PullStatus
) -> None:
    response = respond(monkeypatch, "fra.ocir.io", Settings(), status)
    assert response.cache_seconds == (3300 if status == "allowed" else 120)


def test_other_registries_get_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: PullStatus = "allowed"
    user = Settings(ocir_auth_method="USER_PRINCIPAL")
    acme = "ocir.r-1.oci.acme.cloud"
    assert respond(monkeypatch, "docker.io", Settings(), allowed) == NO_CREDENTIALS
    # Only an instance has a metadata service that can confirm the realm.
    assert respond(monkeypatch, acme, user, allowed) == NO_CREDENTIALS
    assert respond(monkeypatch, acme, Settings(), allowed).host == acme


@pytest.mark.parametrize(("error", "logged"), [(ZeroDivisionError(), 0), (TokenRefused("no"), 1)])
def test_only_an_error_of_the_program_is_logged_and_each_is_raised(
    monkeypatch: pytest.MonkeyPatch, error: Exception, logged: int
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(call, "get_or_fetch", fail)
    log = Log("info")
    request = Request(Image("fra.ocir.io", "ns/repo"))
    with pytest.raises(type(error)):
        call.get_response(request, Invocation(Settings(), {}, Deadline(5), log))
    assert len(log.lines) == logged
