"""Tests of what the repository publishes: texts, workflows, release scripts."""
