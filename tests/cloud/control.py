"""Controls the stand-in from outside: one typed method per command."""

import json
import socket
from pathlib import Path
from typing import Any

from tests.cloud.model import (
    AUDIENCE,
    RESOURCE,
    USER,
    ApiKey,
    Cluster,
    Endpoint,
    Fault,
    Group,
    Iam,
    Imds,
    Report,
    Secret,
    Session,
    Workload,
    from_json,
    to_json,
)


class Control:
    """A connection to the control socket of the stand-in. Each command takes effect before it returns."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(str(path))
        self._answers = self._socket.makefile("rb")

    def _call(self, op: str, value: Any = None) -> Any:
        self._socket.sendall(json.dumps({"op": op, "value": value}).encode() + b"\n")
        answer = json.loads(self._answers.readline())
        if "error" in answer:
            raise RuntimeError(f"the stand-in refused {op}: {answer['error']}")
        return answer["value"]

    def fault(self, target: Endpoint | Group, fault: Fault) -> None:
        """Set the fault of `target`. It replaces an earlier one."""
        self._call("fault", {"target": target, "fault": to_json(fault)})

    def clear_faults(self) -> None:
        self._call("clear_faults")

    def latency(self, milliseconds: float) -> None:
        """Delay each answer of each endpoint."""
        self._call("latency", milliseconds)

    def seed(self, value: int) -> None:
        """Set the seed of the random faults."""
        self._call("seed", value)

    def report(self) -> Report:
        return from_json(Report, self._call("report"))

    def reset_counters(self) -> None:
        self._call("reset_counters")

    def secrets(self) -> list[Secret]:
        """Return all secrets that were issued since the start."""
        return [from_json(Secret, secret) for secret in self._call("secrets")]

    def imds(self, imds: Imds) -> None:
        self._call("imds", to_json(imds))

    def iam(self, iam: Iam) -> None:
        self._call("iam", to_json(iam))

    def clock(self, offset_s: float) -> None:
        """Set the clock skew of the stand-in in seconds (positive: ahead)."""
        self._call("clock", offset_s)

    def registry_lifetime(self, seconds: float) -> None:
        """Set the lifetime of OCIR's tokens."""
        self._call("registry_lifetime", seconds)

    def api_key(self, user: str = USER, passphrase: str | None = None) -> ApiKey:
        """Create an API key for a user."""
        value = {"user": user, "passphrase": passphrase}
        return from_json(ApiKey, self._call("api_key", value))

    def session(self, user: str = USER) -> Session:
        """Create a session token for a user."""
        return from_json(Session, self._call("session", user))

    def cluster(self, cluster: Cluster) -> None:
        self._call("cluster", to_json(cluster))

    def service_account_token(
        self,
        account: Workload,
        uid: str = "",
        *,
        pod: str = "pod-1",
        audience: str = AUDIENCE,
        life_s: float = 3600,
        forged: bool = False,
    ) -> str:
        """Return a pod's service-account token, as from the API server. `uid` "" is derived from the names."""
        uid = uid or f"uid-of-{account.namespace}-{account.service_account}"
        value = {"account": to_json(account), "uid": uid, "pod": pod, "audience": audience}
        more = {"life_s": life_s, "forged": forged}
        return str(self._call("service_account_token", {**value, **more}))

    def resource(self) -> Session:
        """Create a resource principal's session token, as in a container instance of OCI."""
        return self.session(RESOURCE)

    def upstream(self, port: int | None) -> None:
        """Use the docker-registry at 127.0.0.1:`port` for OCIR's /v2/; None: no registry."""
        self._call("upstream", port)

    def push_token(self, repository: str) -> str:
        """Return a docker-registry token that allows pushes to `repository`."""
        return str(self._call("push_token", repository))

    def reset(self) -> None:
        """Restore the initial state: no fault, latency or skew, default IAM and metadata, counters at zero.

        Keys, API keys, the list of secrets and the registry do not change.
        """
        self.clear_faults()
        self.latency(0)
        self.clock(0)
        self.seed(0)
        self.registry_lifetime(3600)
        self.imds(Imds())
        self.iam(Iam())
        self.cluster(Cluster())
        self.reset_counters()

    def close(self) -> None:
        self._answers.close()
        self._socket.close()
