"""A test cloud: a stand-in for OCI, in a network namespace where OCI's true names lead to it.

    with Cloud() as cloud:
        cloud.control.fault("token", Fault("status", status=500, times=2))
        done = cloud.ns.run([program], stdin=request, env={"LOG_LEVEL": "debug"})
        cloud.control.report().count("token")
        cloud.registry.pull_with_containerd("fra.ocir.io/ns/repo:latest", password)

`harness` puts the parts together: `namespace` (what the program sees of the machine), `standin`
(IMDS, federation and OCIR as one process, steered by `control` in the words of `model`) and
`registry` (a real docker-registry, and real pulls). `python -m tests.cloud -- COMMAND` runs a
command inside one. The program under test needs no switch for any of it.
"""
