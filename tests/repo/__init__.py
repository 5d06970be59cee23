"""Tests of the repository: documents, workflows, setup and release scripts."""
