"""A test cloud: a stand-in for OCI, in a network namespace where OCI's real names lead to it.

    with Cloud() as cloud:
        cloud.control.fault("token", Fault("status", status=500, times=2))
        done = cloud.ns.run([program], stdin=request, env={"LOG_LEVEL": "debug"})
        cloud.control.report().count("token")
        cloud.registry.pull_with_containerd("fra.ocir.io/ns/repo:latest", password)

`harness` combines the parts: `namespace` (the program's view of the machine), `standin` (IMDS, federation
and OCIR in one process, which `control` controls with the types of `model`) and `registry` (a real
docker-registry and real pulls). `python -m tests.cloud -- COMMAND` runs a command in a new cloud. The
program needs no test switch.
"""
