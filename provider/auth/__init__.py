"""Principals (instance, user, resource, workload) and the signatures of their requests."""
