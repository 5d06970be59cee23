"""``enable`` and ``disable``: the kubelet's two flags, by a systemd drop-in.

A node must have a kubelet that starts, whatever happens at whatever moment. So a change is tried
before it is kept:

1. A guard, a systemd service, waits for a lock that this process holds. The kernel releases the lock
   when the process ends, in whatever way; then the guard removes the trial drop-in and restarts the
   kubelet. Stopped, it removes the trial drop-in too.
2. The trial drop-in goes into /run, which no boot sees. The kubelet is restarted and watched.
3. Only when it stayed healthy does the change go into /etc, by one rename, and the guard is stopped.

``enable`` and ``disable`` differ in what they try and keep: the unit's command with the flags, and
without them.

A drop-in with a variable (``Environment="KUBELET_EXTRA_ARGS=..."``) would need to know which
variables the unit uses, would freeze the value of today, and loses to any EnvironmentFile=. This
one repeats the unit's own ExecStart, variables unexpanded, and adds two flags at its end: whatever
other drop-ins and environment files say later still counts. Only a later ExecStart= would be hidden
by it; ``check`` says so, and ``enable`` derives it again.
"""
