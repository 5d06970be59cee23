"""Whatever comes in from outside, as bytes: `targets` take any, `python -m tests.fuzz` makes them up.

`tests/test_fuzz.py` gives the same targets to hypothesis, and keeps what once broke them.
"""
