"""A manifest's container as an OCI bundle for runc, with the permissions that the manifest gives it."""

import json
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from tests.support.built import ARCHITECTURE

NODE_NAME = "10.0.0.7"
_HOST = {"network": "hostNetwork", "pid": "hostPID"}
# The default profile of podman and CRI-O (golang-github-containers-common); containerd's is like it.
_SECCOMP = "/usr/share/containers/seccomp.json"


def _seccomp(capabilities: Collection[str]) -> dict[str, Any]:
    """The seccomp profile RuntimeDefault of a container with these capabilities, for runc."""
    with open(_SECCOMP, encoding="utf-8") as file:
        profile = json.load(file)

    def applies(rule: Mapping[str, Any]) -> bool:
        needed, excluded = rule.get("includes") or {}, rule.get("excludes") or {}
        return (
            set(needed.get("caps", ())) <= set(capabilities)
            and not set(excluded.get("caps", ())) & set(capabilities)
            and ARCHITECTURE in needed.get("arches", (ARCHITECTURE,))
        )

    keys = ("names", "action", "args", "errnoRet")
    rules = [
        {key: rule[key] for key in keys if rule.get(key) is not None}
        for rule in profile["syscalls"]
        if applies(rule)
    ]
    action, number = profile["defaultAction"], profile["defaultErrnoRet"]
    return {"defaultAction": action, "defaultErrnoRet": number, "syscalls": rules}


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
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    spec["linux"]["seccomp"] = _seccomp(capabilities)
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
