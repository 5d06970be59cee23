"""Settings, from the environment, or only from a YAML file if ``--config FILE`` is given.

Variables and keys are those of Oracle's Go provider, plus some new ones. ``SETTINGS`` is the single source of truth:
parsing, errors and the table in the README come from it.
"""

from __future__ import annotations

from provider.ascii import ALNUM, DIGITS, GRAPHIC, consists_of
from provider.errors import BadSettings
from provider.light_typing import TYPE_CHECKING, NamedTuple
from provider.net.hostname import HostPattern, parse_host, parse_host_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

INSTANCE_PRINCIPAL = "INSTANCE_PRINCIPAL"
USER_PRINCIPAL = "USER_PRINCIPAL"
RESOURCE_PRINCIPAL = "RESOURCE_PRINCIPAL"
WORKLOAD_IDENTITY = "WORKLOAD_IDENTITY"
WORKLOAD_OR_INSTANCE = "WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL"
AUTH_METHODS = (
    INSTANCE_PRINCIPAL,
    USER_PRINCIPAL,
    RESOURCE_PRINCIPAL,
    WORKLOAD_IDENTITY,
    WORKLOAD_OR_INSTANCE,
)
# Seconds. The kubelet kills a plugin after 60 s; a busy node may need several seconds to start this program.
DEFAULT_DEADLINE = 45.0
_MAX_DEADLINE = 55.0


class Settings(NamedTuple):
    """The values of all settings; ``SETTINGS`` describes each field."""

    registry_token_path: str = "/20180419/docker/token"
    default_user: str = "BEARER_TOKEN"
    registry_protocol: str = "https"
    ocir_auth_method: str = INSTANCE_PRINCIPAL
    token_validation: bool = True
    ocir_hosts: tuple[HostPattern, ...] = ()
    oci_config_file: str | None = None
    oci_profile: str | None = None
    kubernetes_host: str | None = None
    kubernetes_ca_file: str | None = None
    token_cache: bool = True
    deadline_seconds: float = DEFAULT_DEADLINE
    log_level: str = "info"

    def for_caller(self, has_service_account: bool) -> Settings:
        """Return the settings for one caller: WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL becomes one of the two.

        The node's identity is for callers without a service account. It never replaces an account that was
        refused.
        """
        if self.ocir_auth_method != WORKLOAD_OR_INSTANCE:
            return self
        method = WORKLOAD_IDENTITY if has_service_account else INSTANCE_PRINCIPAL
        return self._replace(ocir_auth_method=method)


class Setting(NamedTuple):
    """One setting. ``parse`` converts a text to a value, or to None if the text is invalid."""

    field: str
    env: str
    yaml: str
    allowed: str
    meaning: str
    parse: Callable[[str], Any]


def _path(text: str) -> str | None:
    absolute = text.startswith("/") and consists_of(text[1:], ALNUM | frozenset("._~/-"))
    return text if absolute else None


def _user(text: str) -> str | None:
    return text if consists_of(text, GRAPHIC - {":"}) else None


def _one_of(*values: str, fold: Callable[[str], str] = str.lower) -> Callable[[str], str | None]:
    return lambda text: fold(text) if fold(text) in values else None


def _enabled(text: str) -> bool | None:
    return {"enabled": True, "disabled": False}.get(text.lower())


def _hosts(text: str) -> tuple[HostPattern, ...] | None:
    patterns = [parse_host_pattern(part) for part in text.replace(",", " ").split()]
    known = tuple(pattern for pattern in patterns if pattern)
    return known if len(known) == len(patterns) else None


def _seconds(text: str) -> float | None:
    whole, point, fraction = text.partition(".")
    well_formed = consists_of(whole, DIGITS, 2) and (not point or consists_of(fraction, DIGITS, 3))
    seconds = float(text) if well_formed else 0.0
    return seconds if 1 <= seconds <= _MAX_DEADLINE else None


