"""Tests of the credential provider, and the test cloud that they run against."""
