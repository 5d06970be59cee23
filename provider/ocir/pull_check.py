"""The pull check: may a token pull an image?"""

from typing import TYPE_CHECKING

from provider.errors import ProviderError
from provider.image import Image
from provider.ocir.credentials import PullCheck
from provider.ocir.registry_errors import judge
from provider.ocir.token import Token

if TYPE_CHECKING:
    from provider.net.client import Client

# Seconds. The check decides only how long the kubelet caches the token, and other calls wait for it.
_CHECK_SECONDS = 5.0

_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


def check_pull(client: "Client", image: Image, token: Token) -> PullCheck:
    """Ask the registry for the manifest of ``image`` with ``token``.

    Raises no ProviderError: the token exists, and the pull itself shows whether it works. A 200 to HEAD proves
    the pull. An answer to HEAD has no body. After any other status, one GET gets the error code, which shows
    the reason, and whether a 404 proves anything.
    """
    target = f"/v2/{image.repository}/manifests/{image.reference}"
    headers = {"authorization": f"Bearer {token.text}", "accept": _MANIFESTS}
    try:
        for method in ("HEAD", "GET"):
            answer = client.request(
                method, target, lambda: headers, attempts=1, seconds=_CHECK_SECONDS
            )
            if answer.status == 200:
                return PullCheck("allowed", "allowed")
    except ProviderError as error:
        return PullCheck("unclear", f"failed: {error.message}")
    return judge(answer)
