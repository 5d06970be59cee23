"""Decode a CredentialProviderConfig as strictly as the kubelet does.

The fields are those of k8s.io/kubelet/config/v1/types.go.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from provider.commands.kubelet_config.document import Object, json_kind, read
from provider.commands.kubelet_config.go_duration import parse_go_duration
from provider.commands.kubelet_config.model import (
    CONFIG_API_VERSION,
    CONFIG_SUFFIXES,
    NEWEST,
    ConfigError,
    CredentialProvider,
    CredentialProviderConfig,
    Finding,
    TokenAttributes,
    Version,
)

_API_VERSIONS: Final = tuple(
    f"kubelet.config.k8s.io/{version}" for version in ("v1", "v1alpha1", "v1beta1")
)
# Each type's fields and their types.
_FIELDS: Final[dict[str, dict[str, str]]] = {
    "CredentialProviderConfig": {
        "kind": "string",
        "apiVersion": "string",
        "providers": "[]CredentialProvider",
    },
    "CredentialProvider": {
        "name": "string",
        "matchImages": "[]string",
        "defaultCacheDuration": "Duration",
        "apiVersion": "string",
        "args": "[]string",
        "env": "[]ExecEnvVar",
        "tokenAttributes": "ServiceAccountTokenAttributes",
    },
    "ExecEnvVar": {"name": "string", "value": "string"},
    "ServiceAccountTokenAttributes": {
        "serviceAccountTokenAudience": "string",
        "cacheType": "string",
        "requireServiceAccount": "bool",
        "requiredServiceAccountAnnotationKeys": "[]string",
        "optionalServiceAccountAnnotationKeys": "[]string",
    },
}
# The kubelet versions that introduced fields. All other fields are older than 1.26.
_SINCE: Final[dict[str, Version]] = {"tokenAttributes": (1, 33), "cacheType": (1, 34)}


def load(text: str) -> CredentialProviderConfig:
    """Decode a config as the newest kubelet does. Raises ConfigError if the kubelet rejects it."""
    decoder = Decoder(NEWEST)
    config = decoder.decode(text)
    fatal = [finding for finding in decoder.findings if finding.severity == "fatal"]
    if config is None or fatal:
        raise ConfigError(fatal)
    return config


def merge(files: Mapping[str, str]) -> CredentialProviderConfig:
    """Merge the files of a directory, by name, as kubelet 1.34 and newer do.

    Raises ConfigError as ``load`` does, and for duplicate provider names.
    """
    providers: dict[str, CredentialProvider] = {}
    for file in config_files(files):
        for provider in load(files[file]).providers:
            if provider.name in providers:
                raise ConfigError([duplicate_name(provider.name, f"{file} repeats it")])
            providers[provider.name] = provider
    return CredentialProviderConfig(tuple(providers.values()))


def config_files(files: Mapping[str, str]) -> list[str]:
    """The names of the files that a kubelet reads, in its order."""
    return sorted(file for file in files if file.endswith(CONFIG_SUFFIXES))


def duplicate_name(name: str, hint: str) -> Finding:
    """A finding about two providers with the same name."""
    return Finding("fatal", "providers", f'duplicate provider name "{name}"', hint)


class Decoder:
    """The kubelet's strict decoder. ``findings`` has the problems that it found."""

    def __init__(self, version: Version) -> None:
        self.findings: list[Finding] = []
        self._version = version
        self._token_attributes = False

    def decode(self, text: str) -> CredentialProviderConfig | None:
        """Decode as much of the config as possible; None if the text is not a config."""
        try:
            document = read(text)
        except ValueError as error:
            self._reject("", str(error))
            return None
        if document.more_documents:
            message = "the kubelet reads only the first YAML document and ignores the others"
            hint = "remove the --- between them, and put all providers into one list"
            self.findings.append(Finding("warning", "", message, hint))
        if not self._is_config(document.value):
            return None
        fields = self._struct("CredentialProviderConfig", document.value, "")
        return CredentialProviderConfig(tuple(map(_provider, fields.get("providers") or ())))

    def _reject(self, path: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding("fatal", path, message, hint))

    def _is_config(self, document: Any) -> bool:
        if document is not None and not isinstance(document, Object):
            self._reject("", f"the file must be an object, not {json_kind(document)}")
            return False
        # For these two fields, the kubelet first ignores upper and lower case.
        values = {key.lower(): value for key, value in document or Object()}
        kind, api_version = values.get("kind"), values.get("apiversion")
        for field, value in (("kind", kind), ("apiVersion", api_version)):
            if value is not None and not isinstance(value, str):
                self._reject(field, f"must be a string, not {json_kind(value)}")
                return False
        if not kind:
            self._reject("kind", "Object 'Kind' is missing", "add kind: CredentialProviderConfig")
        elif not api_version:
            hint = f"add apiVersion: {CONFIG_API_VERSION}"
            self._reject("apiVersion", "Object 'apiVersion' is missing", hint)
        elif kind != "CredentialProviderConfig":
            self._reject("kind", f'unknown kind "{kind}"', "write kind: CredentialProviderConfig")
        elif api_version not in _API_VERSIONS:
            hint = f"write apiVersion: {CONFIG_API_VERSION}"
            self._reject("apiVersion", f'unknown version "{api_version}"', hint)
        else:
            # Only v1 of the config has the field.
            self._token_attributes = api_version == CONFIG_API_VERSION
            return True
        return False

    def _struct(self, type_: str, document: Object, path: str) -> dict[str, Any]:
        known = _FIELDS[type_]
        values: dict[str, Any] = {}
        for key, value in document:
            where = f"{path}.{key}" if path else key
            if hint := self._unknown(key, known):
                self._reject(where, "unknown field", hint)
            elif key in values:
                self._reject(where, "duplicate field", "remove one of the two")
            else:
                values[key] = self._value(known[key], value, where)
        return values

    def _unknown(self, key: str, known: Mapping[str, str]) -> str | None:
        """A hint about a field that this kubelet does not know; None if it knows the field."""
        if key not in known:
            return _spelling(key, known)
        if self._version < (since := _SINCE.get(key, (0, 0))):
            return f"known since kubelet {since[0]}.{since[1]}"
        if key == "tokenAttributes" and not self._token_attributes:
            return f"the file's apiVersion must be {CONFIG_API_VERSION}"
        return None

    def _value(self, type_: str, value: Any, path: str) -> Any:
        if value is None:  # as if the field was missing
            return None
        if type_.startswith("[]") and isinstance(value, list) and not isinstance(value, Object):
            element = type_.removeprefix("[]")
            return tuple(
                self._value(element, each, f"{path}[{index}]") for index, each in enumerate(value)
            )
        if type_ in _FIELDS and isinstance(value, Object):
            return self._struct(type_, value, path)
        kind = json_kind(value)
        if type_ == "Duration" and kind == "a string":
            try:
                return parse_go_duration(value)
            except ValueError as error:
                self._reject(path, str(error), _DURATION)
                return None
        expected = "a list" if type_.startswith("[]") else f"a {type_.lower()}"
        if kind == expected:
            return value
        if type_ in _FIELDS:
            expected = "an object"
        self._reject(path, f"must be {expected}, not {kind}", _type_hint(type_, kind))
        return None


