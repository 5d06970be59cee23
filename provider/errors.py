"""All errors of the program.

Each error has a stable ``code`` (to search for), a ``message`` (what failed, and where), a ``hint`` (what to do)
and an ``exit_code``. ``provider.__main__`` catches them.

No message contains a token, key or certificate.
"""

from typing import ClassVar


class ProviderError(Exception):
    """The base class. Subclasses set ``code``, ``exit_code`` and ``default_hint``."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70
    default_hint: ClassVar[str] = (
        "This is a bug. Run the program with --verbose and report the output."
    )

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


class BadRequest(ProviderError):
    """Standard input is not a valid CredentialProviderRequest."""

    code = "bad-request"
    exit_code = 10
    default_hint = "Set apiVersion credentialprovider.kubelet.k8s.io/v1 for this provider in the CredentialProviderConfig."


class BadSettings(ProviderError):
    """An environment variable or a key in the settings file has an invalid value."""

    code = "bad-settings"
    exit_code = 11
    default_hint = "Correct the value in the provider's env (CredentialProviderConfig) or in the settings file."


class BadUserPrincipal(ProviderError):
    """The OCI config file, its profile or its key is unusable."""

    code = "bad-user-principal"
    exit_code = 12
    default_hint = "Check OCI_CONFIG_FILE and OCI_CLI_PROFILE. On a node, use OCIR_AUTH_METHOD=INSTANCE_PRINCIPAL."


class NoServiceAccountToken(ProviderError):
    """The request has no usable service-account token, which WORKLOAD_IDENTITY needs."""

    code = "no-service-account-token"
    exit_code = 13
    default_hint = (
        "Set tokenAttributes for this provider in the CredentialProviderConfig (kubelet 1.34, or 1.33 with the"
        " feature gate), as printed by oke-credential-provider config --workload-identity AUDIENCE. For static pods, which have no service"
        " account, set OCIR_AUTH_METHOD=WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL."
    )


class BadResourcePrincipal(ProviderError):
    """The environment has no usable resource principal."""

    code = "bad-resource-principal"
    exit_code = 14
    default_hint = (
        "OCI sets the variables OCI_RESOURCE_PRINCIPAL_* in functions, container instances and pipelines."
        " Elsewhere, choose another OCIR_AUTH_METHOD."
    )


class ClusterUnknown(ProviderError):
    """The cluster's API server or its CA certificate was not found on this node."""

    code = "cluster-unknown"
    exit_code = 15
    default_hint = (
        "Start the kubelet with --kubeconfig. Only root may have write access to that file and the directories"
        " above it. Or set KUBERNETES_SERVICE_HOST and OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH."
    )


class ConfigUnreadable(ProviderError):
    """``config --validate``: the CredentialProviderConfig cannot be read."""

    code = "config-unreadable"
    exit_code = 16
    default_hint = (
        "Give the file or directory of the kubelet's flag --image-credential-provider-config. The kubelet does"
        " not start without it."
    )


class CannotMerge(ProviderError):
    """``--merge``: the CredentialProviderConfig cannot be edited without guessing; it is unchanged."""

    code = "cannot-merge"
    exit_code = 17
    default_hint = (
        "Add the entry that oke-credential-provider config prints to the config's providers."
    )


class ImdsUnreachable(ProviderError):
    """The instance metadata service did not answer."""

    code = "imds-unreachable"
    exit_code = 20
    default_hint = "Check that this is an OCI instance and that its firewall allows root to reach 169.254.169.254 port 80."


class ImdsThrottled(ProviderError):
    """The instance metadata service throttled the requests (429)."""

    code = "imds-throttled"
    exit_code = 21
    default_hint = (
        "A program on this node sends too many requests to the metadata service: look for agents that poll"
        " 169.254.169.254. The kubelet will try again."
    )


class ImdsUnusable(ProviderError):
    """The instance metadata service answered, but without a usable identity."""

    code = "imds-unusable"
    exit_code = 22
    default_hint = "Only an OCI instance has a certificate for the instance principal. To see what answers, run: curl -H 'Authorization: Bearer Oracle' http://169.254.169.254/opc/v2/instance/regionInfo"


class FederationUnreachable(ProviderError):
    """The federation endpoint (auth.<region>.<realm domain>) did not answer."""

    code = "federation-unreachable"
    exit_code = 30
    default_hint = (
        "Check DNS, the route table and the security rules. A private subnet needs a service gateway for"
        " 'All <region> Services In Oracle Services Network', or a NAT gateway."
    )


class FederationRefused(ProviderError):
    """The federation endpoint refused the instance's certificate."""

    code = "federation-refused"
    exit_code = 31
    default_hint = (
        "OCI does not accept this instance's certificate. Check the node's clock. If it is correct, reboot or"
        " replace the node, and give the opc-request-id to Oracle support."
    )


class FederationMalformed(ProviderError):
    """The federation endpoint answered without a token."""

    code = "federation-malformed"
    exit_code = 32
    default_hint = "A proxy between the node and OCI may have answered: check the proxies."


