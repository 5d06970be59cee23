"""The place that catches all errors."""

import pytest

from provider import __main__ as main
from provider.plugin import kubelet

SECRET = "eyJhbGciOiJSUzI1NiJ9.secret"


def test_a_traceback_shows_places_and_no_message(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def serve(*_: object) -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(f"bad token {SECRET}") from error

    monkeypatch.setattr(kubelet, "serve", serve)
    # They change this process for good.
    monkeypatch.setattr(main, "_harden_process", lambda: None)
    monkeypatch.setattr(main, "_exit_on_signals", lambda: None)
    assert main.run(["--verbose"], {}) == 70
    text = capfd.readouterr().err
    assert text.startswith("oke-credential-provider: internal: unexpected ValueError | ")
    assert "Traceback of KeyError" in text
    assert "test_main.py" in text
    assert SECRET not in text
