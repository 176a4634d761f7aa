"""How a driver's leader and service thread sleep, and are woken; see driver.pxd for the protocol."""

from libc.stdint cimport int64_t, uint32_t

from netstack.driver cimport driver_t, links_now_t

cdef enum:                       # what woke a sleeper
    BELL = 1                     # a link's doorbell
    KICK = 2                     # one of our own threads
    DIED = 4                     # the process behind a link ended: call peers_died
    ASKED = 8                    # somebody wants a report, or can take more of it
    HEARD = 16                   # a doorbell of the leader's, which is loose


cdef uint32_t dead_links(const driver_t *d) noexcept nogil
cdef bint has_input(driver_t *d, uint32_t dead) noexcept nogil           # of links that are not dead
cdef void links_now(driver_t *d, links_now_t *now) noexcept nogil
cdef int doorbells_open(driver_t *d) noexcept nogil
cdef void doorbells_close(driver_t *d) noexcept nogil
cdef void ring(int fd) noexcept nogil                                    # an eventfd
cdef bint arm(driver_t *d, uint32_t kind) noexcept nogil                 # True: input or room is there already
cdef void disarm(driver_t *d) noexcept nogil
cdef void drain(driver_t *d, uint32_t kind) noexcept nogil
cdef void peers_died(driver_t *d) noexcept nogil
# Lock not held:
cdef bint leader_spin(driver_t *d, int64_t until, uint32_t dead) noexcept nogil    # True: something came
cdef int leader_sleep(driver_t *d, int64_t until, const links_now_t *now, int *woken) noexcept nogil
cdef int service_sleep(driver_t *d, int64_t until, const links_now_t *now) noexcept nogil
