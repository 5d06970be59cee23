"""Validate a decoded CredentialProviderConfig by the kubelet's rules, and report likely mistakes.

The rules are those of k8s.io/kubernetes/pkg/credentialprovider/plugin/config.go at v1.36.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from provider.commands.kubelet_config.decode import Decoder, config_files, duplicate_name
from provider.commands.kubelet_config.match_images import pattern_error, pattern_trap
from provider.commands.kubelet_config.model import (
    CONFIG_SUFFIXES,
    FEATURE_GATE,
    PROVIDER_API_VERSION,
    CredentialProvider,
    CredentialProviderConfig,
    Finding,
    TokenAttributes,
    Version,
    parse_version,
)

_API_VERSIONS: Final = tuple(
    f"credentialprovider.kubelet.k8s.io/{version}" for version in ("v1", "v1alpha1", "v1beta1")
)
_CACHE_TYPES: Final = ("ServiceAccount", "Token")
_REQUIRED_KEYS: Final = "requiredServiceAccountAnnotationKeys"
_OPTIONAL_KEYS: Final = "optionalServiceAccountAnnotationKeys"
_MISSING: Final = "required field is missing"
_KEY_NAME: Final = "([a-z0-9][-a-z0-9_.]*)?[a-z0-9]"
_DNS_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_SUBDOMAIN: Final = rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"


def validate(text: str, *, kubelet_version: str | None = None) -> list[Finding]:
    """Everything wrong with a config for this kubelet version ("1.33", "v1.34.1"; None: the newest).

    An empty list means that the kubelet starts and that no mistake is known. Feature gates have their
    defaults. Raises ValueError for a malformed version.
    """
    return _judge_text(text, parse_version(kubelet_version))[1]


def _judge_text(
    text: str, version: Version
) -> tuple[CredentialProviderConfig | None, list[Finding]]:
    decoder = Decoder(version)
    config = decoder.decode(text)
    # Do not report a field twice: a field of the wrong type also looks missing.
    paths = {finding.path for finding in decoder.findings}
    found = [f for f in _judge(config, version) if f.path not in paths] if config else []
    return config, [*decoder.findings, *found]


def validate_directory(
    files: Mapping[str, str], *, kubelet_version: str | None = None
) -> list[Finding]:
    """``validate`` for a directory, as file names and texts.

    Kubelets since 1.34 accept a directory, and read its .json, .yaml and .yml files.
    """
    version = parse_version(kubelet_version)
    if version < (1, 34):
        return [_fatal("", "a directory needs kubelet 1.34 or newer", "name a file")]
    findings: list[Finding] = []
    owner: dict[str, str] = {}
    for file in config_files(files):
        config, found = _judge_text(files[file], version)
        # A single file may have no providers.
        found = [f for f in found if f.path != "providers" or f.message != _MISSING]
        for provider in config.providers if config else ():
            if owner.setdefault(provider.name, file) != file:
                found.append(duplicate_name(provider.name, f"{owner[provider.name]} has it too"))
        findings += [Finding(f.severity, f"{file}: {f.path}", f.message, f.hint) for f in found]
    if not config_files(files):
        hint = f"add a file whose name ends in {', '.join(CONFIG_SUFFIXES)}"
        findings.append(_fatal("", "the directory has no config files", hint))
    elif not owner and not findings:
        findings.extend(_judge(CredentialProviderConfig(), version))
    return findings


def fields_with_nul(provider: CredentialProvider) -> list[str]:
    """The fields that execve(2) cannot pass to the program. The kubelet accepts them at its start."""
    fields = [(f"args[{index}]", text) for index, text in enumerate(provider.args)]
    for index, (name, value) in enumerate(provider.env):
        fields += [(f"env[{index}].name", name), (f"env[{index}].value", value)]
    return [field for field, text in fields if "\0" in text]


def _judge(config: CredentialProviderConfig, version: Version) -> Iterator[Finding]:
    if not config.providers:
        yield _fatal("providers", _MISSING, "add a provider")
    names: set[str] = set()
    for index, provider in enumerate(config.providers):
        path = f"providers[{index}]"
        yield from _judge_name(provider.name, f"{path}.name")
        if provider.name in names:
            hint = "each provider needs its own name"
            yield _fatal(f"{path}.name", f'duplicate provider name "{provider.name}"', hint)
        names.add(provider.name)
        if provider.api_version not in _API_VERSIONS:
            wrong = f'unknown version "{provider.api_version}"'
            hint = f"write apiVersion: {PROVIDER_API_VERSION}"
            yield _fatal(f"{path}.apiVersion", wrong if provider.api_version else _MISSING, hint)
        yield from _judge_patterns(provider.match_images, f"{path}.matchImages")
        yield from _judge_duration(provider.default_cache_duration, f"{path}.defaultCacheDuration")
        if provider.token_attributes is not None:
            where = f"{path}.tokenAttributes"
            if provider.api_version != PROVIDER_API_VERSION:
                message = "needs v1 of the provider's apiVersion"
                yield _fatal(where, message, f"write apiVersion: {PROVIDER_API_VERSION}")
            yield from _judge_token(provider.token_attributes, where, version)


def _judge_name(name: str, path: str) -> Iterator[Finding]:
    hint = "write the name of the program's file in the bin dir"
    if not name:
        yield _fatal(path, _MISSING, hint)
    for character, label in (("/", "a slash"), (" ", "a space"), ("\0", "a NUL character")):
        if character in name:
            yield _fatal(path, f"the name contains {label}", hint)
    if name in (".", ".."):
        yield _fatal(path, f'the name cannot be "{name}"', hint)


def _judge_patterns(patterns: Sequence[str], path: str) -> Iterator[Finding]:
    if not patterns:
        yield _fatal(path, _MISSING, 'add a pattern, for example "*.ocir.io"')
    for index, pattern in enumerate(patterns):
        where = f"{path}[{index}]"
        if error := pattern_error(pattern):
            hint = "write a host, an optional port and an optional path; * is the only wildcard"
            yield _fatal(where, f'"{pattern}": {error}', hint)
        elif trap := pattern_trap(pattern):
            yield Finding("warning", where, f'"{pattern}": {trap[0]}', trap[1])


def _judge_duration(seconds: float | None, path: str) -> Iterator[Finding]:
    if seconds is None:
        yield _fatal(path, _MISSING, 'add a duration, for example "5m"')
    elif seconds < 0:
        yield _fatal(path, "the duration is negative")


def _judge_token(token: TokenAttributes, path: str, version: Version) -> Iterator[Finding]:
    required, optional = token.required_annotation_keys, token.optional_annotation_keys
    if version < (1, 34):
        hint = f"kubelet 1.33 exits unless it has --feature-gates={FEATURE_GATE}=true"
        yield Finding("warning", path, f"needs the feature gate {FEATURE_GATE}", hint)
    if not token.audience:
        yield _fatal(f"{path}.serviceAccountTokenAudience", _MISSING)
    if token.require_service_account is None:
        hint = "true: only pods with a service account; false: all pods, some without a token"
        yield _fatal(f"{path}.requireServiceAccount", _MISSING, hint)
    if token.require_service_account is False and required:
        yield _fatal(f"{path}.{_REQUIRED_KEYS}", "needs requireServiceAccount: true")
    for field, keys in ((_REQUIRED_KEYS, required), (_OPTIONAL_KEYS, optional)):
        for index, key in enumerate(keys):
            element = f"{path}.{field}[{index}]"
            if error := _annotation_key_error(key):
                yield _fatal(element, f'"{key}" is not an annotation key: {error}')
            if key in keys[:index]:
                yield _fatal(element, f'duplicate annotation key "{key}"')
    if both := sorted(set(required) & set(optional)):
        yield _fatal(path, f"annotation keys are both required and optional: {', '.join(both)}")
    where = f"{path}.cacheType"
    if not token.cache_type and version >= (1, 34):
        yield _fatal(where, _MISSING, f"write {' or '.join(_CACHE_TYPES)}; kubelet 1.33 rejects it")
    elif token.cache_type and token.cache_type not in _CACHE_TYPES:
        message = f'unknown cache type "{token.cache_type}"'
        yield _fatal(where, message, f"write {' or '.join(_CACHE_TYPES)}")


def _annotation_key_error(key: str) -> str | None:
    """Why Kubernetes rejects an annotation key: it must be a qualified name, in any case."""
    prefix, slash, name = key.lower().rpartition("/")
    if slash and (len(prefix) > 253 or not re.fullmatch(_DNS_SUBDOMAIN, prefix)):
        return "the part before / must be a DNS name of up to 253 characters"
    if len(name) > 63 or not re.fullmatch(_KEY_NAME, name):
        return (
            "the name must be 1 to 63 letters, digits, '-', '_' or '.', and begin and end with a letter"
            " or digit"
        )
    return None


def _fatal(path: str, message: str, hint: str = "") -> Finding:
    return Finding("fatal", path, message, hint)
