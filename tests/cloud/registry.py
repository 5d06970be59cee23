"""Real programs: Debian's docker-registry behind the stand-in, and pulls with skopeo and containerd."""

import base64
import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cloud.control import Control
from tests.cloud.model import ISSUER, PAUSE, REGISTRY_USER, SERVICE
from tests.cloud.namespace import Completed, Namespace

REGISTRY_PORT = 5000
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
REPOSITORIES = ("ns/repo", "ns/app", "ns/public", PAUSE, "other/secret")


class Registry:
    """docker-registry inside the namespace, with one small image in several repositories."""

    def __init__(self, ns: Namespace, control: Control) -> None:
        self.ns, self._control = ns, control
        self.folder = ns.folder / "registry"
        self.folder.mkdir()
        self._containerd: subprocess.Popen[bytes] | None = None
        config = self.folder / "config.json"  # JSON is YAML
        config.write_text(json.dumps(self._config()))
        log = self.folder / "log"
        with log.open("wb") as file:
            self._process = ns.popen(
                ["docker-registry", "serve", str(config)], stdout=file, stderr=file
            )
        wait_for(log, b"listening on", self._process)
        self.layout = self.folder / "image"
        self.digest = write_image(self.layout)
        for repository in REPOSITORIES:
            self.push(repository, ("latest", "v1"))
        self.push("ns/untagged", ("v1",))

    def _config(self) -> dict[str, object]:
        return {
            "version": 0.1,
            "log": {"accesslog": {"disabled": True}, "level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "storage")}},
            "http": {"addr": f"127.0.0.1:{REGISTRY_PORT}"},
            "auth": {
                "token": {
                    "realm": "https://fra.ocir.io/20180419/docker/token",
                    "service": SERVICE,
                    "issuer": ISSUER,
                    "rootcertbundle": str(self.ns.folder / "token-key.pem"),
                }
            },
        }

    def pids(self) -> set[int]:
        """Return the PIDs of the registry and of containerd, if it runs."""
        parts = (self._process, self._containerd)
        return {part.pid for part in parts if part is not None}

    def reap(self) -> None:
        """Wait for its processes after the namespace is closed."""
        for part in (self._process, self._containerd):
            if part is not None:
                part.wait(10)

    def push(
        self, repository: str, tags: Sequence[str] = ("latest",), layout: Path | None = None
    ) -> None:
        """Push an image (None: the small one) to `repository` without OCIR's access control."""
        token = self._control.push_token(repository)
        for tag in tags:
            self._skopeo(
                "copy",
                "--dest-tls-verify=false",
                f"--dest-registry-token={token}",
                f"oci:{layout or self.layout}:latest",
                f"docker://127.0.0.1:{REGISTRY_PORT}/{repository}:{tag}",
            ).check()

    def pull_with_skopeo(
        self, image: str, password: str | None, user: str = REGISTRY_USER
    ) -> Completed:
        """Copy `image` from its registry to a directory. `password` None: without credentials."""
        auth = self.folder / "auth.json"
        host = image.partition("/")[0]
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        auth.touch(mode=0o600)
        auth.write_text(json.dumps({"auths": {host: {"auth": pair}} if password else {}}))
        target = self.folder / "pulled"
        return self._skopeo("copy", f"--authfile={auth}", f"docker://{image}", f"dir:{target}")

    def pull_with_containerd(
        self, image: str, password: str | None, user: str = REGISTRY_USER
    ) -> Completed:
        """Pull `image` with ctr into a containerd inside. `password` None: without credentials.

        Then remove the image, so that each call is a complete pull.
        """
        if self._containerd is None:
            self._containerd = self._start_containerd()
        credentials = [] if password is None else ["--user", f"{user}:{password}"]
        pull = ["images", "pull", "--snapshotter=native", *credentials, image]
        result = self._ctr(*pull)
        if result.returncode == 0:
            self._ctr("images", "remove", "--sync", image).check()
        return result

    def _ctr(self, *argv: str) -> Completed:
        return self.ns.run(["ctr", f"--address={self.folder}/containerd.sock", *argv], timeout=30)

    def _start_containerd(self) -> subprocess.Popen[bytes]:
        config, log = self.folder / "containerd.toml", self.folder / "containerd.log"
        config.write_text(
            f"""
            version = 2
            root = "{self.folder}/containerd"
            state = "{self.folder}/containerd-state"
            disabled_plugins = ["io.containerd.grpc.v1.cri"]
            [grpc]
            address = "{self.folder}/containerd.sock"
            # ctr of containerd 2 pulls through this service, which supports only overlayfs by default.
            [[plugins."io.containerd.transfer.v1.local".unpack_config]]
            platform = "linux"
            snapshotter = "native"
            """
        )
        with log.open("wb") as file:
            process = self.ns.popen(
                ["containerd", "--config", str(config)], stdout=file, stderr=file
            )
        wait_for(log, b"containerd successfully booted", process)
        return process

    def _skopeo(self, *argv: str) -> Completed:
        # skopeo looks for its settings below HOME.
        home = {"HOME": str(self.folder)}
        return self.ns.run(["skopeo", "--insecure-policy", *argv], env=home, timeout=30)


def wait_for(log: Path, text: bytes, process: subprocess.Popen[bytes]) -> None:
    """Wait until `text` is in the log. Raises RuntimeError if the process ends or after 20 s."""
    end = time.monotonic() + 20
    while text not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the program did not start: {log.read_text()[-2000:]}")
        time.sleep(0.01)


_HELLO: Mapping[str, bytes] = {"hello": b"pulled with the node's own identity\n"}


def write_image(folder: Path, files: Mapping[str, bytes] = _HELLO) -> str:
    """Write an OCI layout with an image of these files, tag "latest". Returns the digest of the manifest.

    Its command is the first file.
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
    layer = tar.getvalue()
    oci = "application/vnd.oci.image"
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": [f"/{next(iter(files))}"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    zipped = gzip.compress(layer, mtime=0)
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": {"mediaType": f"{oci}.config.v1+json", **blob(json.dumps(config).encode())},
        "layers": [{"mediaType": f"{oci}.layer.v1.tar+gzip", **blob(zipped)}],
    }
    entry = blob(json.dumps(manifest).encode())
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": manifest["mediaType"],
                **entry,
                "annotations": {"org.opencontainers.image.ref.name": "latest"},
            }
        ],
    }
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return str(entry["digest"])
