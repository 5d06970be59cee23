"""The kubelet's question and our answer: image + settings + "get me a token" -> response."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from provider.image import Image
from provider.realm import claimed_realm_domain, is_ocir
from provider.response import NO_CREDENTIALS, Response, cache_seconds
from provider.settings import INSTANCE_PRINCIPAL, Settings

if TYPE_CHECKING:
    from provider.exchange import Grant


class Reply(NamedTuple):
    """The response, and what it rests on: ``grant`` is None when the registry is not OCIR."""

    response: Response
    grant: "Grant | None"

    def outcome(self) -> tuple[str, dict[str, object]]:
        """How this call ended, for the log: level and fields."""
        if self.grant is None:
            return "info", {"outcome": "not an OCIR host"}
        fields: dict[str, object] = {
            "principal": self.grant.principal,
            "token": "fresh",
            "pull_check": self.grant.check.outcome,
            "cache_seconds": self.response.cache_seconds,
            "token_request_id": self.grant.token.request_id,
        }
        return "info" if self.grant.check.passed else "warning", fields


def reply(
    image: Image,
    settings: Settings,
    instance_realm_domain: Callable[[], str],
    get_grant: Callable[[Image], "Grant"],
) -> Reply:
    """Answer the question for ``image``.

    ``get_grant`` is called for OCI's hosts only, ``instance_realm_domain`` only for a host that has
    the form of OCI's in a realm that no list knows. Raises what they raise.
    """
    if not is_ocir(image.host, settings.ocir_hosts):
        claimed = claimed_realm_domain(image.host)
        by_instance = settings.ocir_auth_method == INSTANCE_PRINCIPAL
        if claimed is None or not by_instance or claimed != instance_realm_domain():
            return Reply(NO_CREDENTIALS, None)
    grant = get_grant(image)
    seconds = cache_seconds(grant.token.life, grant.check.passed)
    return Reply(Response(image.host, settings.default_user, grant.token.text, seconds), grant)
