"""Rings in shared memory."""

_LAZY = {
    "Channel": "rings.channel",
    "ChannelLayout": "rings.channel",
    "channel_pair": "rings.channel",
}


def __getattr__(name):
    import importlib

    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value
