"""All errors of the program.

Each error has a stable ``code`` (to search for), a ``message`` (what failed, and where), a ``hint`` (what to do)
and an ``exit_code``. ``provider.__main__`` catches them.

No message contains a token, key or certificate.
"""

from __future__ import annotations

from provider.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import ClassVar


class ProviderError(Exception):
    """The base class. Each kind of error has its own ``code``, ``exit_code`` and ``default_hint``."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70
    default_hint: ClassVar[str] = (
        "This is a bug. Run the program with --verbose and report the output."
    )

    def __init_subclass__(cls, code: str = "", exit_code: int = 0) -> None:
        """Set the code and the exit code of a kind of error. Its subclasses inherit them."""
        if code:
            cls.code, cls.exit_code = code, exit_code

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint

    def line(self) -> str:
        """Return the one line for standard error, which the kubelet writes to its log."""
        text = f"oke-credential-provider: {self.code}: {self.message} | {self.hint}"
        return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def as_provider_error(error: Exception) -> ProviderError:
    """Return the error itself, or what users see of an unexpected one: its message may contain a secret."""
    if isinstance(error, ProviderError):
        return error
    return ProviderError(f"unexpected {type(error).__name__}")


class BadRequest(ProviderError, code="bad-request", exit_code=10):
    """Standard input is not a valid CredentialProviderRequest."""

    default_hint = "Set apiVersion credentialprovider.kubelet.k8s.io/v1 for this provider in the CredentialProviderConfig."


class BadSettings(ProviderError, code="bad-settings", exit_code=11):
    """An environment variable or a key in the settings file has an invalid value."""

    default_hint = "Correct the value in the provider's env (CredentialProviderConfig) or in the settings file."


class BadUserPrincipal(ProviderError, code="bad-user-principal", exit_code=12):
    """The OCI config file, its profile or its key is unusable."""

    default_hint = "Check OCI_CONFIG_FILE and OCI_CLI_PROFILE. On a node, use OCIR_AUTH_METHOD=INSTANCE_PRINCIPAL."


class NoServiceAccountToken(ProviderError, code="no-service-account-token", exit_code=13):
    """The request has no usable service-account token, which WORKLOAD_IDENTITY needs."""

    default_hint = (
        "Set tokenAttributes for this provider in the CredentialProviderConfig (kubelet 1.34, or 1.33 with the"
        " feature gate), as printed by oke-credential-provider config --workload-identity AUDIENCE. For static pods, which have no service"
        " account, set OCIR_AUTH_METHOD=WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL."
    )


class BadResourcePrincipal(ProviderError, code="bad-resource-principal", exit_code=14):
    """The environment has no usable resource principal."""

    default_hint = (
        "OCI sets the variables OCI_RESOURCE_PRINCIPAL_* in functions, container instances and pipelines."
        " Elsewhere, choose another OCIR_AUTH_METHOD."
    )


class ClusterUnknown(ProviderError, code="cluster-unknown", exit_code=15):
    """The cluster's API server or its CA certificate was not found on this node."""

    default_hint = (
        "Start the kubelet with --kubeconfig. Only root may have write access to that file and the directories"
        " above it. Or set KUBERNETES_SERVICE_HOST and OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH."
    )


class ConfigUnreadable(ProviderError, code="config-unreadable", exit_code=16):
    """``config --validate``: the CredentialProviderConfig cannot be read."""

    default_hint = (
        "Give the file or directory of the kubelet's flag --image-credential-provider-config. The kubelet does"
        " not start without it."
    )


class CannotMerge(ProviderError, code="cannot-merge", exit_code=17):
    """``--merge``: the CredentialProviderConfig cannot be edited without guessing; it is unchanged."""

    default_hint = (
        "Add the entry that oke-credential-provider config prints to the config's providers."
    )


class ImdsUnreachable(ProviderError, code="imds-unreachable", exit_code=20):
    """The instance metadata service did not answer."""

    default_hint = "Check that this is an OCI instance and that its firewall allows root to reach 169.254.169.254 port 80."


class ImdsThrottled(ProviderError, code="imds-throttled", exit_code=21):
    """The instance metadata service throttled the requests (429)."""

    default_hint = (
        "A program on this node sends too many requests to the metadata service: look for agents that poll"
        " 169.254.169.254. The kubelet will try again."
    )


class ImdsUnusable(ProviderError, code="imds-unusable", exit_code=22):
    """The instance metadata service answered, but without a usable identity."""

    default_hint = "Only an OCI instance has a certificate for the instance principal. To see what answers, run: curl -H 'Authorization: Bearer Oracle' http://169.254.169.254/opc/v2/instance/regionInfo"


class FederationUnreachable(ProviderError, code="federation-unreachable", exit_code=30):
    """The federation endpoint (auth.<region>.<realm domain>) did not answer."""

    default_hint = (
        "Check DNS, the route table and the security rules. A private subnet needs a service gateway for"
        " 'All <region> Services In Oracle Services Network', or a NAT gateway."
    )


class FederationRefused(ProviderError, code="federation-refused", exit_code=31):
    """The federation endpoint refused the instance's certificate."""

    default_hint = (
        "OCI does not accept this instance's certificate. Check the node's clock. If it is correct, reboot or"
        " replace the node, and give the opc-request-id to Oracle support."
    )


