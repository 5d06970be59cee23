"""The response to the kubelet, and how long the kubelet caches it."""

import pytest

from provider.plugin.response import NO_CREDENTIALS, Response, cache_seconds
from tests.support.kubelet import read_response


def test_the_kubelet_can_read_a_response() -> None:
    text = Response("fra.ocir.io", "BEARER_TOKEN", 'quote"backslash\\', 100_000).to_json()
    read = read_response(text.encode())
    assert read.auth == {"fra.ocir.io": ("BEARER_TOKEN", 'quote"backslash\\')}
    assert read.cache_seconds == 100_000
    assert read_response(NO_CREDENTIALS.to_json().encode()).auth == {}


@pytest.mark.parametrize("lifetime", [1, 2, 119, 120, 121, 599, 600, 3600, 86_400, 200_000])
def test_the_cache_duration_never_exceeds_the_tokens_lifetime(lifetime: int) -> None:
    assert 0 <= cache_seconds(lifetime, proven=True) < lifetime
    assert cache_seconds(lifetime, proven=False) <= min(120, cache_seconds(lifetime, proven=True))
