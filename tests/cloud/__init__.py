"""A test cloud: a stand-in for OCI, in a network namespace where OCI's true names lead to it.

`Cloud` (harness) puts the parts together: `namespace` (what the program sees of the machine),
`standin` (IMDS, federation and OCIR as one process, steered by `control`) and `registry` (a real
docker-registry, and real pulls). `python -m tests.cloud -- COMMAND` runs a command inside one.

The program under test needs no switch for any of it.
"""
