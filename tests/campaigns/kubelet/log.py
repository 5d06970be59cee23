"""What the logs of a kubelet (verbosity 5, in UTC) and of a runtime say of pods. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

# The kubelet's name of the node. The names of static pods end with it.
NODE = "node-1"
# In older kubelets the image is in the text of the message.
_LOOK_UP = re.compile(
    r'Getting image (?:(\S+) )?credentials from external exec plugin(?:".* image="([^"]+)")?'
)
_EVENT = re.compile(
    rf'"Event occurred" object="default/([^"]+)-{NODE}" .* reason="(\w+)" message="((?:[^"\\]|\\.)*)"'
)
_HEADER = re.compile(r"[IWEF](\d{4} \d\d:\d\d:\d\d\.\d{6}) ")


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a pod, as `kubectl describe pod` shows it."""

    time: float
    pod: str
    reason: str
    message: str


@dataclass(slots=True)
class Attempt:
    """A pull of the runtime; `ended` is None until it succeeds."""

    image: str
    began: float
    ended: float | None


@dataclass(frozen=True, slots=True)
class Pull:
    """How a pod got its image; times in seconds since the epoch, None if it did not happen."""

    pod: str
    asked: float | None  # the kubelet ran the provider
    pulling: float | None  # the runtime began to pull
    done: Attempt | None
    started: float | None  # the container
    failed: int  # pulls

    @property
    def look_up(self) -> float | None:
        """Seconds from the start of the provider to the start of the pull that had its answer."""
        return self.pulling - self.asked if self.pulling and self.asked else None

    @property
    def pull(self) -> float | None:
        """Seconds that the pull that succeeded took."""
        return self.done.ended - self.done.began if self.done and self.done.ended else None


def events(kubelet: str, year: int) -> Iterator[Event]:
    """The events of the pods in the kubelet's log."""
    for line in kubelet.splitlines():
        if match := _EVENT.search(line):
            pod, reason, message = match.groups()
            yield Event(_time(line, year), pod, reason, _unquoted(message))


def pulls(
    kubelet: str,
    runtime: str,
    pattern: re.Pattern[str],
    year: int,
    images: Mapping[str, str],
) -> list[Pull]:
    """How each pod of `images` (name: image) got its image. `pattern`: Runtime.pull."""
    asked: dict[str, float] = {}
    for line in kubelet.splitlines():
        if match := _LOOK_UP.search(line):
            asked.setdefault(match[1] or match[2], _time(line, year))
    attempts = _attempts(runtime, pattern)
    found = list(events(kubelet, year))
    pulls = []
    for pod, image in images.items():
        first = asked.get(image.rpartition(":")[0])
        # An earlier boot may have pulled the same image.
        since = [a for a in attempts if a.image == image and first and a.began > first]
        done = next((attempt for attempt in since if attempt.ended), None)
        own = [event for event in found if event.pod == pod]
        pulls.append(
            Pull(
                pod,
                first,
                since[0].began if since else None,
                done,
                min((event.time for event in own if event.reason == "Started"), default=None),
                sum(
                    event.reason == "Failed" and event.message.startswith("Failed to pull image")
                    for event in own
                ),
            )
        )
    return pulls


def _attempts(runtime: str, pattern: re.Pattern[str]) -> list[Attempt]:
    """The pulls in the runtime's log, in the order of their starts."""
    attempts: list[Attempt] = []
    under_way: dict[str, Attempt] = {}
    for match in pattern.finditer(runtime):
        time = _epoch(match["time"])
        if not match["done"]:
            attempts.append(Attempt(match["image"], time, None))
            under_way[match["key"]] = attempts[-1]
        elif attempt := under_way.pop(match["key"], None):
            attempt.ended = time
    return attempts


def _time(line: str, year: int) -> float:
    """The time of a line of the kubelet, which does not have the year."""
    match = _HEADER.search(line)
    assert match is not None, line
    moment = datetime.strptime(f"{year}{match[1]}", "%Y%m%d %H:%M:%S.%f")
    return moment.replace(tzinfo=UTC).timestamp()


def _epoch(stamp: str) -> float:
    # Nanoseconds, of which datetime takes microseconds.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", stamp)).timestamp()


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)
