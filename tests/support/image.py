"""The installer image, built by packaging/image/build.sh, and its containers as bundles for runc."""

import atexit
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.support import built
from tests.support.container import runc_spec
from tests.support.processes import compiled

BUILD = built.ROOT / "packaging" / "image" / "build.sh"
# A program in place of the image's binary. It is not a script: scripts cannot run by descriptor.
# A program that does what its first argument says, or prints its arguments and its environment.
_PROBE = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv, char **environment)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 2 && !strcmp(argv[1], "pause"))
        return puts("pauses"), pause();
    if (argc == 2 && !strcmp(argv[1], "die"))
        return raise(SIGKILL);
    if (argc == 3 && !strcmp(argv[1], "exit"))
        return atoi(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "own")) {
        FILE *file = fopen(argv[2], "w");
        return file ? printf("%d\n", getuid()), chmod(argv[2], 04755) : (perror(NULL), 1);
    }
    struct stat status;
    if (argc == 3 && !strcmp(argv[1], "mode"))
        return stat(argv[2], &status), printf("%o\n", status.st_mode & 07777) < 0;
    for (int i = 0; i < argc; i++)
        printf("argument %s\n", argv[i]);
    for (; *environment; environment++)
        printf("variable %s\n", *environment);
}
"""


@dataclass(frozen=True, slots=True)
class Image:
    """An OCI layout with one index."""

    layout: Path

    @property
    def digest(self) -> str:
        """The digest of the index, by which daemonset.yaml names the image."""
        (index,) = json.loads((self.layout / "index.json").read_text())["manifests"]
        return str(index["digest"])

    def blob(self, digest: str) -> Path:
        return self.layout / "blobs" / digest.replace(":", "/")

    def json(self, digest: str) -> dict[str, Any]:
        content = json.loads(self.blob(digest).read_bytes())
        assert isinstance(content, dict)
        return content

    def manifest(self, architecture: str = built.ARCHITECTURE) -> dict[str, Any]:
        (found,) = (
            each["digest"]
            for each in self.json(self.digest)["manifests"]
            if each["platform"] == {"architecture": architecture, "os": "linux"}
        )
        return self.json(found)

    def config(self) -> dict[str, Any]:
        """The image's config: Entrypoint, User, Labels."""
        config = self.json(self.manifest()["config"]["digest"])["config"]
        assert isinstance(config, dict)
        return config

    def unpack(self, folder: Path) -> None:
        """Write the files of all layers to the directory, as a container runtime does."""
        for layer in self.manifest()["layers"]:
            # By tar: Python 3.11.2, bookworm's, has no filter, and newer versions want one.
            blob = self.blob(layer["digest"])
            subprocess.run(["tar", "--extract", "--file", blob, "--directory", folder], check=True)

    def bundle(
        self,
        folder: Path,
        pod: Mapping[str, Any],
        container: Mapping[str, Any],
        sources: Mapping[str, str],
    ) -> Path:
        """A bundle for runc in `folder`, with the manifest's permissions. `sources`: see runc_spec."""
        (folder / "rootfs").mkdir(parents=True, exist_ok=True)
        self.unpack(folder / "rootfs")
        spec = runc_spec(pod, container, self.config(), sources)
        (folder / "config.json").write_text(json.dumps(spec))
        return folder


def build(binaries: Path, layout: Path) -> Image:
    """Build the image of the binaries in a directory."""
    subprocess.run([BUILD, binaries, layout], check=True)
    return Image(layout)


@cache
def image() -> Image:
    """The image of the binary that `make binary` built."""
    folder = Path(tempfile.mkdtemp(prefix="image-"))
    atexit.register(shutil.rmtree, folder)
    return build(built.one_file().parent, folder / "layout")


def with_probe(bundle: Path, *args: str) -> Path:
    """The bundle with the probe as the image's binary, and other arguments."""
    (bundle / "rootfs" / "oke-credential-provider").write_bytes(compiled(_PROBE))
    change(bundle, args)
    return bundle


def change(bundle: Path, args: Sequence[str]) -> None:
    """Give the bundle's entry point other arguments."""
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"]["args"][1:] = args
    (bundle / "config.json").write_text(json.dumps(spec))
