"""A manifest's container as an OCI bundle for runc, with the permissions that the manifest gives it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any

NODE_NAME = "10.0.0.7"
_HOST = {"network": "hostNetwork", "pid": "hostPID"}


@cache
def _default_spec() -> str:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["runc", "spec", "--bundle", folder], check=True)
        with open(f"{folder}/config.json", encoding="utf-8") as file:
            return file.read()


def runc_spec(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    image: Mapping[str, Any],
    sources: Mapping[str, str],
) -> dict[str, Any]:
    """The content of a bundle's config.json. `image`: its config. `sources`: the directory of each volume."""
    spec: dict[str, Any] = json.loads(_default_spec())
    context = container["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert not context.get("privileged")
    capabilities = [f"CAP_{name}" for name in context["capabilities"].get("add", ())]
    user = context["runAsUser"]
    assert "command" not in container
    for variable in container.get("env", ()):
        assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
        spec["process"]["env"].append(f"{variable['name']}={NODE_NAME}")
    # Set by the kubelet in each container.
    spec["process"]["env"].append("KUBERNETES_SERVICE_HOST=10.96.0.1")
    spec["process"].update(
        terminal=False,
        args=[*image["Entrypoint"], *container["args"]],
        user={"uid": user, "gid": user},
        noNewPrivileges=not context["allowPrivilegeEscalation"],
        capabilities=dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
    )
    spec["root"]["readonly"] = context["readOnlyRootFilesystem"]
    hosts = {kind for kind in ("network", "pid") if pod.get(_HOST[kind])}
    namespaces = spec["linux"]["namespaces"]
    spec["linux"]["namespaces"] = [each for each in namespaces if each["type"] not in hosts]
    for mount in container.get("volumeMounts", ()):
        spec["mounts"].append(
            {
                "destination": mount["mountPath"],
                "type": "bind",
                "source": sources[mount["name"]],
                "options": ["rbind", "rslave", "ro" if mount.get("readOnly") else "rw"],
            }
        )
    return spec
