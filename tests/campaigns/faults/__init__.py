"""The fault matrix: every endpoint against every way in which it can misbehave.

`matrix` says what there is and what must come of it, by rules; `run` puts one cell into a test
cloud and judges what came; `python -m tests.campaigns.faults` runs all of it and prints a table.
"""
