"""Whom TLS trusts, and by which proxy servers are reached: what the node says of its network."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from provider.errors import BadSettings
from provider.net.http import Proxy

if TYPE_CHECKING:
    import ssl

# Looked for in this order. OpenSSL's own default is a path of the machine that built it, which a
# frozen program must not rely on.
NODE_BUNDLES = (
    "/etc/pki/tls/certs/ca-bundle.crt",  # Oracle Linux
    "/etc/ssl/certs/ca-certificates.crt",  # Ubuntu, Debian
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Oracle Linux without the legacy link
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
# The same certificates, each in a file named by the hash of its subject (openssl rehash). Loading a
# bundle of 140 takes 29 ms of CPU; of a folder OpenSSL reads the one file that it needs.
NODE_FOLDERS = (
    "/etc/pki/ca-trust/extracted/pem/directory-hash",  # newer Oracle Linux
    "/etc/ssl/certs",  # Ubuntu, Debian
)
_CHOICES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def bundle(environ: Mapping[str, str]) -> str:
    """The file (or hashed folder) of CA certificates: the user's, the node's, certifi's."""
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
    """The node's folder of CA certificates by hash; None when it has none, or the user chose a bundle.

    What is missing in it may still be in the bundle.
    """
    if not any(environ.get(name) for name in _CHOICES):
        for path in NODE_FOLDERS:
            with suppress(OSError):
                if any(name.endswith(".0") for name in os.listdir(path)):
                    return path
    return None


def tls_context(environ: Mapping[str, str], path: str | None = None) -> "ssl.SSLContext":
    """A client context that verifies certificate and host name, by the CA certificates in ``path``,
    else by ``bundle``. Raises BadSettings.
    """
    import ssl

    path = path or bundle(environ)
    # Not create_default_context: it writes session keys to where SSLKEYLOGFILE says, and loads
    # OpenSSL's default bundle.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
    except OSError as error:
        raise BadSettings(f"{path} holds no CA certificates that can be read") from error
    return context


def proxy_for(host: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for https to ``host`` by HTTPS_PROXY and NO_PROXY. Raises BadSettings."""
    url = environ.get("https_proxy") or environ.get("HTTPS_PROXY")
    if not url:
        return None
    import base64
    import re
    from urllib.parse import unquote, urlsplit
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # left out of the stubs

    # urllib knows the many forms of NO_PROXY.
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if proxy_bypass_environment(host, {"no": no_proxy}):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or 80
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    except ValueError:
        # No cause attached: it would quote the user's password.
        raise BadSettings("HTTPS_PROXY is not a URL") from None
    name = parts.hostname or ""
    if parts.scheme != "http" or not re.fullmatch(r"[!-~]+", name):
        raise BadSettings("HTTPS_PROXY is not of the form http://[user:password@]host[:port]")
    return Proxy(name, port, None if parts.username is None else f"Basic {pair}")
