"""The stack in a process of its own: a daemon runs the Host, applications reach it through shared memory.

`server` is the daemon; `engine` and `pipe` move the bytes between rings and stack; `protocol` has messages. `handle`
and `host` are the application's side, over the C client ``netstack/daemon_client.h``.
"""
