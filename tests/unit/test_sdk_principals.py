"""Principals that the SDK makes."""

from typing import NoReturn

import pytest
from oci import signer

from provider.auth import sdk_principals
from provider.auth.oci_files import ResourceEnvironment, UserProfile
from provider.errors import Terminated
from provider.net.background import Background
from provider.net.deadline import Deadline


def _end(*_: object) -> NoReturn:
    raise Terminated("ended by SIGTERM")


def test_a_signal_is_not_a_fault_of_a_resource_principal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Background, "result", _end)
    with pytest.raises(Terminated):
        sdk_principals.resource_principal(ResourceEnvironment({}), Deadline(5))


def test_a_signal_is_not_a_fault_of_a_user_principal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signer, "load_private_key", _end)
    profile = UserProfile("DEFAULT in a file", {}, session=b"a.b.c", key=b"")
    with pytest.raises(Terminated):
        sdk_principals.user_principal(profile)
