"""The kubelet's rules for a CredentialProviderConfig that was decoded, and the whole verdict.

They are those of k8s.io/kubernetes/pkg/credentialprovider/plugin/config.go in kubelet 1.36.
``Finding.message`` is what the kubelet logs, as near as is known, so that people find it by
searching.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from provider.commands.kubelet_config.decode import (
    CONFIG_SUFFIXES,
    Decoder,
    config_files,
    duplicate_name,
)
from provider.commands.kubelet_config.match_images import pattern_error, pattern_trap
from provider.commands.kubelet_config.model import (
    FEATURE_GATE,
    PROVIDER_API_VERSION,
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
_KEY_NAME: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_DNS_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_SUBDOMAIN: Final = rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"


def validate(text: str, *, kubelet_version: str | None = None) -> list[Finding]:
    """All that the kubelet of this version ("1.33", "v1.34.1"; None: the newest) has against it.

    An empty list means that it starts and that nothing is known against the config. Feature
    gates are taken at their defaults. Raises ValueError for a version that cannot be read.
    """
    version = parse_version(kubelet_version)
    decoder = Decoder(version)
    config = decoder.decode(text)
    findings = decoder.findings
    if config is None:
        return findings
    # A field that could not be decoded is not also reported as missing.
    told = {finding.path for finding in findings}
    return findings + [f for f in _judge(config, version) if f.path not in told]


def validate_directory(
    files: Mapping[str, str], *, kubelet_version: str | None = None
) -> list[Finding]:
    """``validate`` for a directory of configs, given as file names with their texts.

    The kubelet takes a directory since 1.34, and reads of it what ends in .json, .yaml or .yml.
    """
    version = parse_version(kubelet_version)
    if version < (1, 34):
        message = "error reading the config: is a directory"
        return [
            _fatal("", message, "kubelet 1.34 is the first that takes a directory: name a file")
        ]
    findings: list[Finding] = []
    owner: dict[str, str] = {}
    for file in config_files(files):
        decoder = Decoder(version)
        config = decoder.decode(files[file])
        told = {finding.path for finding in decoder.findings}
        found = list(decoder.findings)
        for finding in _judge(config, version) if config else ():
            # A file of the directory may be without providers.
            if finding.path not in told | {"providers"}:
                found.append(finding)
        for provider in config.providers if config else ():
            if owner.setdefault(provider.name, file) != file:
                found.append(duplicate_name(provider.name, f"{owner[provider.name]} has it too"))
        findings += [Finding(f.severity, f"{file}: {f.path}", f.message, f.hint) for f in found]
    if not config_files(files):
        hint = f"put one there whose name ends in {', '.join(CONFIG_SUFFIXES)}"
        findings.append(_fatal("", "no configuration files found in directory", hint))
    elif not owner and not findings:
        findings.extend(_judge(CredentialProviderConfig(), version))
    return findings


def _judge(config: CredentialProviderConfig, version: Version) -> Iterator[Finding]:
    """The kubelet's rules for a config that was decoded."""
    if not config.providers:
        message = "providers: Required value: at least 1 item in plugins is required"
        yield _fatal("providers", message)
    seen: set[str] = set()
    for index, provider in enumerate(config.providers):
        path = f"providers[{index}]"
        yield from _judge_name(provider.name, f"{path}.name")
        if provider.name in seen:
            message = f'providers.name: Duplicate value: "{provider.name}"'
            yield _fatal(f"{path}.name", message, "each name may stand once")
        seen.add(provider.name)
        if not provider.api_version:
            hint = f"add apiVersion: {PROVIDER_API_VERSION}"
            yield _fatal(f"{path}.apiVersion", "providers.apiVersion: Required value", hint)
        elif provider.api_version not in _API_VERSIONS:
            message = f'providers.apiVersion: Unsupported value: "{provider.api_version}"'
            hint = f"write apiVersion: {PROVIDER_API_VERSION}"
            supported = ", ".join(f'"{each}"' for each in _API_VERSIONS)
            yield _fatal(f"{path}.apiVersion", f"{message}: supported values: {supported}", hint)
        yield from _judge_patterns(provider.match_images, f"{path}.matchImages")
        yield from _judge_duration(provider.default_cache_duration, f"{path}.defaultCacheDuration")
        if provider.token_attributes is not None:
            where = f"{path}.tokenAttributes"
            if provider.api_version != PROVIDER_API_VERSION:
                yield _fatal(
                    where,
                    "providers.tokenAttributes: Forbidden: tokenAttributes is only supported "
                    f"for {PROVIDER_API_VERSION} API version",
                    f"write apiVersion: {PROVIDER_API_VERSION} beside it",
                )
            yield from _judge_token(provider.token_attributes, where, version)


def _judge_name(name: str, path: str) -> Iterator[Finding]:
    if not name:
        message = "error inspecting binary executable: is a directory"
        yield _fatal(path, message, "name the program's file in the bin-dir")
    for wrong, reason in (
        ("/" in name, "cannot contain '/'"),
        (" " in name, "cannot contain spaces"),
        (name == ".", "cannot be '.'"),
        (name == "..", "cannot be '..'"),
    ):
        if wrong:
            message = f'providers.name: Invalid value: "{name}": provider name {reason}'
            yield _fatal(path, message, "write the bare name of the file in the bin-dir")


