"""The parts of the kubelet campaign that need no kubelet; `make kubelet` is the whole."""

import os
import re
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from tests.campaigns.kubelet.log import events, pulls
from tests.campaigns.kubelet.node import cgroups
from tests.campaigns.kubelet.runtime import CONTAINERD, CRIO, Runtime, find
from tests.cloud.namespace import REPOSITORY

IMAGES = {"pod-1": "fra.ocir.io/ns/a:latest", "pod-2": "fra.ocir.io/ns/b:latest"}
# Lines of kubelet 1.36, containerd 1.6 and CRI-O 1.37. The first pull of pod-1 fails; its image was pulled in an
# earlier boot, too. pod-2 does not get its image.
KUBELET = r"""
I1124 13:13:58.100000      58 plugin.go:687] "Getting image credentials from external exec plugin" pluginName="oke-credential-provider" image="fra.ocir.io/ns/a"
I1124 13:13:58.200000      58 plugin.go:687] "Getting image credentials from external exec plugin" pluginName="oke-credential-provider" image="fra.ocir.io/ns/b"
I1124 13:13:58.600000      58 event.go:389] "Event occurred" object="default/pod-1-node-1" fieldPath="spec.containers{app}" kind="Pod" apiVersion="v1" type="Warning" reason="Failed" message="Failed to pull image \"fra.ocir.io/ns/a:latest\": 403 Forbidden"
I1124 13:13:58.600001      58 event.go:389] "Event occurred" object="default/pod-1-node-1" fieldPath="spec.containers{app}" kind="Pod" apiVersion="v1" type="Warning" reason="Failed" message="Error: ErrImagePull"
I1124 13:14:09.900000      58 event.go:389] "Event occurred" object="default/pod-1-node-1" fieldPath="spec.containers{app}" kind="Pod" apiVersion="v1" type="Normal" reason="Started" message="Container started"
"""  # fmt: skip
CONTAINERD_LOG = r"""
time="2026-11-24T13:00:00.000000000Z" level=info msg="PullImage \"fra.ocir.io/ns/a:latest\""
time="2026-11-24T13:00:01.000000000Z" level=info msg="PullImage \"fra.ocir.io/ns/a:latest\" returns image reference \"sha256:c1\""
time="2026-11-24T13:13:58.500000123Z" level=info msg="PullImage \"fra.ocir.io/ns/a:latest\""
time="2026-11-24T13:13:58.550000123Z" level=error msg="PullImage \"fra.ocir.io/ns/a:latest\" failed" error="403 Forbidden"
time="2026-11-24T13:14:09.000000123Z" level=info msg="PullImage \"fra.ocir.io/ns/a:latest\""
time="2026-11-24T13:14:09.700000123Z" level=info msg="PullImage \"fra.ocir.io/ns/a:latest\" returns image reference \"sha256:c1\""
"""
CRIO_LOG = r"""
time="2026-11-24T13:00:00.000000000Z" level=info msg="Pulling image: fra.ocir.io/ns/a:latest" id=1 name=/runtime.v1.ImageService/PullImage
time="2026-11-24T13:00:01.000000000Z" level=info msg="Pulled image: c1" id=1 name=/runtime.v1.ImageService/PullImage
time="2026-11-24T13:13:58.500000123Z" level=info msg="Pulling image: fra.ocir.io/ns/a:latest" id=2 name=/runtime.v1.ImageService/PullImage
time="2026-11-24T13:13:58.500000456Z" level=info msg="Checking image status: fra.ocir.io/ns/b:latest" id=3 name=/runtime.v1.ImageService/ImageStatus
time="2026-11-24T13:13:58.510000123Z" level=info msg="Falling back to pull fra.ocir.io/ns/a:latest as an OCI artifact: initializing source" id=2 name=/runtime.v1.ImageService/PullImage
time="2026-11-24T13:14:09.000000123Z" level=info msg="Pulling image: fra.ocir.io/ns/a:latest" id=4 name=/runtime.v1.ImageService/PullImage
time="2026-11-24T13:14:09.000000456Z" level=info msg="Pulling image: fra.ocir.io/ns/c:latest" id=5 name=/runtime.v1.ImageService/PullImage
time="2026-11-24T13:14:09.600000123Z" level=info msg="Pulled image: c3" id=5 name=/runtime.v1.ImageService/PullImage
time="2026-11-24T13:14:09.700000123Z" level=info msg="Pulled image: c1" id=4 name=/runtime.v1.ImageService/PullImage
"""
V1 = """
23 1 0:20 / /sys rw - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
""".strip()
V2 = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def older(text: str) -> str:
    """The kubelet's log as in older versions: the image is in the message."""
    return re.sub(
        r'"Getting image (.*?)" pluginName="(.*?)" image="(.*?)"', r"Getting image \3 \1 \2", text
    )


