"""Write a CredentialProviderConfig for this provider, with comments."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from provider.commands.kubelet_config.match_images import match_images
from provider.commands.kubelet_config.model import (
    CONFIG_API_VERSION,
    FEATURE_GATE,
    PROVIDER_API_VERSION,
    PROVIDER_NAME,
    ConfigError,
    TokenAttributes,
)
from provider.commands.kubelet_config.rules import validate

_HEAD: Final = f"""\
# Tells the kubelet which program has the credentials for which images. Start the kubelet with:
#   --image-credential-provider-config=<this file>
#   --image-credential-provider-bin-dir=<the folder of {PROVIDER_NAME}>
# The kubelet does not start if this file has an error. Check it first:
#   {PROVIDER_NAME} config --validate <this file>
apiVersion: {CONFIG_API_VERSION}
kind: CredentialProviderConfig
providers:
  # The name of the program's file in the bin dir.
  - name: {PROVIDER_NAME}
    apiVersion: {PROVIDER_API_VERSION}
    # The kubelet calls the program for these registries. A * matches within one label: "*.ocir.io"
    # does not match "ocir.eu-frankfurt-1.oci.oraclecloud.com". A pattern with a tag, with https:// or
    # with a * in its path matches nothing.
    matchImages:"""
_CACHE_NOTE: Final = """\
    # The kubelet's cache time for responses without a cacheDuration. This program always sends one."""


def render(
    *,
    realm_domains: Sequence[str] = (),
    hosts: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    token_attributes: TokenAttributes | None = None,
) -> str:
    """A config for this provider in YAML. The same arguments always return the same text.

    ``realm_domains`` and ``hosts`` are arguments of ``match_images``. Raises ConfigError if the kubelet
    would reject the result, or if a host would never match.
    """
    lines = [_HEAD]
    lines += [f"      - {_quoted(each)}" for each in match_images(realm_domains, hosts)]
    lines.append(_CACHE_NOTE)
    lines.append('    defaultCacheDuration: "5m"')
    if env:
        lines.append("    env:")
        for name, value in sorted(env.items()):
            lines += [f"      - name: {_quoted(name)}", f"        value: {_quoted(value)}"]
    if token_attributes is not None:
        lines += _token_lines(token_attributes)
    text = "\n".join(lines) + "\n"
    without_cache_type = token_attributes is not None and not token_attributes.cache_type
    findings = validate(text, kubelet_version="1.33" if without_cache_type else None)
    wrong = [f for f in findings if f.severity == "fatal" or "matchImages" in f.path]
    if wrong:
        raise ConfigError(wrong)
    return text


def _token_lines(token: TokenAttributes) -> Iterator[str]:
    since = "1.34" if token.cache_type else f"1.33, with the feature gate {FEATURE_GATE}"
    yield "    # The kubelet sends the pod's service-account token, so that each workload pulls with its own"
    yield "    # identity. RBAC must allow this audience to the node, with the verb"
    yield "    # request-serviceaccounts-token-audience."
    yield f"    # For kubelet {since}."
    yield "    tokenAttributes:"
    yield f"      serviceAccountTokenAudience: {_quoted(token.audience)}"
    if token.cache_type:
        yield f"      cacheType: {_quoted(token.cache_type)}"
    yield f"      requireServiceAccount: {json.dumps(token.require_service_account)}"


def _quoted(text: str) -> str:
    """A JSON string is also a YAML string."""
    return json.dumps(text, ensure_ascii=False)