def _judge_patterns(patterns: Sequence[str], path: str) -> Iterator[Finding]:
    if not patterns:
        message = (
            "providers.matchImages: Required value: at least 1 item in matchImages is required"
        )
        yield _fatal(path, message, 'add a pattern, as in "*.ocir.io"')
    for index, pattern in enumerate(patterns):
        where = f"{path}[{index}]"
        if error := pattern_error(pattern):
            message = f'Invalid value: "{pattern}": match image is invalid: {error}'
            hint = "write host, optional port and optional path; * is the only wildcard"
            yield _fatal(where, f"providers.matchImages: {message}", hint)
        elif trap := pattern_trap(pattern):
            yield Finding("warning", where, f'"{pattern}": {trap[0]}', trap[1])


def _judge_duration(seconds: float | None, path: str) -> Iterator[Finding]:
    if seconds is None:
        message = "providers.defaultCacheDuration: Required value"
        yield _fatal(path, message, 'add a duration, as in "5m"')
    elif seconds < 0:
        yield _fatal(
            path,
            f"providers.defaultCacheDuration: Invalid value: {seconds:g}s: "
            "defaultCacheDuration must be greater than or equal to 0",
        )


def _judge_token(token: TokenAttributes, path: str, version: Version) -> Iterator[Finding]:
    where = "providers.tokenAttributes"
    required, optional = token.required_annotation_keys, token.optional_annotation_keys
    if version < (1, 34):
        yield Finding(
            "warning",
            path,
            f"{where}: Forbidden: tokenAttributes is not supported when {FEATURE_GATE} "
            "feature gate is disabled",
            f"kubelet 1.33 exits unless it has --feature-gates={FEATURE_GATE}=true",
        )
    if not token.audience:
        field = "serviceAccountTokenAudience"
        yield _fatal(f"{path}.{field}", f"{where}.{field}: Required value")
    if token.require_service_account is None:
        field = "requireServiceAccount"
        hint = "true: only pods with a service account; false: all pods, some without a token"
        yield _fatal(f"{path}.{field}", f"{where}.{field}: Required value", hint)
    if token.require_service_account is False and required:
        field = "requiredServiceAccountAnnotationKeys"
        message = f"requireServiceAccount cannot be false when {field} is set"
        yield _fatal(f"{path}.{field}", f"{where}.{field}: Forbidden: {message}")
    for field, keys in (
        ("requiredServiceAccountAnnotationKeys", required),
        ("optionalServiceAccountAnnotationKeys", optional),
    ):
        for index, key in enumerate(keys):
            element = f"{path}.{field}[{index}]"
            for reason in _annotation_key_errors(key):
                yield _fatal(element, f'{where}.{field}: Invalid value: "{key}": {reason}')
            if key in keys[:index]:
                yield _fatal(element, f'{where}.{field}: Duplicate value: "{key}"')
    if both := sorted(set(required) & set(optional)):
        listed = ", ".join(f'"{key}"' for key in both)
        message = "annotation keys cannot be both required and optional"
        yield _fatal(path, f"{where}: Invalid value: []string{{{listed}}}: {message}")
    supported = ", ".join(_CACHE_TYPES)
    if not token.cache_type and version >= (1, 34):
        yield _fatal(
            f"{path}.cacheType",
            f"{where}.cacheType: Required value: cacheType is required to be set when "
            f"tokenAttributes is specified. Supported values are: {supported}",
            "required since kubelet 1.34; 1.33 does not know it",
        )
    elif token.cache_type and token.cache_type not in _CACHE_TYPES:
        listed = ", ".join(f'"{each}"' for each in _CACHE_TYPES)
        message = f'Unsupported value: "{token.cache_type}": supported values: {listed}'
        yield _fatal(f"{path}.cacheType", f"{where}.cacheType: {message}")


def _annotation_key_errors(key: str) -> Iterator[str]:
    """Kubernetes' rule for annotation keys: a qualified name, in any case."""
    prefix, slash, name = key.lower().rpartition("/")
    if "/" in prefix:
        yield (
            "a qualified name must consist of alphanumeric characters, '-', '_' or '.', with an "
            "optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        )
        return
    if slash and not prefix:
        yield "prefix part must be non-empty"
    elif slash and (len(prefix) > 253 or not re.fullmatch(_DNS_SUBDOMAIN, prefix)):
        yield (
            "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric "
            "characters, '-' or '.', of no more than 253 characters (e.g. 'example.com')"
        )
    if not name:
        yield "name part must be non-empty"
    elif len(name) > 63:
        yield "name part must be no more than 63 characters"
    elif not re.fullmatch(_KEY_NAME, name):
        yield (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start "
            f"and end with an alphanumeric character (e.g. 'MyName', regex '{_KEY_NAME}')"
        )


def _fatal(path: str, message: str, hint: str = "") -> Finding:
    return Finding("fatal", path, message, hint)