@pytest.mark.parametrize("kubelet", [KUBELET, older(KUBELET)], ids=["fields", "text"])
@pytest.mark.parametrize(
    ("runtime", "log"), [(CONTAINERD, CONTAINERD_LOG), (CRIO, CRIO_LOG)], ids=["containerd", "crio"]
)
def test_the_logs_say_how_each_pod_got_its_image(kubelet: str, runtime: Runtime, log: str) -> None:
    first, second = pulls(kubelet, log, runtime.pull, 2026, IMAGES)
    assert first.look_up == pytest.approx(0.4, abs=0.001)
    assert first.pull == pytest.approx(0.7, abs=0.001)
    assert first.failed == 1
    assert second.asked is not None
    assert (second.pulling, second.started, second.failed) == (None, None, 0)


def test_an_event_has_the_text_that_a_user_sees() -> None:
    [failed, *_] = events(KUBELET, 2026)
    assert failed.pod == "pod-1"
    assert failed.message == 'Failed to pull image "fra.ocir.io/ns/a:latest": 403 Forbidden'


def test_a_runtime_is_a_program_by_name_or_path(tmp_path: Path) -> None:
    crio = tmp_path / "crio"
    with pytest.raises(ArgumentTypeError, match=str(crio)):
        find(str(crio))
    crio.touch(mode=0o755)
    assert find(str(crio)).name == "CRI-O"
    # conmon and pinns may be next to it.
    assert find(str(crio)).path.split(":")[0] == str(tmp_path)
    assert Path(find("containerd").program).is_absolute()
    with pytest.raises(ArgumentTypeError, match="cat"):
        find("cat")


def test_a_node_has_cgroups_below_this_process_or_at_the_top_of_version_2() -> None:
    own = "12:cpu,cpuacct:/user\n4:memory:/a/b\n1:name=systemd:/\n0::/user"
    assert cgroups("node", V1, own) == (
        [
            "/sys/fs/cgroup/cpu,cpuacct/user/node",
            "/sys/fs/cgroup/memory/a/b/node",
            "/sys/fs/cgroup/systemd/node",
        ],
        [
            "/sys/fs/cgroup/cpu,cpuacct:cpu,cpuacct",
            "/sys/fs/cgroup/memory:memory",
            "/sys/fs/cgroup/systemd:name=systemd",
        ],
    )
    assert cgroups("node", V2, "0::/user") == (["/sys/fs/cgroup/node"], [])


NODE = """
import sys, time
from pathlib import Path
from tests.campaigns.kubelet.node import Node
from tests.campaigns.kubelet.runtime import find
from tests.cloud.harness import Cloud
with Cloud() as cloud, Node(cloud, find("containerd"), Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_node_leaves_nothing_however_its_campaign_ends(
    number: signal.Signals, tmp_path: Path
) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    with subprocess.Popen(
        [sys.executable, "-c", NODE, str(tmp_path / "logs")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as campaign:
        assert campaign.stdout is not None
        assert campaign.stdout.readline() == b"up\n"
        name = f"oke-kubelet-{campaign.pid}"
        left = remains(name)
        assert any(path.is_dir() for path in left)
        assert any(str(path).endswith("/exe") for path in left)
        campaign.send_signal(number)
        campaign.wait(90)  # it ends containerd and its tasks first
    end = time.monotonic() + 20
    while (left := remains(name)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []
    assert Path("/proc/self/mounts").read_text() == mounts


def remains(name: str) -> list[Path]:
    """The cgroups of a node, and its processes: those that are in one of them, or will clean up."""
    groups = [Path(folder) for folder, *_ in os.walk("/sys/fs/cgroup") if name in folder]
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if name in (process / "environ").read_text() + (process / "cgroup").read_text():
                processes.append(process / "exe")
        except OSError:
            continue  # it has ended
    return groups + processes
