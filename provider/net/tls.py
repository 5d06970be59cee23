"""CA bundle and proxy selection, from the environment and from the node's files."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from provider.errors import BadSettings
from provider.net.http import Proxy

if TYPE_CHECKING:
    import ssl

# In order of preference. OpenSSL's own default is a path on the build machine, which a frozen program cannot
# rely on.
NODE_BUNDLES = (
    "/etc/pki/tls/certs/ca-bundle.crt",  # Oracle Linux
    "/etc/ssl/certs/ca-certificates.crt",  # Ubuntu, Debian
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Oracle Linux without the legacy link
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
# Directories with the same certificates, one file each, named by the hash of the subject (openssl rehash). Loading
# a bundle of 140 certificates takes 29 ms of CPU time; in a directory, OpenSSL reads only the file it needs.
NODE_FOLDERS = (
    "/etc/pki/ca-trust/extracted/pem/directory-hash",  # newer Oracle Linux
    "/etc/ssl/certs",  # Ubuntu, Debian
)
_CHOICES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def bundle(environ: Mapping[str, str]) -> str:
    """Return the file or hashed directory with CA certificates: from the environment, the node, or certifi.

    Raises BadSettings if the environment names a path that does not exist.
    """
    for name in _CHOICES:
        path = environ.get(name)
        if path:
            if not os.path.exists(path):
                raise BadSettings(
                    f"{name} is {path!r}, which does not exist", f"Correct or unset {name}."
                )
            return path
    for path in NODE_BUNDLES:
        if os.path.isfile(path):
            return path
    import certifi

    return certifi.where()


def hashed_folder(environ: Mapping[str, str]) -> str | None:
    """Return the node's hashed directory of CA certificates; None if it has none or the environment names a
    bundle, which may contain certificates that the directory lacks.
    """
    if not any(environ.get(name) for name in _CHOICES):
        for path in NODE_FOLDERS:
            with suppress(OSError):
                if any(name.endswith(".0") for name in os.listdir(path)):
                    return path
    return None


def tls_context(environ: Mapping[str, str], path: str | None = None) -> "ssl.SSLContext":
    """Return a client context that verifies certificate and host name with the CA certificates in ``path``,
    or in ``bundle``. Raises BadSettings.
    """
    import ssl

    path = path or bundle(environ)
    # Not create_default_context: it writes session keys to the file in SSLKEYLOGFILE and loads OpenSSL's
    # default bundle.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
    except OSError as error:
        raise BadSettings(f"{path} contains no readable CA certificates") from error
    return context


def proxy_for(host: str, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for https to ``host``, from HTTPS_PROXY and NO_PROXY. Raises BadSettings."""
    url = environ.get("https_proxy") or environ.get("HTTPS_PROXY")
    if not url:
        return None
    import base64
    import re
    from urllib.parse import unquote, urlsplit
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # left out of the stubs

    # urllib handles the many forms of NO_PROXY.
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if proxy_bypass_environment(host, {"no": no_proxy}):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or 80
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    except ValueError:
        # "from None": the cause quotes the password.
        raise BadSettings("HTTPS_PROXY is not a URL") from None
    name = parts.hostname or ""
    if parts.scheme != "http" or not re.fullmatch(r"[!-~]+", name):
        raise BadSettings("HTTPS_PROXY is not of the form http://[user:password@]host[:port]")
    return Proxy(name, port, None if parts.username is None else f"Basic {pair}")
