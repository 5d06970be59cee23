"""A manifest's container as an OCI bundle for runc, with the permissions that the manifest gives it."""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any


@cache
def _default_spec() -> str:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["runc", "spec", "--bundle", folder], check=True)
        with open(f"{folder}/config.json", encoding="utf-8") as file:
            return file.read()


def runc_spec(
    pod: Mapping[str, Any], container: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, Any]:
    """The content of a bundle's config.json. `sources`: the directory of each volume."""
    spec: dict[str, Any] = json.loads(_default_spec())
    context = container["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert not context.get("privileged")
    capabilities = [f"CAP_{name}" for name in context["capabilities"].get("add", ())]
    user = context["runAsUser"]
    spec["process"].update(
        terminal=False,
        args=container["command"],
        user={"uid": user, "gid": user},
        noNewPrivileges=not context["allowPrivilegeEscalation"],
        capabilities=dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
    )
    spec["root"]["readonly"] = context["readOnlyRootFilesystem"]
    if pod.get("hostNetwork"):
        namespaces = spec["linux"]["namespaces"]
        spec["linux"]["namespaces"] = [each for each in namespaces if each["type"] != "network"]
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
