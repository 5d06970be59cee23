"""Every way in which a call can fail, as one family of exceptions.

Each error has a stable ``code`` (what people grep for), a ``message`` (what failed, where), a
``hint`` (what to do) and an ``exit_code``. ``provider.main`` catches the root, and only there.

No token, key or certificate is ever put into a message.
"""

from typing import ClassVar


class ProviderError(Exception):
    """Root of all errors. Subclasses set ``code``, ``exit_code`` and a default ``hint``."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70
    default_hint: ClassVar[str] = (
        "This is a fault of the program. Run it with --verbose and report the output."
    )

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint

    def line(self) -> str:
        """The one line that the kubelet puts into its log (it logs all of a failing plugin's stderr)."""
        text = f"oke-credential-provider: {self.code}: {self.message} | {self.hint}"
        return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


class BadRequest(ProviderError):
    """Standard input is not a CredentialProviderRequest that this program can answer."""

    code = "bad-request"
    exit_code = 10
    default_hint = (
        "The kubelet sends a credentialprovider.kubelet.k8s.io/v1 CredentialProviderRequest; "
        "set that apiVersion for this provider in the CredentialProviderConfig."
    )


class BadSettings(ProviderError):
    """An environment variable or a key of the settings file has a wrong value."""

    code = "bad-settings"
    exit_code = 11
    default_hint = (
        "Correct it in the provider's env (CredentialProviderConfig) or in the settings file."
    )


class BadUserPrincipal(ProviderError):
    """The OCI config file, its profile or its key cannot be used."""

    code = "bad-user-principal"
    exit_code = 12
    default_hint = "Check OCI_CONFIG_FILE and OCI_CLI_PROFILE; on a node use OCIR_AUTH_METHOD=INSTANCE_PRINCIPAL."


class NoServiceAccountToken(ProviderError):
    """The pod's identity is to be proved, and the kubelet sent no usable token of it."""

    code = "no-service-account-token"
    exit_code = 13
    default_hint = (
        "Set tokenAttributes for this provider in the CredentialProviderConfig (kubelet 1.34, or 1.33 with"
        " its feature gate): oke-credential-provider config --workload-identity. Pods without a service"
        " account (static pods) pull as the node only with OCIR_AUTH_METHOD=WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL."
    )


class BadResourcePrincipal(ProviderError):
    """The environment holds no resource principal that can be used."""

    code = "bad-resource-principal"
    exit_code = 14
    default_hint = (
        "Functions, container instances and pipelines set OCI_RESOURCE_PRINCIPAL_VERSION and its companions;"
        " elsewhere choose another OCIR_AUTH_METHOD."
    )


class ClusterUnknown(ProviderError):
    """The cluster's API server or its CA certificate is not to be found on this node."""

    code = "cluster-unknown"
    exit_code = 15
    default_hint = (
        "The kubelet must be started with --kubeconfig, and root alone may write to that file and the"
        " folders above it; else set KUBERNETES_SERVICE_HOST and OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH."
    )


class ConfigUnreadable(ProviderError):
    """``config --validate``: the CredentialProviderConfig cannot be read."""

    code = "config-unreadable"
    exit_code = 16
    default_hint = (
        "Name the file or folder that the kubelet's --image-credential-provider-config names. The kubelet"
        " does not start without it."
    )


class ImdsUnreachable(ProviderError):
    """The instance metadata service did not answer."""

    code = "imds-unreachable"
    exit_code = 20
    default_hint = (
        "Is this an OCI instance, and do its firewall rules let root reach 169.254.169.254 port 80?"
    )


class ImdsThrottled(ProviderError):
    """The instance metadata service kept answering 429."""

    code = "imds-throttled"
    exit_code = 21
    default_hint = (
        "Something on this node asks the metadata service too often; the kubelet will try again. "
        "Look for agents that poll 169.254.169.254."
    )


class ImdsUnusable(ProviderError):
    """The instance metadata service answered, but not with an identity."""

    code = "imds-unusable"
    exit_code = 22
    default_hint = (
        "Only an OCI instance has an instance principal certificate. To see what answers: "
        "curl -H 'Authorization: Bearer Oracle' http://169.254.169.254/opc/v2/instance/regionInfo"
    )


class FederationUnreachable(ProviderError):
    """The federation endpoint (auth.<region>.<realm domain>) gave no usable answer."""

    code = "federation-unreachable"
    exit_code = 30
    default_hint = (
        "Check DNS, route table and security rules: a private subnet reaches it by a Service Gateway "
        "for 'All <region> Services In Oracle Services Network' or by a NAT gateway."
    )


class FederationRefused(ProviderError):
    """The federation endpoint refused the instance's certificate."""

    code = "federation-refused"
    exit_code = 31
    default_hint = (
        "OCI does not accept this instance's certificate. Check the node's clock; "
        "if it is right, reboot or replace the node and give Oracle support the opc-request-id."
    )


class FederationMalformed(ProviderError):
    """The federation endpoint answered with something that is not a token."""

    code = "federation-malformed"
    exit_code = 32
    default_hint = (
        "Something between the node and OCI may be answering in its place: check proxies."
    )


class WorkloadUnreachable(ProviderError):
    """The cluster's workload identity endpoint (port 12250 of its API server) gave no usable answer."""

    code = "workload-unreachable"
    exit_code = 33
    default_hint = (
        "Check security rules: OKE's workers need TCP 12250 to the subnet of the Kubernetes API endpoint."
        " It is never reached by a proxy."
    )


class WorkloadRefused(ProviderError):
    """The cluster's workload identity endpoint refused the service account's token."""

    code = "workload-refused"
    exit_code = 34
    default_hint = (
        "serviceAccountTokenAudience in the CredentialProviderConfig must be one that the cluster takes: that of"
        " the tokens which its pods carry (kubectl create token default shows it)."
    )


class BasicCluster(ProviderError):
    """The cluster gives its workloads no identity."""

    code = "basic-cluster"
    exit_code = 35
    default_hint = (
        "Workload identity needs an enhanced cluster: oci ce cluster update --cluster-id <OCID>"
        " --type ENHANCED_CLUSTER. Until then use OCIR_AUTH_METHOD=INSTANCE_PRINCIPAL."
    )


class WorkloadMalformed(ProviderError):
    """The cluster's workload identity endpoint answered with something that is not a token."""

    code = "workload-malformed"
    exit_code = 36
    default_hint = (
        "Is KUBERNETES_SERVICE_HOST the API server of an OKE cluster? If so, report this with the"
        " opc-request-id."
    )


class RegistryUnreachable(ProviderError):
    """The registry gave no usable answer to the token request."""

    code = "registry-unreachable"
    exit_code = 40
    default_hint = (
        "Check DNS, route table and security rules: a private subnet reaches OCIR by a Service Gateway "
        "for 'All <region> Services In Oracle Services Network' or by a NAT gateway."
    )


class TokenRefused(ProviderError):
    """The registry's token endpoint refused the principal."""

    code = "token-refused"
    exit_code = 41
    default_hint = (
        "OCI knows the principal but the registry gives it no token. Check the image's region and realm, "
        "and REGISTRY_TOKEN_PATH."
    )


class TokenMalformed(ProviderError):
    """The registry's token endpoint answered with something that is not a token."""

    code = "token-malformed"
    exit_code = 42
    default_hint = (
        "Something between the node and OCI may be answering in its place: check proxies."
    )


class ClockSkew(ProviderError):
    """OCI refused a signature because this machine's clock is wrong."""

    code = "clock-skew"
    exit_code = 50
    default_hint = "OCI allows 5 minutes. Start chronyd (NTP at 169.254.169.254 on OCI), then: chronyc makestep"


class TlsUntrusted(ProviderError):
    """A server's certificate could not be verified."""

    code = "tls-untrusted"
    exit_code = 51
    default_hint = (
        "Check the node's clock, its CA bundle (ca-certificates) and whether a proxy intercepts TLS; "
        "SSL_CERT_FILE can name another bundle."
    )


class DeadlineExceeded(ProviderError):
    """The call's time ran out. The kubelet kills a plugin after 60 s without a reason; we give one."""

    code = "deadline"
    exit_code = 60
    default_hint = (
        "A server was too slow. The kubelet will try again; see the log for the step that waited."
    )


class Terminated(ProviderError):
    """SIGTERM or SIGINT ended the call."""

    code = "terminated"
    exit_code = 61
    default_hint = "The caller ended this call; nothing is left behind."


class CannotUnpack(ProviderError):
    """The one-file form found no folder to run in (packaging/launcher.c says so), or ``install`` none
    to write to.
    """

    code = "cannot-unpack"
    exit_code = 71
    default_hint = (
        "Set TMPDIR to a folder where programs may run and 40 MB are free, and run the command install"
        " there once: the installed program unpacks nothing."
    )


class Damaged(ProviderError):
    """Files of the installed program are missing or were changed."""

    code = "damaged"
    exit_code = 72
    default_hint = "Install it again."


class CannotInstall(ProviderError):
    """``install`` or ``uninstall`` met something that it does not go past."""

    code = "cannot-install"
    exit_code = 73
    default_hint = "Correct the cause and run it again; what worked before still works."


class StillInUse(ProviderError):
    """``uninstall``: the running kubelet was started with what would go, and could not start again."""

    code = "still-in-use"
    exit_code = 74
    default_hint = (
        "Run oke-credential-provider disable first, or take the --image-credential-provider flags from"
        " the kubelet and restart it; --force does not wait for that."
    )


class CannotEnable(ProviderError):
    """``enable`` or ``disable`` refused to start; nothing was changed."""

    code = "cannot-enable"
    exit_code = 75
    default_hint = "Correct the cause and run it again; the kubelet runs on as before."


class RolledBack(ProviderError):
    """The kubelet did not stay healthy after ``enable`` or ``disable``; the change was rolled back."""

    code = "rolled-back"
    exit_code = 76
    default_hint = "The kubelet runs as before. Its log has the reason: journalctl -u kubelet --no-pager -n 100"


class KubeletUnhealthy(ProviderError):
    """After ``enable`` or ``disable`` the kubelet is not healthy, and nothing more can be undone."""

    code = "kubelet-unhealthy"
    exit_code = 77
    default_hint = "This node needs a person now: journalctl -u kubelet --no-pager -n 100; systemctl cat kubelet"
