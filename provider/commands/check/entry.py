"""Does this program's entry in a CredentialProviderConfig mean what its writer meant? No I/O."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from provider.settings import SETTINGS

_SETTINGS: Final = tuple(key.env for key in SETTINGS)
# Names of other programs that are close to one of ours.
_OTHERS: Final = ("KUBERNETES_SERVICE_PORT", "OCI_KUBERNETES_SERVICE_ACCOUNT_TOKEN_PATH")
_CUTOFF: Final = 0.85


def misspelt(names: Iterable[str]) -> dict[str, str]:
    """The variables that are close to a setting's name and are not one -> the setting's name."""
    meant = {}
    for name in names:
        near = get_close_matches(name.upper(), _SETTINGS, n=1, cutoff=_CUTOFF)
        if near and name not in (*_SETTINGS, *_OTHERS):
            meant[name] = near[0]
    return meant


def told(meant: dict[str, str]) -> str:
    """What ``misspelt`` found, for people."""
    return ", ".join(f"{name} is no setting (did you mean {near}?)" for name, near in meant.items())
