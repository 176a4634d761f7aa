"""Libraries that have a hook for sockets, on one host and without any patch: each module needs its library."""
