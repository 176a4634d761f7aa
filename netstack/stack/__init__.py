"""The layers joined: `Stack` is the protocol state machine that everything else drives."""

from netstack.stack.stack import Stack, StackSocket

__all__ = ["Stack", "StackSocket"]
