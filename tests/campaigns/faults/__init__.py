"""The fault matrix: each endpoint with each fault.

`matrix` has the cells and the rules for their expected results. `run` runs one cell in a test cloud and
checks the results. `python -m tests.campaigns.faults` runs all cells and prints a table.
"""
