"""CredentialProviderRequest (https://kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1/)."""

from __future__ import annotations

from provider.errors import BadRequest
from provider.image import Image, parse_image
from provider.light_json import loads
from provider.light_typing import NamedTuple

API_VERSION = "credentialprovider.kubelet.k8s.io/v1"
KIND = "CredentialProviderRequest"
MAX_BYTES = 1 << 20


class Request(NamedTuple):
    """The fields of a request that this program uses.

    ``service_account_token`` is secret: a JWT of the pod's service account, if the config has tokenAttributes.
    The account's annotations are ignored: a user who may edit them must gain nothing.
    """

    image: Image
    service_account_token: str | None = None


def parse_request(data: bytes) -> Request:
    """Parse a request. Unknown fields are ignored, because newer kubelets add some. Raises BadRequest."""
    if len(data) > MAX_BYTES:
        raise BadRequest(f"the request is larger than {MAX_BYTES} bytes")
    if not data.strip():
        raise BadRequest("there is no request on standard input")
    try:
        content = loads(data)
    except (ValueError, RecursionError) as error:
        # Without the parser's message, which may quote a service-account token.
        raise BadRequest("the request is not JSON") from error
    if not isinstance(content, dict):
        raise BadRequest("the request is not a JSON object")
    for field, expected in (("kind", KIND), ("apiVersion", API_VERSION)):
        if content.get(field) != expected:
            raise BadRequest(
                f"the request's {field} is {str(content.get(field))[:100]!r}, not {expected!r}"
            )
    image = content.get("image")
    if not isinstance(image, str) or not image:
        raise BadRequest("the request names no image")
    # Parsed later (provider.auth.service_account): with an instance principal, a bad token does no harm.
    token = content.get("serviceAccountToken")
    return Request(parse_image(image), token if isinstance(token, str) and token else None)
