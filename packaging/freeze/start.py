"""The entry point of the frozen program."""

import gc

# A call leaves little garbage. Collecting it takes 5 ms of a call that makes an exchange.
gc.disable()

from provider.__main__ import main  # noqa: E402 # its imports make what would be collected

main()
