"""Where the frozen program starts."""

from provider.__main__ import main

main()
