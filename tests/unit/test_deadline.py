"""Deadlines."""

import pytest

from provider.errors import DeadlineExceeded
from provider.net.deadline import Deadline


def test_a_part_of_a_deadline_ends_with_it() -> None:
    clock = iter([0.0, 1.0, 1.0, 9.0, 10.0]).__next__
    deadline = Deadline(10, clock)
    part = deadline.within(60, "x")
    assert part.seconds == 9
    assert part.left("x") == 1
    with pytest.raises(DeadlineExceeded, match="while reading"):
        deadline.left("reading")