class FederationMalformed(ProviderError, code="federation-malformed", exit_code=32):
    """The federation endpoint answered without a token."""

    default_hint = "A proxy between the node and OCI may have answered: check the proxies."


class WorkloadUnreachable(ProviderError, code="workload-unreachable", exit_code=33):
    """The cluster's workload identity endpoint (port 12250 of the API server) did not answer."""

    default_hint = (
        "Check the security rules: workers need TCP 12250 to the subnet of the Kubernetes API endpoint. The"
        " program never uses a proxy for this endpoint."
    )


class WorkloadRefused(ProviderError, code="workload-refused", exit_code=34):
    """The cluster's workload identity endpoint refused the service account's token."""

    default_hint = (
        "Set serviceAccountTokenAudience in the CredentialProviderConfig to an audience that the cluster accepts:"
        " the claim aud of the token that kubectl create token default prints."
    )


class BasicCluster(ProviderError, code="basic-cluster", exit_code=35):
    """The cluster has no workload identity."""

    default_hint = (
        "Workload identity needs an enhanced cluster: oci ce cluster update --cluster-id <OCID>"
        " --type ENHANCED_CLUSTER. Until then, use OCIR_AUTH_METHOD=INSTANCE_PRINCIPAL."
    )


class WorkloadMalformed(ProviderError, code="workload-malformed", exit_code=36):
    """The cluster's workload identity endpoint answered without a token."""

    default_hint = (
        "Check that KUBERNETES_SERVICE_HOST is the API server of an OKE cluster. If it is, report this with the"
        " opc-request-id."
    )


class RegistryUnreachable(ProviderError, code="registry-unreachable", exit_code=40):
    """The registry did not answer the token request."""

    default_hint = (
        "Check DNS, the route table and the security rules. A private subnet needs a service gateway for"
        " 'All <region> Services In Oracle Services Network', or a NAT gateway."
    )


class TokenRefused(ProviderError, code="token-refused", exit_code=41):
    """The registry's token endpoint refused the principal."""

    default_hint = (
        "OCI accepts the principal, but the registry issued no token. Check the region and the realm in the"
        " image's name, and REGISTRY_TOKEN_PATH."
    )


class TokenMalformed(ProviderError, code="token-malformed", exit_code=42):
    """The registry's token endpoint answered without a token."""

    default_hint = "A proxy between the node and OCI may have answered: check the proxies."


class ClockSkew(ProviderError, code="clock-skew", exit_code=50):
    """OCI refused a signature because this machine's clock is wrong."""

    default_hint = "OCI allows 5 minutes. Start chronyd (OCI has NTP at 169.254.169.254), then run: chronyc makestep"


class TlsUntrusted(ProviderError, code="tls-untrusted", exit_code=51):
    """A server's certificate could not be verified."""

    default_hint = (
        "Check the node's clock, its CA bundle (ca-certificates), and whether a proxy intercepts TLS."
        " SSL_CERT_FILE selects another CA bundle."
    )


class DeadlineExceeded(ProviderError, code="deadline", exit_code=60):
    """The deadline of the call passed."""

    default_hint = (
        "A server was too slow. The message names the step that waited. The kubelet will try again."
    )


class Terminated(ProviderError, code="terminated", exit_code=61):
    """SIGTERM or SIGINT ended the call."""

    default_hint = "The caller ended this call. No files are left behind."


class CannotUnpack(ProviderError, code="cannot-unpack", exit_code=71):
    """The one-file form or ``install`` found no usable directory."""

    default_hint = (
        "Set TMPDIR to a directory with 40 MB of free space that is not mounted noexec. Then run the command"
        " install: the installed program does not unpack itself."
    )


class Damaged(ProviderError, code="damaged", exit_code=72):
    """Files of the installed program are missing or changed."""

    default_hint = "Install it again."


class CannotInstall(ProviderError, code="cannot-install", exit_code=73):
    """``install`` or ``uninstall`` refused to continue."""

    default_hint = "Correct the cause and run the command again. What worked before still works."


class StillInUse(ProviderError, code="still-in-use", exit_code=74):
    """``uninstall``: the running kubelet still uses this installation and could not start without it."""

    default_hint = (
        "Run oke-credential-provider disable first, or remove the --image-credential-provider flags from the"
        " kubelet and restart it. --force skips this check."
    )


class NewerInstalled(ProviderError, code="newer-installed", exit_code=78):
    """``install``: a newer version is active on this node."""

    default_hint = "The node keeps the newer version. To downgrade it: install --allow-downgrade"


class CannotEnable(ProviderError, code="cannot-enable", exit_code=75):
    """``enable`` or ``disable`` refused to start and changed nothing."""

    default_hint = "Correct the cause and run the command again. The kubelet still runs as before."


class RolledBack(ProviderError, code="rolled-back", exit_code=76):
    """The kubelet did not stay healthy after ``enable`` or ``disable``; the change was rolled back."""

    default_hint = "The kubelet runs as before. Its log shows the reason: journalctl -u kubelet --no-pager -n 100"


class KubeletUnhealthy(ProviderError, code="kubelet-unhealthy", exit_code=77):
    """The kubelet is not healthy after ``enable`` or ``disable``, and no rollback is possible."""

    default_hint = (
        "Repair this node now: journalctl -u kubelet --no-pager -n 100; systemctl cat kubelet"
    )
