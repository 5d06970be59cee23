"""The daily slice of the fault matrix; `make faults` runs the whole."""

from __future__ import annotations

import pytest

from tests.cloud.harness import Cloud
from tests.conftest import Program
from tests.faults.matrix import Cell, cells, quick
from tests.faults.run import judge, observe


@pytest.mark.parametrize("cell", quick(), ids=lambda cell: cell.id)
def test_a_fault_ends_in_time_with_its_code_and_few_requests(
    cell: Cell, cloud: Cloud, program: Program
) -> None:
    assert judge(cell, observe(cell, cloud, program.argv, program.env)) == []


def test_no_two_cells_are_the_same() -> None:
    ids = [cell.id for cell in cells()]
    assert len(ids) == len(set(ids))
    assert {cell.endpoint for cell in quick()} == {cell.endpoint for cell in cells()}