class WorkloadUnreachable(ProviderError):
    """The cluster's workload identity endpoint (port 12250 of the API server) did not answer."""

    code = "workload-unreachable"
    exit_code = 33
    default_hint = (
        "Check the security rules: workers need TCP 12250 to the subnet of the Kubernetes API endpoint. The"
        " program never uses a proxy for this endpoint."
    )


class WorkloadRefused(ProviderError):
    """The cluster's workload identity endpoint refused the service account's token."""

    code = "workload-refused"
    exit_code = 34
    default_hint = (
        "Set serviceAccountTokenAudience in the CredentialProviderConfig to an audience that the cluster accepts:"
        " the claim aud of the token that kubectl create token default prints."
    )


class BasicCluster(ProviderError):
    """The cluster has no workload identity."""

    code = "basic-cluster"
    exit_code = 35
    default_hint = (
        "Workload identity needs an enhanced cluster: oci ce cluster update --cluster-id <OCID>"
        " --type ENHANCED_CLUSTER. Until then, use OCIR_AUTH_METHOD=INSTANCE_PRINCIPAL."
    )


class WorkloadMalformed(ProviderError):
    """The cluster's workload identity endpoint answered without a token."""

    code = "workload-malformed"
    exit_code = 36
    default_hint = (
        "Check that KUBERNETES_SERVICE_HOST is the API server of an OKE cluster. If it is, report this with the"
        " opc-request-id."
    )


class RegistryUnreachable(ProviderError):
    """The registry did not answer the token request."""

    code = "registry-unreachable"
    exit_code = 40
    default_hint = (
        "Check DNS, the route table and the security rules. A private subnet needs a service gateway for"
        " 'All <region> Services In Oracle Services Network', or a NAT gateway."
    )


class TokenRefused(ProviderError):
    """The registry's token endpoint refused the principal."""

    code = "token-refused"
    exit_code = 41
    default_hint = (
        "OCI accepts the principal, but the registry issued no token. Check the region and the realm in the"
        " image's name, and REGISTRY_TOKEN_PATH."
    )


class TokenMalformed(ProviderError):
    """The registry's token endpoint answered without a token."""

    code = "token-malformed"
    exit_code = 42
    default_hint = "A proxy between the node and OCI may have answered: check the proxies."


class ClockSkew(ProviderError):
    """OCI refused a signature because this machine's clock is wrong."""

    code = "clock-skew"
    exit_code = 50
    default_hint = "OCI allows 5 minutes. Start chronyd (OCI has NTP at 169.254.169.254), then run: chronyc makestep"


class TlsUntrusted(ProviderError):
    """A server's certificate could not be verified."""

    code = "tls-untrusted"
    exit_code = 51
    default_hint = (
        "Check the node's clock, its CA bundle (ca-certificates), and whether a proxy intercepts TLS."
        " SSL_CERT_FILE selects another CA bundle."
    )


class DeadlineExceeded(ProviderError):
    """The deadline of the call passed."""

    code = "deadline"
    exit_code = 60
    default_hint = (
        "A server was too slow. The message names the step that waited. The kubelet will try again."
    )


class Terminated(ProviderError):
    """SIGTERM or SIGINT ended the call."""

    code = "terminated"
    exit_code = 61
    default_hint = "The caller ended this call. No files are left behind."


class CannotUnpack(ProviderError):
    """The one-file form or ``install`` found no usable directory."""

    code = "cannot-unpack"
    exit_code = 71
    default_hint = (
        "Set TMPDIR to a directory with 40 MB of free space that is not mounted noexec. Then run the command"
        " install: the installed program does not unpack itself."
    )


class Damaged(ProviderError):
    """Files of the installed program are missing or changed."""

    code = "damaged"
    exit_code = 72
    default_hint = "Install it again."


class CannotInstall(ProviderError):
    """``install`` or ``uninstall`` refused to continue."""

    code = "cannot-install"
    exit_code = 73
    default_hint = "Correct the cause and run the command again. What worked before still works."


class StillInUse(ProviderError):
    """``uninstall``: the running kubelet still uses this installation and could not start without it."""

    code = "still-in-use"
    exit_code = 74
    default_hint = (
        "Run oke-credential-provider disable first, or remove the --image-credential-provider flags from the"
        " kubelet and restart it. --force skips this check."
    )


class NewerInstalled(ProviderError):
    """``install``: a newer version is active on this node."""

    code = "newer-installed"
    exit_code = 78
    default_hint = "The node keeps the newer version. To downgrade it: install --allow-downgrade"


class CannotEnable(ProviderError):
    """``enable`` or ``disable`` refused to start and changed nothing."""

    code = "cannot-enable"
    exit_code = 75
    default_hint = "Correct the cause and run the command again. The kubelet still runs as before."


class RolledBack(ProviderError):
    """The kubelet did not stay healthy after ``enable`` or ``disable``; the change was rolled back."""

    code = "rolled-back"
    exit_code = 76
    default_hint = "The kubelet runs as before. Its log shows the reason: journalctl -u kubelet --no-pager -n 100"


class KubeletUnhealthy(ProviderError):
    """The kubelet is not healthy after ``enable`` or ``disable``, and no rollback is possible."""

    code = "kubelet-unhealthy"
    exit_code = 77
    default_hint = (
        "Repair this node now: journalctl -u kubelet --no-pager -n 100; systemctl cat kubelet"
    )
