"""Names to addresses and back, for a host with a network of its own: no look-up leaves through the kernel.

`functions` has the standard library's functions. What they know comes, in this order, from `literals` (addresses as
text), `hosts_file`, and `stub`, which asks name servers over the host's own sockets. `sorting` orders addresses.
Messages are dnspython's work, loaded by the first question that has to be asked.
"""

from __future__ import annotations

from netstack.resolver.functions import DNS_CHOICES, Resolver

__all__ = ["DNS_CHOICES", "Resolver"]
