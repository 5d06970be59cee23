"""A part of the fault matrix. `make faults` runs the complete one."""

import pytest

from tests.campaigns.faults.matrix import Cell, cells, quick
from tests.campaigns.faults.run import judge, observe, resolver
from tests.cloud.harness import Cloud
from tests.conftest import Program
from tests.e2e.test_sharing import boot_clock, edit
from tests.support.kubelet import request


@pytest.mark.parametrize("cell", quick(), ids=lambda cell: cell.id)
def test_a_fault_ends_in_time_with_the_right_code_and_few_requests(
    cell: Cell, cloud: Cloud, program: Program
) -> None:
    assert judge(cell, observe(cell, cloud, program.argv, program.env)) == []


def test_a_dns_lookup_that_hangs_ends_at_the_deadline(cloud: Cloud, program: Program) -> None:
    """The program preconnects nothing here: the token is cached, and the image has no pull check yet."""
    env = {**program.env, "DEADLINE_SECONDS": "3"}
    program.run(cloud, stdin=request("fra.ocir.io/ns/repo"), env=env).check()
    edit(cloud, made=boot_clock() - 60)
    with resolver(cloud, "black hole", "fra.ocir.io"):
        result = program.run(cloud, stdin=request("fra.ocir.io/ns/app"), env=env)
    assert result.seconds < 3 + 5
    cloud.reset()


def test_no_two_cells_are_the_same() -> None:
    ids = [cell.id for cell in cells()]
    assert len(ids) == len(set(ids))
    assert {cell.endpoint for cell in quick()} == {cell.endpoint for cell in cells()}