SETTINGS = (
    Setting(
        "registry_token_path",
        "REGISTRY_TOKEN_PATH",
        "registryTokenPath",
        "a path that begins with /",
        "Path of the registry's token endpoint.",
        _path,
    ),
    Setting(
        "default_user",
        "DEFAULT_USER",
        "defaultUser",
        "a user name without spaces or a colon",
        "User name in the credentials.",
        _user,
    ),
    Setting(
        "registry_protocol",
        "REGISTRY_PROTOCOL",
        "registryProtocol",
        "https, or http for a loopback registry",
        "Protocol of the registry.",
        _one_of("https", "http"),
    ),
    Setting(
        "ocir_auth_method",
        "OCIR_AUTH_METHOD",
        "ocirAuthMethod",
        ", ".join(AUTH_METHODS),
        "Identity, in the same order: the node; a profile of an OCI config file; the OCI resource that runs this"
        " program; the pod's service account; the service account if there is one, else the node.",
        _one_of(*AUTH_METHODS, fold=str.upper),
    ),
    Setting(
        "token_validation",
        "TOKEN_VALIDATION",
        "tokenValidation",
        "enabled or disabled",
        "Pull check: ask the registry for the image's manifest before the kubelet caches the token.",
        _enabled,
    ),
    Setting(
        "ocir_hosts",
        "OCIR_HOSTS",
        "ocirHosts",
        "host names, separated by commas; a * can replace each label except the last two",
        "More registry hosts, for dedicated regions; for example ocir.*.oci.my.cloud.",
        _hosts,
    ),
    Setting(
        "oci_config_file",
        "OCI_CONFIG_FILE",
        "ociConfigFile",
        "a file name",
        "USER_PRINCIPAL: the OCI config file (default: ~/.oci/config).",
        str,
    ),
    Setting(
        "oci_profile",
        "OCI_CLI_PROFILE",
        "ociProfile",
        "a profile name",
        "USER_PRINCIPAL: the profile in that file (default: DEFAULT).",
        str,
    ),
    Setting(
        "kubernetes_host",
        "KUBERNETES_SERVICE_HOST",
        "kubernetesServiceHost",
        "a host name or address",
        "WORKLOAD_IDENTITY: the API server (default: from the kubelet's kubeconfig,"
        " /etc/oke/oke-apiserver or /etc/oke/oke.conf).",
        parse_host,
    ),
    Setting(
        "kubernetes_ca_file",
        "OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH",
        "kubernetesCaFile",
        "a file name",
        "WORKLOAD_IDENTITY: the cluster's CA certificate (default: from the kubelet's kubeconfig or"
        " /etc/kubernetes/ca.crt).",
        str,
    ),
    Setting(
        "token_cache",
        "TOKEN_CACHE",
        "tokenCache",
        "enabled or disabled",
        "Share tokens between calls, in memory (/run/oke-credential-provider, or /dev/shm in containers).",
        _enabled,
    ),
    Setting(
        "deadline_seconds",
        "DEADLINE_SECONDS",
        "deadlineSeconds",
        f"a number of seconds from 1 to {_MAX_DEADLINE:g}",
        "Time limit of a call; the kubelet kills a plugin after 60 seconds.",
        _seconds,
    ),
    Setting(
        "log_level",
        "LOG_LEVEL",
        "logLevel",
        "debug, info, warning or error",
        "Lowest level to send to journald or syslog.",
        _one_of("debug", "info", "warning", "error"),
    ),
)


def settings_from_environment(environ: Mapping[str, str]) -> Settings:
    """Read the environment. An empty variable counts as unset. Raises BadSettings."""
    texts = {each: environ[each.env] for each in SETTINGS if environ.get(each.env)}
    return _parse(texts, lambda setting: setting.env)


def settings_from_file(path: str) -> Settings:
    """Read only a YAML file. Raises BadSettings."""
    import yaml

    try:
        with open(path, "rb") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise BadSettings(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Only the position: the parser's message quotes the file.
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise BadSettings(f"the settings file {path} is not YAML{where}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise BadSettings(f"the settings file {path} is not a mapping of keys to values")
    by_name = {each.yaml: each for each in SETTINGS}
    for name in content:
        if name not in by_name:
            known = ", ".join(by_name)
            raise BadSettings(f"{path}: unknown key {str(name)[:60]!r}; the keys are {known}")
    texts = {by_name[name]: _scalar(path, name, value) for name, value in content.items()}
    return _parse(
        {each: text for each, text in texts.items() if text},
        lambda setting: f"{path}: {setting.yaml}",
    )


def _scalar(path: str, name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise BadSettings(f"{path}: {name} is {type(value).__name__}, not text")


def _parse(texts: Mapping[Setting, str], name_of: Callable[[Setting], str]) -> Settings:
    values: dict[str, Any] = {}
    for setting, text in texts.items():
        value = setting.parse(text)
        if value is None:
            raise BadSettings(f"{name_of(setting)} is {text[:200]!r}; allowed: {setting.allowed}")
        values[setting.field] = value
    return Settings(**values)
