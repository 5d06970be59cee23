"""What proves a user principal or a resource principal: an OCI config file's profile, the environment's
OCI_RESOURCE_PRINCIPAL_*, and the contents of the files that they name.

Everything is read once. The identity that tokens are shared under and the request that is signed come
from the same bytes, even if a file is replaced between the two. The SDK is not imported: a call that
finds a token in the store does not need it.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import NamedTuple

from provider.errors import BadResourcePrincipal, BadUserPrincipal

_CONFIG_FILE = "~/.oci/config"
_PROFILE = "DEFAULT"
_RESOURCE_VARIABLES = "OCI_RESOURCE_PRINCIPAL_"
# Where the SDK takes an absolute path for the name of a file that holds the value
# (oci.auth.signers.get_resource_principals_signer).
_TOKEN = "OCI_RESOURCE_PRINCIPAL_RPST"
_KEY = "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM"
_PASS_PHRASE = "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM_PASSPHRASE"
_LEAF = "_FOR_LEAF_RESOURCE"


class UserProfile(NamedTuple):
    """A profile of an OCI config file; all but ``where`` is secret.

    ``where`` names profile and file. ``key`` is what ``key_file`` holds, ``session`` what
    ``security_token_file`` holds; None where the profile names no such file.
    """

    where: str
    values: dict[str, str]
    key: bytes | None
    session: bytes | None

    @property
    def identity(self) -> str:
        """What tokens are shared under."""
        return _digest((self.where, sorted(self.values.items()), self.key, self.session))


class ResourceEnvironment(NamedTuple):
    """The environment's OCI_RESOURCE_PRINCIPAL_*, with contents in place of file names; secret."""

    values: dict[str, str]

    @property
    def identity(self) -> str:
        """What tokens are shared under."""
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
        # No cause attached: configparser quotes what it read.
        raise BadUserPrincipal(f"{where} cannot be read ({type(error).__name__})") from None
    return UserProfile(where, values, key, session)


def resource_environment(environ: Mapping[str, str]) -> ResourceEnvironment:
    """Read the environment and the files that it names. Raises BadResourcePrincipal."""
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
    # repr keeps the parts apart, whatever is in them.
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()
