"""Devices of the router's uplinks: what reads and writes frames. What happens with neighbours is ``station``'s."""
