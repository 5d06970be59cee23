"""Find misspelled settings in the env of a config entry. No I/O."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from provider.settings import SETTINGS

_SETTINGS: Final = tuple(key.env for key in SETTINGS)
# Variables of other programs whose names are similar to a setting's.
_OTHERS: Final = ("KUBERNETES_SERVICE_PORT", "OCI_KUBERNETES_SERVICE_ACCOUNT_TOKEN_PATH")
_CUTOFF: Final = 0.85


def misspelled(names: Iterable[str]) -> dict[str, str]:
    """Map each variable that is similar to a setting, but not one, to that setting."""
    found = {}
    for name in names:
        similar = get_close_matches(name.upper(), _SETTINGS, n=1, cutoff=_CUTOFF)
        if similar and name not in (*_SETTINGS, *_OTHERS):
            found[name] = similar[0]
    return found