_DURATION: Final = 'write a number with its unit, for example "5m" or "1h30m"'


def _provider(fields: dict[str, Any] | None) -> CredentialProvider:
    fields = fields or {}
    token = fields.get("tokenAttributes")
    return CredentialProvider(
        name=fields.get("name") or "",
        match_images=_strings(fields.get("matchImages")),
        default_cache_duration=fields.get("defaultCacheDuration"),
        api_version=fields.get("apiVersion") or "",
        args=_strings(fields.get("args")),
        env=tuple(
            ((each or {}).get("name") or "", (each or {}).get("value") or "")
            for each in fields.get("env") or ()
        ),
        token_attributes=None if token is None else _token(token),
    )


def _token(fields: dict[str, Any]) -> TokenAttributes:
    return TokenAttributes(
        audience=fields.get("serviceAccountTokenAudience") or "",
        cache_type=fields.get("cacheType") or "",
        require_service_account=fields.get("requireServiceAccount"),
        required_annotation_keys=_strings(fields.get("requiredServiceAccountAnnotationKeys")),
        optional_annotation_keys=_strings(fields.get("optionalServiceAccountAnnotationKeys")),
    )


def _strings(values: Sequence[str | None] | None) -> tuple[str, ...]:
    return tuple(value or "" for value in values or ())


def _spelling(key: str, known: Mapping[str, str]) -> str:
    for name in known:
        if name.lower() == key.lower():
            return f"case matters: write {name}"
    similar = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {similar[0]}?" if similar else f"the fields are {', '.join(known)}"


def _type_hint(type_: str, kind: str) -> str:
    if type_ == "Duration":
        return _DURATION
    if type_ == "string" and kind in ("a number", "a bool"):
        return "put the value in quotes"
    if type_ == "bool":
        return "write true or false, without quotes"
    return "write a list" if type_.startswith("[]") else "correct the indentation"
