"""The router's data path as control holds it."""

from netstack.router.data_path cimport DataPath
from netstack.router.route_table cimport RouteTable


cdef class Forwarder(DataPath):
    cdef RouteTable _routes
