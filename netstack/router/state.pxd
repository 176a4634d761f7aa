"""What the router's data path knows: ports, table, pools, and the locks around them.

Two locks make a fair one: the data thread passes `gate` before each round, a control thread holds `gate` while it waits
for `main`, so it gets in after at most one visit of one port.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from netstack.address cimport address_t
from netstack.router.claims cimport claims_t
from netstack.router.policing cimport police_t
from netstack.router.port cimport port_counters_t, port_t
from netstack.router.routes cimport routes_t
from netstack.router.table cimport entry_t, table_t
from rings.doorbell cimport doorbell_spin_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef unsigned long pthread_t
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)

cdef enum:
    MAX_NETWORKS = 16
    PACKET_BYTES = 65600         # the largest packet there is: 65,535 bytes behind an IPv6 header


cdef struct network_t:           # a pool
    address_t base
    address_t mask
    address_t router             # the router's own there; 0: none


cdef struct forwarder_t:
    pthread_mutex_t gate
    pthread_mutex_t main
    pthread_t thread
    bint running
    bint stopping
    int epoll_fd
    int wake_fd                  # control wakes the data thread
    int event_fd                 # the data thread tells control to look at failed()
    const uint64_t *losses   # pages of shared memory lost in this process: somebody truncated his
    uint64_t losses_seen
    bint failures                # some port failed since control looked
    port_t **slots               # by slot number, NULL free
    uint32_t max_ports
    port_t **active              # dense, visited round robin
    uint32_t n_active
    uint32_t n_muted
    uint32_t wires               # ports with an emulated link
    uint32_t limited             # ports with a limit on what they send
    # --- what a turn may cost (budget.pxd)
    int64_t quantum              # units of work a round for each attachment
    int64_t charging             # -1: what is not cheap is charged; 0: a turn is bounded by packets and bytes alone
    int64_t charged              # in the turn that it is
    uint32_t n_deferred          # attachments that had packets, and no turn in this round
    bint fair                    # where a rate makes packets wait, each source has a queue of its own
    bint codel                   # and they do not wait there for long
    port_t *dirty
    port_t *default_uplink       # where there is no route
    table_t table                # addresses
    routes_t routes              # prefixes
    police_t *police             # of TCP connections; NULL: nobody is watched
    claims_t *claims         # of the addresses that stacks share; NULL: there are none
    uint8_t *scratch             # PACKET_BYTES: one packet, as far as it has to be private
    network_t networks[MAX_NETWORKS]
    int n_networks
    address_t routers[2]         # the router's own of each version, source of ICMP errors to whoever is of no pool; 0: none
    uint64_t next_generation
    uint64_t queue_limit
    int64_t now_ns
    int64_t last_busy_ns
    uint32_t busy_ports          # that had packets in the last look
    uint32_t cpus
    doorbell_spin_t spin
    port_counters_t retired      # of ports that are gone
    uint64_t rounds
    uint64_t sleeps


cdef inline bint network_has(const network_t *n, const address_t *a) noexcept nogil:
    return (a.lo & n.mask.lo) == n.base.lo and (a.hi & n.mask.hi) == n.base.hi


cdef inline void enter(forwarder_t *f) noexcept nogil:
    pthread_mutex_lock(&f.gate)
    pthread_mutex_lock(&f.main)
    pthread_mutex_unlock(&f.gate)


cdef inline void leave(forwarder_t *f) noexcept nogil:
    pthread_mutex_unlock(&f.main)
