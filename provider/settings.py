"""Settings: from the environment, or from a YAML file alone when ``--config FILE`` is given.

The environment's names and the file's keys are those of Oracle's Go provider, with a few added.
``KEYS`` is the whole truth about them: parsing, errors and the README's table come from it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from provider.errors import BadSettings
from provider.ocir.hosts import HostPattern, is_domain_name, parse_host_pattern

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
# The kubelet kills a plugin after 60 s. 15 s of distance: a busy node may start us late.
DEFAULT_DEADLINE = 45.0
_MAX_DEADLINE = 55.0


class Settings(NamedTuple):
    """Values as the program uses them; the field's names are those of ``KEYS``."""

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

    def for_caller(self, has_service_account: bool) -> "Settings":
        """The settings for one caller: WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL becomes one of both.

        The node's identity is for who has no service account; it never takes the place of one that
        was refused.
        """
        if self.ocir_auth_method != WORKLOAD_OR_INSTANCE:
            return self
        method = WORKLOAD_IDENTITY if has_service_account else INSTANCE_PRINCIPAL
        return self._replace(ocir_auth_method=method)


class Key(NamedTuple):
    """One setting. ``parse`` takes its text and gives its value, or None when it is not allowed."""

    field: str
    env: str
    yaml: str
    allowed: str
    meaning: str
    parse: Callable[[str], Any]


def _path(text: str) -> str | None:
    return text if re.fullmatch(r"/[A-Za-z0-9._~/-]+", text, re.A) else None


def _user(text: str) -> str | None:
    return text if re.fullmatch(r"[!-9;-~]+", text, re.A) else None


def _one_of(*values: str, fold: Callable[[str], str] = str.lower) -> Callable[[str], str | None]:
    return lambda text: fold(text) if fold(text) in values else None


def _enabled(text: str) -> bool | None:
    return {"enabled": True, "disabled": False}.get(text.lower())


def _hosts(text: str) -> tuple[HostPattern, ...] | None:
    patterns = [parse_host_pattern(part) for part in re.split(r"[,\s]+", text.strip(" ,")) if part]
    known = tuple(pattern for pattern in patterns if pattern)
    return known if len(known) == len(patterns) else None


def parse_machine(text: str) -> str | None:
    """A DNS name, or an address as IPv4 or IPv6 write it; None when it is neither."""
    address = re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-f]*:[0-9a-f:]+", text.lower(), re.A)
    return text.lower() if address or is_domain_name(text.lower()) else None


def _seconds(text: str) -> float | None:
    seconds = float(text) if re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,3})?", text, re.A) else 0.0
    return seconds if 1 <= seconds <= _MAX_DEADLINE else None


KEYS = (
    Key(
        "registry_token_path",
        "REGISTRY_TOKEN_PATH",
        "registryTokenPath",
        "a path that begins with /",
        "Where the registry's token endpoint is.",
        _path,
    ),
    Key(
        "default_user",
        "DEFAULT_USER",
        "defaultUser",
        "a user name without spaces or a colon",
        "The user name that goes with the token.",
        _user,
    ),
    Key(
        "registry_protocol",
        "REGISTRY_PROTOCOL",
        "registryProtocol",
        "https, or http for a loopback registry",
        "How the registry is asked.",
        _one_of("https", "http"),
    ),
    Key(
        "ocir_auth_method",
        "OCIR_AUTH_METHOD",
        "ocirAuthMethod",
        ", ".join(AUTH_METHODS),
        "Whose identity is proved: the node's, that of an OCI config file's profile, that of the OCI"
        " resource this runs in, the pod's service account's, or the node's where there is none.",
        _one_of(*AUTH_METHODS, fold=str.upper),
    ),
    Key(
        "token_validation",
        "TOKEN_VALIDATION",
        "tokenValidation",
        "enabled or disabled",
        "Ask the registry for the image's manifest with the new token before the kubelet caches it.",
        _enabled,
    ),
    Key(
        "ocir_hosts",
        "OCIR_HOSTS",
        "ocirHosts",
        "host names, * for a whole label but not in the last two, separated by commas",
        "Further registry hosts of OCI's, for dedicated regions: ocir.*.oci.my.cloud",
        _hosts,
    ),
    Key(
        "oci_config_file",
        "OCI_CONFIG_FILE",
        "ociConfigFile",
        "a file name",
        "USER_PRINCIPAL: the OCI config file (~/.oci/config when not set).",
        str,
    ),
    Key(
        "oci_profile",
        "OCI_CLI_PROFILE",
        "ociProfile",
        "a profile's name",
        "USER_PRINCIPAL: the profile in it (DEFAULT when not set).",
        str,
    ),
    Key(
        "kubernetes_host",
        "KUBERNETES_SERVICE_HOST",
        "kubernetesServiceHost",
        "a host name or address",
        "WORKLOAD_IDENTITY: the API server (when not set: what the kubelet's kubeconfig,"
        " /etc/oke/oke-apiserver or /etc/oke/oke.conf says).",
        parse_machine,
    ),
    Key(
        "kubernetes_ca_file",
        "OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH",
        "kubernetesCaFile",
        "a file name",
        "WORKLOAD_IDENTITY: the cluster's CA certificate (when not set: that of the kubelet's kubeconfig,"
        " or /etc/kubernetes/ca.crt).",
        str,
    ),
    Key(
        "token_cache",
        "TOKEN_CACHE",
        "tokenCache",
        "enabled or disabled",
        "Share tokens between calls, in memory (/run/oke-credential-provider; in containers /dev/shm).",
        _enabled,
    ),
    Key(
        "deadline_seconds",
        "DEADLINE_SECONDS",
        "deadlineSeconds",
        f"a number of seconds from 1 to {_MAX_DEADLINE:g}",
        "The time that one call may take; the kubelet kills a plugin after 60.",
        _seconds,
    ),
    Key(
        "log_level",
        "LOG_LEVEL",
        "logLevel",
        "debug, info, warning or error",
        "What goes to journald or syslog.",
        _one_of("debug", "info", "warning", "error"),
    ),
)


def settings_from_environment(environ: Mapping[str, str]) -> Settings:
    """Read the environment. An empty variable counts as not set. Raises BadSettings."""
    named = {key: environ[key.env] for key in KEYS if environ.get(key.env)}
    return _settings(named, lambda key: key.env)


def settings_from_file(path: str) -> Settings:
    """Read a YAML file, and only it. Raises BadSettings."""
    import yaml

    try:
        with open(path, "rb") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise BadSettings(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Only the position: a parser's full text quotes the file.
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise BadSettings(f"the settings file {path} is not YAML{where}") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise BadSettings(f"the settings file {path} is not a mapping of keys to values")
    by_name = {key.yaml: key for key in KEYS}
    for name in content:
        if name not in by_name:
            known = ", ".join(by_name)
            raise BadSettings(f"{path}: unknown key {str(name)[:60]!r}; the keys are {known}")
    named = {by_name[name]: _scalar(path, name, value) for name, value in content.items()}
    return _settings(
        {key: text for key, text in named.items() if text}, lambda key: f"{path}: {key.yaml}"
    )


def _scalar(path: str, name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise BadSettings(f"{path}: {name} is {type(value).__name__}, not text")


def _settings(named: Mapping[Key, str], name_of: Callable[[Key], str]) -> Settings:
    values: dict[str, Any] = {}
    for key, text in named.items():
        value = key.parse(text)
        if value is None:
            raise BadSettings(f"{name_of(key)} is {text[:200]!r}; allowed: {key.allowed}")
        values[key.field] = value
    return Settings(**values)
