"""A short soak. `make soak` runs the complete one."""

from dataclasses import replace

from tests.campaigns.soak import judge, soak
from tests.cloud.harness import Cloud
from tests.conftest import Program


def test_a_hundred_calls_while_oci_fails_at_random_leave_nothing_behind(
    cloud: Cloud, program: Program
) -> None:
    soaked = soak(cloud, program, 100, 10)
    assert judge(soaked) == []
    assert soaked.requests["token"] < 40  # calls shared tokens
    # The judge detects each kind of fault.
    assert judge(replace(soaked, strays=1))
    assert judge(replace(soaked, tokens=frozenset()))
    assert judge(replace(soaked, cache={**soaked.cache, "x.1.new": 1}))
    half = len(soaked.calls) // 2
    grown = [replace(call, memory=call.memory * 1.2) for call in soaked.calls[half:]]
    assert judge(replace(soaked, calls=[*soaked.calls[:half], *grown]))
