"""What a CredentialProviderConfig holds, and what there is to say against one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

PROVIDER_NAME: Final = "oke-credential-provider"
ALIAS: Final = "credential-provider-oke"  # in the configs of Oracle's Go provider
CONFIG_API_VERSION: Final = "kubelet.config.k8s.io/v1"
PROVIDER_API_VERSION: Final = "credentialprovider.kubelet.k8s.io/v1"
FEATURE_GATE: Final = "KubeletServiceAccountTokenForCredentialProviders"

Version = tuple[int, int]
NEWEST: Final[Version] = (1, 36)  # the newest kubelet whose rules are known

Severity = Literal["fatal", "error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a config.

    ``severity`` "fatal": the kubelet exits at its start. "error": it starts, but pulls from OCIR
    fail. "warning": the config does not do what its writer meant. ``path`` is the field, as in "providers[0].matchImages[2]",
    behind the file's name when a directory was judged; "" is the whole text.
    """

    severity: Severity
    path: str
    message: str
    hint: str = ""


class ConfigError(ValueError):
    """The kubelet would refuse this config, or it cannot do its job. ``findings`` says why."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(f"{f.path}: {f.message}".removeprefix(": ") for f in findings))
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True)
class TokenAttributes:
    """``tokenAttributes`` (KEP-4412): the kubelet sends the pod's service-account token along.

    ``cache_type`` is required since kubelet 1.34 and must be "" for 1.33, which does not know it.
    """

    audience: str
    cache_type: str = "ServiceAccount"
    require_service_account: bool | None = True
    required_annotation_keys: tuple[str, ...] = ()
    optional_annotation_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CredentialProvider:
    """One entry of ``providers``; ``default_cache_duration`` in seconds, None when not given."""

    name: str
    match_images: tuple[str, ...]
    default_cache_duration: float | None
    api_version: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    token_attributes: TokenAttributes | None = None


@dataclass(frozen=True, slots=True)
class CredentialProviderConfig:
    """What the kubelet makes of a file, or of a directory of files."""

    providers: tuple[CredentialProvider, ...] = ()


def parse_version(text: str | None) -> Version:
    """(1, 34) of "1.34" or "v1.34.1"; None is the newest known. Raises ValueError."""
    if text is None:
        return NEWEST
    match = re.match(r"v?([0-9]+)\.([0-9]+)", text)
    if match is None:
        raise ValueError(f"{text!r} is no kubelet version such as 1.34")
    return int(match[1]), int(match[2])
