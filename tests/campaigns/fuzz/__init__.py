"""Fuzzing of external input: `targets` accept any bytes, `python -m tests.campaigns.fuzz` generates them.

`tests/campaigns/test_fuzz.py` runs the same targets with hypothesis, and keeps inputs that once broke them.
"""
