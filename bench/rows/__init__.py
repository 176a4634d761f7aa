"""The rows of ``targets.md`` that exist so far, in its order."""

from bench.rows import (
    asyncio,
    copies,
    handshake,
    lossy,
    memory,
    python_faces,
    relayed,
    rings,
    router,
    tables,
    tcp,
    workers,
)


def all_rows():
    """Every `bench.measure.Row`, those through the router and out of it last."""
    return [*copies.rows(), *rings.rows(), *tcp.rows(), *python_faces.rows(), *asyncio.rows(), *memory.rows(),
            *handshake.rows(), *lossy.rows(), *router.forwarding_rows(), *tables.rows(), *router.uplink_rows(),
            *router.kill_rows(), *workers.rows(), *router.rows(), *asyncio.routed_rows(), *relayed.rows()]
