"""Reads the identity that the settings choose."""

from __future__ import annotations

from provider.light_typing import TYPE_CHECKING
from provider.settings import RESOURCE_PRINCIPAL, USER_PRINCIPAL, WORKLOAD_IDENTITY, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provider.invocation import Subject


def subject_of(
    settings: Settings, service_account_token: str | None, environ: Mapping[str, str]
) -> Subject | None:
    """Read what proves the identity that the settings choose; None for the node's own identity.

    Raises NoServiceAccountToken, BadUserPrincipal, BadResourcePrincipal.
    """
    method = settings.ocir_auth_method
    if method == WORKLOAD_IDENTITY:
        from provider.auth.service_account import service_account

        return service_account(service_account_token)
    if method == RESOURCE_PRINCIPAL:
        from provider.auth.oci_files import resource_environment

        return resource_environment(environ)
    if method == USER_PRINCIPAL:
        from provider.auth.oci_files import user_profile

        return user_profile(settings.oci_config_file, settings.oci_profile)
    return None
