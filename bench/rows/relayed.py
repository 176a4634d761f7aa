"""The uplink without privilege, against the kernel's loopback and against its likes."""

from __future__ import annotations

from bench.measure import Contestant, Row, Settings

LIKES = ("slirp4netns", "pasta")
NOTE = "one client in Python to a server of the kernel's on the loopback"


def through(kind, test):
    def run(settings: Settings):
        from bench.relayed import measure

        return measure(kind, test, settings.seconds)
    return run


def rows():
    return [Row(f"uplink user: {what}", unit, Contestant("netstack run --uplink user", through("relay", test)),
                (Contestant("kernel loopback", through("kernel", test)),
                 *(Contestant(kind, through(kind, test), judges=False) for kind in LIKES)), note=NOTE)
            for test, what, unit in (("download", "download", "Gbit/s"), ("upload", "upload", "Gbit/s"),
                                     ("connect", "connections", "1/s"))]
