"""The kubelet's CredentialProviderConfig: write, decode and validate it. No I/O."""

from provider.commands.kubelet_config.decode import load, merge
from provider.commands.kubelet_config.entry import (
    Merged,
    entry_digest,
    entry_json,
    file_for_entry,
    find_entry,
    merge_entry,
    remove_entry,
)
from provider.commands.kubelet_config.go_duration import parse_go_duration
from provider.commands.kubelet_config.match_images import (
    match_images,
    matches,
    may_match_ocir,
    patterns_that_match,
    providers_for,
    suggest_pattern,
)
from provider.commands.kubelet_config.model import (
    ALIAS,
    CONFIG_SUFFIXES,
    PROVIDER_NAME,
    ConfigError,
    CredentialProvider,
    CredentialProviderConfig,
    Finding,
    TokenAttributes,
    parse_version,
)
from provider.commands.kubelet_config.render import render
from provider.commands.kubelet_config.rules import fields_with_nul, validate, validate_directory

__all__ = [
    "ALIAS",
    "CONFIG_SUFFIXES",
    "PROVIDER_NAME",
    "ConfigError",
    "CredentialProvider",
    "CredentialProviderConfig",
    "Finding",
    "Merged",
    "TokenAttributes",
    "entry_digest",
    "entry_json",
    "fields_with_nul",
    "file_for_entry",
    "find_entry",
    "load",
    "match_images",
    "matches",
    "may_match_ocir",
    "merge",
    "merge_entry",
    "parse_go_duration",
    "parse_version",
    "patterns_that_match",
    "providers_for",
    "remove_entry",
    "render",
    "suggest_pattern",
    "validate",
    "validate_directory",
]
