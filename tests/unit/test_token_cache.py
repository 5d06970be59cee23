"""A repair takes effect within two minutes, in any order of events.

The tests simulate random histories of a node: late dynamic groups and policies, a registry with unclear
answers, failures of federation, slow exchanges. `provider.cache.token_cache` runs against them with a
simulated clock and its own cache directory.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from provider.auth.principal import Principal
from provider.auth.session_key import session_key
from provider.auth.signer import Signer
from provider.cache import entries, single_flight, tmpfs, token_cache
from provider.errors import FederationUnreachable, RegistryUnreachable
from provider.image import Image
from provider.invocation import Invocation
from provider.log import Log
from provider.net.client import Client
from provider.net.deadline import Deadline
from provider.net.http import Origin
from provider.ocir import exchange
from provider.ocir.credentials import PullCheck, RegistryCredentials
from provider.ocir.exchange import Proof
from provider.ocir.token import Token
from provider.plugin.response import cache_seconds
from provider.settings import Settings

_KEY = session_key()
_START, _END = 1000.0, 3000.0
Window = tuple[float, float]


@dataclass
class Cloud:
    """One random history. Its methods replace the functions of `provider.ocir.exchange`."""

    draw: random.Random
    now: float = _START
    exchanges: list[float] = field(default_factory=list)
    proven: dict[str, float] = field(
        default_factory=dict
    )  # when the identity of each token was proven

    def __post_init__(self) -> None:
        count = self.draw.choice((1, 10, 20))
        self.repositories = [f"ns/{number}" for number in range(count)]
        self.wanted = {name: self.draw.uniform(_START, _START + 300) for name in self.repositories}
        self.groups = {name: self._some_time(0.7) for name in self.repositories}
        self.policies = {name: self._some_time(0.2) for name in self.repositories}
        self.slow = self.draw.choice((0.2, 0.2, 40.0))
        self.down = self._windows()
        self.unclear = self._windows()

    def _some_time(self, late: float) -> float:
        return self.draw.uniform(_START, _END) if self.draw.random() < late else 0.0

    def _windows(self) -> list[Window]:
        begins = [self.draw.uniform(_START, _END) for _ in range(self.draw.choice((0, 1, 3)))]
        return [(begin, begin + self.draw.choice((1, 20, 130, 600))) for begin in begins]

    def within(self, windows: list[Window]) -> bool:
        return any(begin <= self.now < end for begin, end in windows)

    def works(self, repository: str, token: str) -> bool:
        late = self.groups[repository] > self.proven[token]
        return not late and self.policies[repository] <= self.now

    def repaired(self, repository: str) -> float | None:
        """Return the time since which pulls of a repository work; None while they cannot work."""
        ends = [end for _, end in (*self.down, *self.unclear) if end <= self.now]
        since = max(
            self.wanted[repository], self.groups[repository], self.policies[repository], *ends
        )
        broken = self.within(self.down) or self.within(self.unclear) or since > self.now
        return None if broken else since

    def prove_identity(self, image: Image, invocation: Invocation) -> Proof:
        if self.within(self.down):
            self.now += self.draw.choice((0.1, 10.0))
            raise FederationUnreachable("down")
        registry = Client(
            Origin("https", image.host, 443), invocation.deadline, RegistryUnreachable, ()
        )
        return Proof(Principal("me", Signer("id", _KEY)), registry)

    def get_credentials(self, image: Image, _: Invocation, proof: Proof) -> RegistryCredentials:
        text = f"token-{len(self.proven)}"
        self.exchanges.append(self.now)
        self.proven[text] = self.now
        self.now += self.slow * self.draw.random()
        token = Token(text, 3600, "id")
        return RegistryCredentials(token, proof.principal.name, self.check(image, token))

    def check(self, image: Image, token: Token) -> PullCheck:
        if self.within(self.unclear):
            return PullCheck("unclear", "unclear")
        allowed = self.works(image.repository, token.text)
        return PullCheck("allowed" if allowed else "denied", "the reason")


def open_descriptors() -> set[int]:
    listed = os.listdir("/proc/self/fd")  # with the one of the listing, which is closed by now
    return {int(name) for name in listed if os.path.lexists(f"/proc/self/fd/{name}")}


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The parent of the cache directory. It must be in memory."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    monkeypatch.setattr(tmpfs, "SYSTEM_PARENT", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(25))
def test_a_repair_takes_effect_within_two_minutes(
    monkeypatch: pytest.MonkeyPatch, parent: Path, seed: int
) -> None:
    cloud = Cloud(random.Random(seed))
    for module in (entries, single_flight, token_cache):
        monkeypatch.setattr(module, "now", lambda: cloud.now)
    monkeypatch.setattr(exchange, "prove_identity", cloud.prove_identity)
    monkeypatch.setattr(exchange, "get_credentials", cloud.get_credentials)
    monkeypatch.setattr(exchange, "check_token", lambda image, _, token: cloud.check(image, token))
    kept: dict[str, tuple[str, float]] = {}

    def call(repository: str) -> None:
        invocation = Invocation(Settings(), {}, Deadline(45), Log("warning"))
        before = open_descriptors()
        try:
            found = token_cache.get_or_fetch(Image("fra.ocir.io", repository), invocation)
        finally:
            # A call leaves the cache's descriptors to the end of its process.
            for descriptor in open_descriptors() - before:
                os.close(descriptor)
        allowed = found.check.status == "allowed"
        seconds = cache_seconds(found.token.expires_in, allowed, found.age)
        kept[repository] = found.token.text, cloud.now + seconds

    while cloud.now < _END + 300:
        for repository in cloud.draw.sample(cloud.repositories, len(cloud.repositories)):
            if cloud.now < cloud.wanted[repository] + cloud.slow:
                continue
            if repository not in kept or kept[repository][1] <= cloud.now:
                try:
                    call(repository)
                except FederationUnreachable:
                    kept.pop(repository, None)
            since = cloud.repaired(repository)
            if since is not None and cloud.now - since > 120 + cloud.slow:
                assert repository in kept, (repository, cloud.now, since)
                assert cloud.works(repository, kept[repository][0]), (repository, cloud.now, since)
        cloud.now += 1
    gaps = [after - before for before, after in pairwise(cloud.exchanges)]
    assert all(gap >= 30 for gap in gaps)


@pytest.mark.parametrize(
    ("status", "usable"),
    [
        *(("allowed", True), ("denied", True), ("unclear", True), ("Allowed", False)),
        *(("", False), (None, False), (True, False), (0, False), ([], False), ({}, False)),
    ],
)
def test_a_token_with_an_unknown_pull_status_is_not_used(status: object, usable: bool) -> None:
    content = {
        "token": "t",
        "made": tmpfs.now(),
        "expires_in": 3600,
        "request_id": "id",
        "principal": "me",
        "renewed": False,
        "checks": {"ns/repo": [status, None, tmpfs.now()]},
    }
    assert bool(entries.cached_tokens({"tokens": [content]})) is usable
