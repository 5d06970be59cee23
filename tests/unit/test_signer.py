"""Signed requests compared with the SDK's signers."""

import json
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from oci.signer import AbstractBaseSigner

from provider.auth import signer as signer_module
from provider.auth.signer import Signer


class SdkSigner(AbstractBaseSigner):  # type: ignore[misc] # the SDK has no types
    """The SDK's signer for a given key."""

    def __init__(self, signer: Signer, headers: list[str], body_headers: list[str]) -> None:
        self.create_signers(signer.key_id, signer.key, headers, body_headers)


def test_a_get_has_the_sdks_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer("ST$abc", generate_private_key(65537, 2048))
    date = formatdate(usegmt=True)
    monkeypatch.setattr(signer_module, "formatdate", lambda usegmt: date)
    path, host = "/20180419/docker/token", "fra.ocir.io"
    theirs = SimpleNamespace(
        method="GET", url=f"https://{host}{path}", path_url=path, body=None, headers={"date": date}
    )
    SdkSigner(signer, ["date", "(request-target)", "host"], []).do_request_sign(theirs)
    assert signer.sign_get(path, host)["authorization"] == theirs.headers["authorization"]


def test_a_federation_post_has_the_sdks_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer("t/fed-x509/AA:BB", generate_private_key(65537, 2048))
    date = formatdate(usegmt=True)
    monkeypatch.setattr(signer_module, "formatdate", lambda usegmt: date)
    body = json.dumps({"certificate": "x"}).encode()
    theirs = SimpleNamespace(
        method="POST",
        url="https://auth.eu-frankfurt-1.oraclecloud.com/v1/x509",
        path_url="/v1/x509",
        body=body,
        headers={
            "date": date,
            "content-type": "application/json",
            "content-length": str(len(body)),
        },
    )
    covered = ["content-length", "content-type", "x-content-sha256"]
    SdkSigner(signer, ["date", "(request-target)"], covered).do_request_sign(theirs)
    ours = signer.sign_post("/v1/x509", body)
    assert ours["authorization"] == theirs.headers["authorization"]
    assert ours["x-content-sha256"] == theirs.headers["x-content-sha256"]
