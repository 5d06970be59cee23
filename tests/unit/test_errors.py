"""Error codes, exit codes and lines."""

from provider.errors import BadRequest, ProviderError


def test_every_error_has_its_own_code_and_exit_code() -> None:
    kinds = ProviderError.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
    assert all(3 <= kind.exit_code < 126 for kind in kinds)


def test_an_error_is_one_printable_line() -> None:
    assert BadRequest("a\nb\r\n\x1b[2J", "c\td\u202e").line().isprintable()
