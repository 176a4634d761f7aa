from netstack.router.forwarding import Forwarder

def limit(
    forwarder: Forwarder,
    ident: int,
    *,
    bytes: int = 0,
    packets: int = 0,
    depth_bytes: int = 0,
    depth_packets: int = 0,
) -> None: ...
def limit_of(forwarder: Forwarder, ident: int) -> tuple[int, int, int, int]: ...
