"""The router's stations, for control."""

from netstack.router.devices.device cimport Device
from netstack.router.port cimport port_t
from netstack.router.state cimport forwarder_t
from netstack.router.station cimport station_t


cdef station_t *station_new(forwarder_t *f, Device device, bytes mac, object own, object gateways) except NULL
cdef int stations_announce(forwarder_t *f, object address) except -1
cdef dict station_neighbors(forwarder_t *f, port_t *port)
