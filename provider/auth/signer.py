"""OCI request signatures, version 1, rsa-sha256
(https://docs.oracle.com/en-us/iaas/Content/API/Concepts/signingrequests.htm).

The SDK's signer produces the same bytes, as a test shows, but it imports requests and urllib3, which takes
about 90 ms. This module needs only the RSA part of cryptography.
"""

import base64
import hashlib
from collections.abc import Mapping
from email.utils import formatdate
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256


class Signer(NamedTuple):
    """Signs requests with ``key``, which OCI finds by ``key_id``. Both are secret.

    ``key_id`` is ``ST$<security token>`` for a principal, ``<tenancy>/<user>/<fingerprint>`` for an API key,
    and ``<tenancy>/fed-x509/<fingerprint>`` for an instance certificate.
    """

    key_id: str
    key: RSAPrivateKey

    def sign_get(self, target: str, host: str) -> dict[str, str]:
        """Return the headers for a GET of ``target`` at ``host``. OCI accepts them for 5 minutes."""
        headers = {"date": formatdate(usegmt=True), "host": host}
        return self._signed("get", target, headers, ("date", "(request-target)", "host"))

    def sign_post(self, target: str, body: bytes) -> dict[str, str]:
        """Return the headers for a POST of a JSON ``body`` to the federation endpoint; they do not cover the
        host.
        """
        headers = {
            "date": formatdate(usegmt=True),
            "content-length": str(len(body)),
            "content-type": "application/json",
            "x-content-sha256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
        }
        covered = ("date", "(request-target)", "content-length", "content-type", "x-content-sha256")
        return self._signed("post", target, headers, covered)

    def _signed(
        self, method: str, target: str, headers: Mapping[str, str], covered: tuple[str, ...]
    ) -> dict[str, str]:
        values = {**headers, "(request-target)": f"{method} {target}"}
        text = "\n".join(f"{name}: {values[name]}" for name in covered)
        signature = base64.b64encode(
            self.key.sign(text.encode("ascii"), PKCS1v15(), SHA256())
        ).decode()
        authorization = (
            f'Signature algorithm="rsa-sha256",headers="{" ".join(covered)}",'
            f'keyId="{self.key_id}",signature="{signature}",version="1"'
        )
        return {**headers, "authorization": authorization}
