# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The router's stations at its uplinks, as control makes and asks them."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import ipaddress
import os

from netstack.address cimport address_format, address_is_any, address_parse, address_t
from netstack.errors import ConfigError
from netstack.router.devices.device cimport Device
from netstack.router.neighbors cimport neighbor_t
from netstack.router.port cimport port_t
from netstack.router.state cimport enter, forwarder_t, leave
from netstack.router.station cimport side_t, station_announce, station_init, station_side, station_t
from netstack.router.uplink cimport station_of


cdef station_t *station_new(forwarder_t *f, Device device, bytes mac, object own, object gateways) except NULL:
    """The router on an Ethernet."""
    cdef station_t *station
    cdef side_t *side
    cdef address_t a
    cdef bytes secret = os.urandom(16), mask
    if mac is None or len(mac) != 6 or mac[0] & 1:
        raise ConfigError("an uplink that carries Ethernet needs a station's address of 6 bytes, no group's")
    station = <station_t *> calloc(1, sizeof(station_t))
    if station == NULL or station_init(station, &device.device, mac, &f.table, &f.routes,
                                       <const uint64_t *> <char *> secret) != 0:
        free(station)
        raise MemoryError
    for interface in map(ipaddress.ip_interface, own):
        address_parse(interface.ip, &a)
        side = station_side(station, &a)
        side.own = a
        address_parse(interface.network.network_address, &side.base)
        mask = interface.network.netmask.packed
        mask = b"\xff" * (16 - len(mask)) + mask
        memcpy(&side.mask, <const char *> mask, 16)
    for gateway in gateways:
        address_parse(gateway, &a)
        side = station_side(station, &a)
        side.gateway = a
        side.routed = True
        if address_is_any(&side.own):            # of no network: nobody else is reached directly
            side.base = a
            side.mask.hi = side.mask.lo = <uint64_t> -1
    return station


cdef int stations_announce(forwarder_t *f, object address) except -1:
    cdef address_t a
    cdef uint32_t i
    address_parse(address, &a)
    with nogil:
        enter(f)
        for i in range(f.n_active):
            if f.active[i].uplink != NULL and station_of(f.active[i]) != NULL:
                station_announce(station_of(f.active[i]), &a)
        leave(f)
    return 0


cdef dict station_neighbors(forwarder_t *f, port_t *port):
    cdef station_t *station
    cdef neighbor_t *n
    cdef uint32_t i
    cdef dict found = {}
    if port.uplink == NULL or station_of(port) == NULL:
        return found
    station = station_of(port)
    with nogil:
        enter(f)
    for i in range(station.neighbors.touched):
        n = &station.neighbors.entries[i]
        if n.address.hi or n.address.lo:
            found[address_format(&n.address)] = ((<char *> n.mac)[:6] if n.resolved else None, n.pending_count)
    leave(f)
    return found
