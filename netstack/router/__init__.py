"""The router: attachments by address, a pool of addresses, uplinks, and the control socket.

`Router` runs one in this process, `attach` joins one; ``netstack router`` is the same as a program.
"""

_LAZY = {
    "Router": "netstack.router.router",
    "Attachment": "netstack.router.client",
    "ControlClient": "netstack.router.client",
    "attach": "netstack.router.client",
    "AddressPool": "netstack.router.pool",
    "PoolConfig": "netstack.router.pools",
    "AttachmentInfo": "netstack.router.protocol",
    "UplinkConfig": "netstack.router.uplinks",
}

__all__ = list(_LAZY)


def __getattr__(name):
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
