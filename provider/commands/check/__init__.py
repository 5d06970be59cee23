"""``check``: does all hold that a pull from OCIR needs on this node, and if not, what to do.

It walks the way of a real call with the program's own parts. What it reads of the node is gathered
in ``node`` and judged in ``kubelet`` by pure functions; ``cloud`` asks OCI, with the advice of
``iam``; ``walk`` puts the steps in order; ``page`` and ``command`` show them. It changes nothing.
"""
