"""The kubelet's question and our answer: image + settings + "get me a token" -> response."""

from collections.abc import Callable
from typing import NamedTuple

from provider.image import Image
from provider.ocir.hosts import claimed_realm_domain, is_ocir
from provider.ocir.token import Grant
from provider.plugin.response import NO_CREDENTIALS, Response, cache_seconds
from provider.settings import INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY, Settings


class Reply(NamedTuple):
    """The response, and what it rests on: ``grant`` is None when the registry is not OCIR."""

    response: Response
    grant: Grant | None

    def outcome(self) -> tuple[str, dict[str, object]]:
        """How this call ended, for the log: level and fields."""
        if self.grant is None:
            return "info", {"outcome": "not an OCIR host"}
        fields: dict[str, object] = {
            "principal": self.grant.principal,
            "token": self.grant.source,
            "pull_check": self.grant.check.outcome,
            "registry_code": self.grant.check.code,
            "cache_seconds": self.response.cache_seconds,
            "token_request_id": self.grant.token.request_id,
        }
        return "warning" if self.grant.check.passed is False else "info", fields


def reply(
    image: Image,
    settings: Settings,
    instance_realm_domain: Callable[[], str],
    get_grant: Callable[[], Grant],
) -> Reply:
    """Answer the question for ``image``.

    ``get_grant`` is called for OCI's hosts only, and ``instance_realm_domain`` only for a host that has
    the form of OCI's in a realm that no list knows. Raises what they raise.
    """
    if not is_ocir(image.host, settings.ocir_hosts):
        claimed = claimed_realm_domain(image.host)
        on_a_node = settings.ocir_auth_method in (INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY)
        if claimed is None or not on_a_node or claimed != instance_realm_domain():
            return Reply(NO_CREDENTIALS, None)
    grant = get_grant()
    seconds = cache_seconds(grant.token.life, grant.check.passed is True, grant.age)
    return Reply(Response(image.host, settings.default_user, grant.token.text, seconds), grant)
