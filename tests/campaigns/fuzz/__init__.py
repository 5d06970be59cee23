"""Whatever comes in from outside, as bytes: `targets` take any, `python -m tests.campaigns.fuzz` makes them up.

`tests/campaigns/test_fuzz.py` gives the same targets to hypothesis, and keeps what once broke them.
"""
