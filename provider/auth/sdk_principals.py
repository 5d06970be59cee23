"""User principals and resource principals, made by the OCI SDK.

The functions import the SDK only when they need it: importing it takes longer than the rest of a call.
"""

import os

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from provider.auth.oci_files import ResourceEnvironment, UserProfile
from provider.auth.principal import Principal, can_sign, is_security_token
from provider.auth.signer import Signer
from provider.errors import BadResourcePrincipal, BadUserPrincipal, ProviderError
from provider.net.background import Background
from provider.net.deadline import Deadline


def user_principal(profile: UserProfile) -> Principal:
    """Make a principal from a profile of an OCI config file, validated by the SDK.

    The profile has an API key, with or without a passphrase, or a session (``security_token_file``, made by
    ``oci session authenticate``). Raises BadUserPrincipal.
    """
    from oci import config, exceptions, signer

    where, values = profile.where, profile.values
    try:
        if profile.session is not None:
            token = profile.session.decode("ascii").strip()
            if not is_security_token(token):
                raise BadUserPrincipal(f"{where}: security_token_file contains no token")
            name, key_id = "session", f"ST${token}"
        else:
            config.validate_config({**values, "region": values.get("region") or "not needed"})
            name = values["user"]
            key_id = "/".join(values[field] for field in ("tenancy", "user", "fingerprint"))
        key = signer.load_private_key((profile.key or b"").strip(), values.get("pass_phrase"))
        if not can_sign(key):
            raise BadUserPrincipal(f"{where}: key_file contains no RSA key of 2048 bits or more")
    except exceptions.InvalidConfig as error:
        faults = ", ".join(f"{name} is {fault}" for name, fault in sorted(error.args[0].items()))
        raise BadUserPrincipal(f"{where}: {faults}") from None
    except exceptions.ClientError as error:
        # The SDK's messages name the file and the fault, and quote no key.
        raise BadUserPrincipal(f"{where}: {error}") from None
    except ProviderError:
        raise
    except Exception as error:
        # Only the type: cryptography quotes what it read.
        raise BadUserPrincipal(f"{where} cannot be read ({type(error).__name__})") from None
    return Principal(f"{name} ({where})", Signer(key_id, key))


def resource_principal(resource: ResourceEnvironment, deadline: Deadline) -> Principal:
    """Make the principal of the function, container instance or pipeline that runs this program.

    Raises BadResourcePrincipal, DeadlineExceeded.
    """
    from oci.auth.signers import get_resource_principals_signer

    version = resource.values.get("OCI_RESOURCE_PRINCIPAL_VERSION")
    try:
        # The SDK reads only the environment. Here it finds the contents of the files in place of their names.
        os.environ.update(resource.values)
        # In the background: for some versions the SDK sends requests, with its own timeouts.
        made = Background(get_resource_principals_signer)
        signer = made.result(deadline, "asking for a resource principal's session token")
        key_id, key = signer.api_key, signer.private_key
    except ProviderError:
        raise  # also Terminated, which a signal raises
    except Exception as error:
        # Only the type: the SDK may quote what it read.
        why = f"version {version}" if version else "OCI_RESOURCE_PRINCIPAL_VERSION is not set"
        raise BadResourcePrincipal(
            f"the SDK cannot make a resource principal from the environment ({why}):"
            f" {type(error).__name__}"
        ) from None
    if not isinstance(key, RSAPrivateKey) or not is_security_token(key_id[3:]):
        raise BadResourcePrincipal(
            "the environment's resource principal has no token or no RSA key"
        )
    return Principal("resource principal", Signer(key_id, key))
