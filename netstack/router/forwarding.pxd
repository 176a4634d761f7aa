"""The router's data path as control holds it."""

from libc.stdint cimport uint32_t, uint64_t

from netstack.router.devices.device cimport Device
from netstack.router.policing cimport police_t
from netstack.router.port cimport port_t
from netstack.router.route_table cimport RouteTable
from netstack.router.state cimport forwarder_t
from netstack.router.station cimport station_t
from netstack.router.table cimport entry_t


cdef class Forwarder:
    cdef forwarder_t *f
    cdef police_t *_police        # kept while nobody is watched, too
    cdef dict _keep              # port id -> what its C pointers need
    cdef dict _mirrored          # port id -> the ring of its mirror
    cdef RouteTable _routes

    cdef port_t *port(self, uint64_t ident) except NULL
    cdef port_t *new_port(self, int kind, uint32_t mtu, object keep) except NULL
    cdef station_t *new_station(self, Device device, bytes mac, object own, object gateways) except NULL
    cdef void publish(self, port_t *port) noexcept
    cdef entry_t *change(self, object address, uint32_t state) except NULL
