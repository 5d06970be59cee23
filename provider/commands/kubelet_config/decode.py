"""The kubelet's strict decoder: text to a CredentialProviderConfig, with all that it refuses.

The fields are those of k8s.io/kubelet/config/v1/types.go.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from provider.commands.kubelet_config.document import Object, json_kind, read
from provider.commands.kubelet_config.go_duration import parse_go_duration
from provider.commands.kubelet_config.model import (
    CONFIG_API_VERSION,
    NEWEST,
    ConfigError,
    CredentialProvider,
    CredentialProviderConfig,
    Finding,
    TokenAttributes,
    Version,
)

CONFIG_SUFFIXES: Final = (".json", ".yaml", ".yml")
_API_VERSIONS: Final = tuple(
    f"kubelet.config.k8s.io/{version}" for version in ("v1", "v1alpha1", "v1beta1")
)
# The kubelet's types with their JSON fields, under the names that its messages use.
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
# The kubelet version (major, minor) that first knew a field; all others are older than 1.26.
_SINCE: Final[dict[str, Version]] = {"tokenAttributes": (1, 33), "cacheType": (1, 34)}


def load(text: str) -> CredentialProviderConfig:
    """Decode a config as the newest kubelet does. Raises ConfigError when it would refuse it."""
    decoder = Decoder(NEWEST)
    config = decoder.decode(text)
    fatal = [finding for finding in decoder.findings if finding.severity == "fatal"]
    if config is None or fatal:
        raise ConfigError(fatal)
    return config


def merge(files: Mapping[str, str]) -> CredentialProviderConfig:
    """The one config that kubelet >= 1.34 makes of a directory: file names with their texts.

    Files are taken in the order of their names. Raises ConfigError as ``load`` does, and for a
    provider name that stands twice.
    """
    providers: dict[str, CredentialProvider] = {}
    for file in config_files(files):
        for provider in load(files[file]).providers:
            if provider.name in providers:
                raise ConfigError([duplicate_name(provider.name, f"{file} repeats it")])
            providers[provider.name] = provider
    return CredentialProviderConfig(tuple(providers.values()))


def config_files(files: Mapping[str, str]) -> list[str]:
    """The names that a kubelet reads in a directory, in its order."""
    return sorted(file for file in files if file.endswith(CONFIG_SUFFIXES))


def duplicate_name(name: str, hint: str) -> Finding:
    """Two providers of one name, which is fatal to a kubelet."""
    message = f'duplicate provider name "{name}" found in configuration file(s)'
    return Finding("fatal", "providers", message, hint)


class Decoder:
    """The kubelet's strict decoder. What it has to say is in ``findings`` afterwards."""

    def __init__(self, version: Version) -> None:
        self.findings: list[Finding] = []
        self._version = version
        self._is_json = False
        self._token_attributes = False

    def decode(self, text: str) -> CredentialProviderConfig | None:
        """The config with what could be decoded of it; None when it cannot be one at all."""
        try:
            document = read(text)
        except ValueError as error:
            self._refuse("", str(error))
            return None
        if document.more_follow:
            message = "the kubelet reads the first YAML document alone and ignores what follows"
            hint = "take away the --- between them: all providers belong into one list"
            self.findings.append(Finding("warning", "", message, hint))
        self._is_json = document.is_json
        if not self._is_config(document.value):
            return None
        fields = self._struct("CredentialProviderConfig", document.value, "")
        return CredentialProviderConfig(tuple(map(_provider, fields.get("providers") or ())))

    def _refuse(self, path: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding("fatal", path, message, hint))

    def _is_config(self, document: Any) -> bool:
        said = "couldn't get version/kind; json parse error: json: cannot unmarshal"
        if document is not None and not isinstance(document, Object):
            self._refuse("", f"{said} {json_kind(document)} into a CredentialProviderConfig")
            return False
        # At this step, and only here, the kubelet does not mind upper and lower case.
        values = {key.lower(): value for key, value in document or Object()}
        kind, api_version = values.get("kind"), values.get("apiversion")
        for field, value in (("kind", kind), ("apiVersion", api_version)):
            if value is not None and not isinstance(value, str):
                wrong = f"{json_kind(value)} into Go struct field .{field} of type string"
                self._refuse(field, f"{said} {wrong}")
                return False
        if not kind:
            self._refuse("kind", "Object 'Kind' is missing", "add kind: CredentialProviderConfig")
        elif not api_version:
            hint = f"add apiVersion: {CONFIG_API_VERSION}"
            self._refuse("apiVersion", "Object 'apiVersion' is missing", hint)
        elif kind != "CredentialProviderConfig":
            message = f'no kind "{kind}" is registered for version "{api_version}"'
            self._refuse("kind", message, "write kind: CredentialProviderConfig")
        elif api_version not in _API_VERSIONS:
            message = f'no kind "{kind}" is registered for version "{api_version}"'
            self._refuse("apiVersion", message, f"write apiVersion: {CONFIG_API_VERSION}")
        else:
            # Only v1 of the config ever got the field.
            self._token_attributes = api_version == CONFIG_API_VERSION
            return True
        return False

    def _struct(self, type_: str, document: Object, path: str) -> dict[str, Any]:
        known = _FIELDS[type_]
        values: dict[str, Any] = {}
        for key, value in document:
            where = f"{path}.{key}" if path else key
            if reason := self._unknown(key, known):
                self._refuse(where, f'strict decoding error: unknown field "{where}"', reason)
            elif key in values:
                said = f'yaml: unmarshal errors: key "{key}" already set in map'
                if self._is_json:
                    said = f'duplicate field "{where}"'
                self._refuse(where, f"strict decoding error: {said}", "keep one of the two")
            else:
                values[key] = self._value(known[key], value, where, type_)
        return values

    def _unknown(self, key: str, known: Mapping[str, str]) -> str | None:
        """What to do about a field that this kubelet does not know; None when it knows it."""
        if key not in known:
            return _spelling(key, known)
        if self._version < (since := _SINCE.get(key, (0, 0))):
            return f"known since kubelet {since[0]}.{since[1]}"
        if key == "tokenAttributes" and not self._token_attributes:
            return f"needs apiVersion: {CONFIG_API_VERSION} of the file"
        return None

    def _value(self, type_: str, value: Any, path: str, struct: str) -> Any:
        if value is None:  # JSON's null leaves a field as it was: empty
            return None
        if type_.startswith("[]") and isinstance(value, list) and not isinstance(value, Object):
            element = type_.removeprefix("[]")
            return tuple(
                self._value(element, each, f"{path}[{index}]", struct)
                for index, each in enumerate(value)
            )
        if type_ in _FIELDS and isinstance(value, Object):
            return self._struct(type_, value, path)
        if type_ == "Duration" and isinstance(value, str):
            try:
                return parse_go_duration(value)
            except ValueError as error:
                self._refuse(
                    path, str(error), 'write a number with its unit, as in "5m" or "1h30m"'
                )
                return None
        if (type_ == "string" and isinstance(value, str)) or (
            type_ == "bool" and isinstance(value, bool)
        ):
            return value
        field = re.sub(r"\[[0-9]+\]", "", path)
        kind = json_kind(value)
        target = "string" if type_ == "Duration" else re.sub("(?=[A-Z])", "v1.", type_, count=1)
        message = f"json: cannot unmarshal {kind} into Go struct field {struct}.{field}"
        self._refuse(path, f"{message} of type {target}", _type_hint(type_, kind))
        return None


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
            return f"upper and lower case matter: write {name}"
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"the fields here are {', '.join(known)}"


def _type_hint(type_: str, kind: str) -> str:
    if type_ == "Duration":
        return 'write a number with its unit, as in "5m"'
    if type_ == "string" and kind in {"number", "bool"}:
        return "put the value in quotes"
    if type_ == "bool":
        return "write true or false, without quotes"
    return "write a list" if type_.startswith("[]") else "correct the indentation"
