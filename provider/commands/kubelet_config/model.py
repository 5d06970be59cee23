"""Types for a CredentialProviderConfig and for findings about one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

PROVIDER_NAME: Final = "oke-credential-provider"
ALIAS: Final = "credential-provider-oke"  # the name in configs of Oracle's Go provider
CONFIG_SUFFIXES: Final = (".json", ".yaml", ".yml")  # the files that a kubelet reads in a directory
CONFIG_API_VERSION: Final = "kubelet.config.k8s.io/v1"
PROVIDER_API_VERSION: Final = "credentialprovider.kubelet.k8s.io/v1"
FEATURE_GATE: Final = "KubeletServiceAccountTokenForCredentialProviders"

Version = tuple[int, int]
NEWEST: Final[Version] = (1, 36)  # the newest kubelet whose rules are known

Severity = Literal["fatal", "error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem in a config.

    ``severity`` "fatal": the kubelet exits at its start. "error": it starts, but pulls from OCIR
    fail. "warning": the config does not do what its author intended. ``path`` is the field, for
    example "providers[0].matchImages[2]", after the file's name in a directory; "" is the whole file.
    """

    severity: Severity
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(ValueError):
    """A config that the kubelet rejects, or that cannot work. ``findings`` says why."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(map(str, findings)))
        self.findings = tuple(findings)


@dataclass(frozen=True, slots=True)
class TokenAttributes:
    """``tokenAttributes`` (KEP-4412): the kubelet sends the pod's service-account token.

    ``cache_type`` is required since kubelet 1.34, and must be "" for 1.33, which does not know it.
    """

    audience: str
    cache_type: str = "ServiceAccount"
    require_service_account: bool | None = True
    required_annotation_keys: tuple[str, ...] = ()
    optional_annotation_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CredentialProvider:
    """An entry of ``providers``. ``default_cache_duration`` is in seconds; None if missing."""

    name: str
    match_images: tuple[str, ...]
    default_cache_duration: float | None
    api_version: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    token_attributes: TokenAttributes | None = None


@dataclass(frozen=True, slots=True)
class CredentialProviderConfig:
    """The config that the kubelet decodes from a file or a directory."""

    providers: tuple[CredentialProvider, ...] = ()


def parse_version(text: str | None) -> Version:
    """(1, 34) for "1.34" or "v1.34.1"; the newest known version for None. Raises ValueError."""
    if text is None:
        return NEWEST
    match = re.match(r"v?([0-9]+)\.([0-9]+)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a kubelet version such as 1.34")
    return int(match[1]), int(match[2])
