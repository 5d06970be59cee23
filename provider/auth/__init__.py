"""Principals: who asks OCI, and how requests are signed."""
