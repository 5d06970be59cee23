"""The sources of user principals and resource principals: a profile of an OCI config file, the variables
OCI_RESOURCE_PRINCIPAL_*, and the contents of the files that they name.

Everything is read once. So the cache key and the signed request come from the same bytes, even if a file is
replaced between the two. The SDK is not imported: a call with a cached token does not need it.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import NamedTuple

from provider.errors import BadResourcePrincipal, BadUserPrincipal

_CONFIG_FILE = "~/.oci/config"
_PROFILE = "DEFAULT"
_RESOURCE_VARIABLES = "OCI_RESOURCE_PRINCIPAL_"
# If the value is an absolute path, the SDK reads the file
# (https://github.com/oracle/oci-python-sdk/blob/master/src/oci/auth/signers/resource_principals_signer.py).
_TOKEN = "OCI_RESOURCE_PRINCIPAL_RPST"
_KEY = "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM"
_PASS_PHRASE = "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM_PASSPHRASE"
_LEAF = "_FOR_LEAF_RESOURCE"


class UserProfile(NamedTuple):
    """A profile of an OCI config file; everything except ``where`` is secret.

    ``where`` names the profile and the file. ``key`` is the content of ``key_file``, ``session`` that of
    ``security_token_file``; None if the profile names no such file.
    """

    where: str
    values: dict[str, str]
    key: bytes | None
    session: bytes | None

    @property
    def identity(self) -> str:
        """The cache key of its tokens."""
        return _digest((self.where, sorted(self.values.items()), self.key, self.session))


class ResourceEnvironment(NamedTuple):
    """The variables OCI_RESOURCE_PRINCIPAL_*, with contents in place of file names; secret."""

    values: dict[str, str]

    @property
    def identity(self) -> str:
        """The cache key of its tokens."""
        return _digest(sorted(self.values.items()))


def user_profile(file: str | None, name: str | None) -> UserProfile:
    """Read a profile of an OCI config file, as the SDK does. Raises BadUserPrincipal."""
    import configparser

    file, name = file or _CONFIG_FILE, name or _PROFILE
    where = f"profile {name} of {file}"
    try:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(_content(file).decode())
        if name not in parser:
            raise BadUserPrincipal(f"Profile '{name}' not found in config file {file}")
        values = dict(parser[name])
        key, session = (
            _content(values[field]) if values.get(field) else None
            for field in ("key_file", "security_token_file")
        )
    except OSError as error:
        raise BadUserPrincipal(f"{where}: {error.filename}: {error.strerror}") from error
    except (configparser.Error, ValueError) as error:
        # "from None": configparser quotes what it read.
        raise BadUserPrincipal(f"{where} cannot be read ({type(error).__name__})") from None
    return UserProfile(where, values, key, session)


def resource_environment(environ: Mapping[str, str]) -> ResourceEnvironment:
    """Read the variables and the files that they name. Raises BadResourcePrincipal."""
    values = {name: text for name, text in environ.items() if name.startswith(_RESOURCE_VARIABLES)}
    for suffix in ("", _LEAF):
        names = [_TOKEN + suffix, _KEY + suffix]
        if os.path.isabs(values.get(_KEY + suffix, "")):
            names.append(_PASS_PHRASE + suffix)
        for name in names:
            path = values.get(name, "")
            if os.path.isabs(path):
                try:
                    values[name] = _content(path).decode("ascii").rstrip("\r\n")
                except OSError as error:
                    raise BadResourcePrincipal(f"{name}: {path}: {error.strerror}") from error
                except UnicodeDecodeError:
                    raise BadResourcePrincipal(f"{name}: {path} is not ASCII text") from None
    return ResourceEnvironment(values)


def _content(path: str) -> bytes:
    with open(os.path.expanduser(path), "rb") as file:
        return file.read()


def _digest(parts: object) -> str:
    # repr delimits the parts unambiguously, whatever they contain.
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()
