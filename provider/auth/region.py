"""The region of this instance."""

from __future__ import annotations

from provider.light_typing import NamedTuple


class RegionInfo(NamedTuple):
    """A region: ``region`` such as eu-frankfurt-1, ``realm_domain`` such as oraclecloud.com, and
    ``key`` such as fra, or "" if it is unknown.
    """

    region: str
    realm_domain: str
    key: str = ""
