"""Ports, as control adds and removes them."""

from libc.stdint cimport uint32_t

from netstack.router.devices.device cimport Device
from netstack.router.port cimport port_t
from netstack.router.state cimport forwarder_t
from rings.spsc_ring cimport ConsumerRing, ProducerRing


# What a port points to is kept by who asked for it, until `port_remove`.
cdef port_t *port_of_stack(forwarder_t *f, ProducerRing tx, ConsumerRing rx, int wake_fd, object bells, uint32_t mtu,
                           bint bells_are_sockets, bint wake_is_socket) except NULL
cdef port_t *port_of_uplink(forwarder_t *f, Device device, bytes mac, object own, object gateways) except NULL
cdef void port_publish(forwarder_t *f, port_t *port) noexcept
cdef dict port_remove(forwarder_t *f, port_t *port, bint hold)
cdef list ports_failed(forwarder_t *f)
