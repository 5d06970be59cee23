"""``enable`` and ``disable``: add the kubelet's two flags with a systemd drop-in, or remove them.

The node must always have a kubelet that starts, whenever the program is interrupted. Therefore a
change is tried before it is kept:

1. A guard, which is a systemd service, waits for a lock that this process holds. The kernel releases
   the lock when the process ends for any reason. Then the guard removes the trial drop-in and restarts
   the kubelet. If the guard is stopped, it also removes the trial drop-in.
2. The trial drop-in is in /run, which does not survive a reboot. The kubelet is restarted and watched.
3. Only if the kubelet stays healthy, one rename makes the change in /etc, and the guard is stopped.

``enable`` tries and keeps the unit's command with the flags, ``disable`` the command without them.

A drop-in that sets a variable (``Environment="KUBELET_EXTRA_ARGS=..."``) would have to know the unit's
variables, would fix their current values, and any EnvironmentFile= would override it. This drop-in
repeats the unit's ExecStart with unexpanded variables and adds two flags at the end. Later changes of
other drop-ins and environment files stay in effect. Only a later ExecStart= would be hidden: ``check``
reports it, and ``enable`` derives the drop-in again.
"""
