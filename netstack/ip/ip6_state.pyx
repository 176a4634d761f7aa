# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Addresses on trial, lifetimes, routers, prefixes, name servers, groups and timers, by name."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from netstack.address cimport address_is_unspecified6, address_t
from netstack.ip.autoconf cimport ip6_make, ip6_schedule
from netstack.ip.ip6 cimport (
    IP6_ADDRESSES, IP6_DOMAIN_MAX, IP6_DOMAINS, IP6_GROUPS, IP6_NONCE, IP6_PREFIXES, IP6_REDIRECTS, IP6_ROUTERS, IP6_SERVERS,
    ORIGIN_SLAAC, held_t, ip6_t,
)
from netstack.ip.groups cimport filter_t
from netstack.ip.state cimport absolute, filter_restore, filter_save, remaining

cdef str text_of(const address_t *a):
    return (<const char *> a)[:16].hex()


cdef int read_address(object text, address_t *out) except -1:
    cdef bytes raw = bytes.fromhex(text)
    if len(raw) != 16:
        raise ValueError(f"an address of {len(raw)} bytes")
    memcpy(out, <const char *> raw, 16)
    return 0


cdef list held_list(const held_t *held, uint32_t count, int64_t now_ns):
    cdef uint32_t i
    out = []
    for i in range(count):
        # deadline: 0 and negative ones say that the trial has not begun
        deadline = held[i].deadline_ns
        out.append([text_of(&held[i].address), held[i].prefix_length, held[i].origin, held[i].attempt, held[i].probes,
                    (<const char *> held[i].nonce)[:IP6_NONCE].hex(),
                    0 if deadline == 0 else 1 if deadline > 0 else -1,
                    remaining(deadline if deadline >= 0 else -deadline, now_ns),
                    remaining(held[i].preferred_until_ns, now_ns), remaining(held[i].valid_until_ns, now_ns)])
    return out


cdef uint32_t read_held(list items, held_t *held, int64_t now_ns) except? 0xffffffff:
    cdef uint32_t n = 0
    cdef bytes nonce
    cdef int64_t deadline
    if len(items) > IP6_ADDRESSES:
        raise ValueError(f"{len(items)} addresses")
    for address, length, origin, attempt, probes, text, sign, left, preferred, valid in items:
        nonce = bytes.fromhex(text)
        if length > 128 or origin > ORIGIN_SLAAC or len(nonce) != IP6_NONCE:
            raise ValueError(f"an address of /{length} from {origin}")
        read_address(address, &held[n].address)
        held[n].prefix_length = length
        held[n].origin = origin
        held[n].attempt = attempt
        held[n].probes = probes
        memcpy(held[n].nonce, <const char *> nonce, IP6_NONCE)
        deadline = absolute(left, now_ns)
        held[n].deadline_ns = 0 if sign == 0 else (deadline if sign > 0 else -deadline)
        held[n].preferred_until_ns = absolute(preferred, now_ns)
        held[n].valid_until_ns = absolute(valid, now_ns)
        n += 1
    return n


cdef dict ip6_save(const interface_t *ifc, int64_t now_ns):
    cdef const ip6_t *s = ifc.ip6
    cdef uint32_t i
    state = {"conf": (<const char *> &ifc.conf)[:sizeof(ifc.conf)].hex()}
    if s == NULL:
        return state
    state.update(
        held=held_list(s.held, s.held_count, now_ns), trial=held_list(s.trial, s.trial_count, now_ns),
        routers=[[text_of(&s.routers[i].address), remaining(s.routers[i].until_ns, now_ns), s.routers[i].preference]
                 for i in range(s.router_count)],
        prefixes=[[text_of(&s.prefixes[i].prefix), remaining(s.prefixes[i].until_ns, now_ns), s.prefixes[i].length]
                  for i in range(s.prefix_count)],
        servers=[[text_of(&s.servers[i].address), remaining(s.servers[i].until_ns, now_ns)]
                 for i in range(s.server_count)],
        domains=[[(<const char *> s.domains[i].name)[:s.domains[i].length].hex(), remaining(s.domains[i].until_ns, now_ns)]
                 for i in range(s.domain_count)],
        groups=[[text_of(&s.groups[i].address), remaining(s.groups[i].report_ns, now_ns),
                 remaining(s.groups[i].answer_ns, now_ns), s.groups[i].users, s.groups[i].wanted, s.groups[i].reports,
                 s.groups[i].left, filter_save(s.groups[i].filter).hex()]
                for i in range(s.group_count)],
        redirects=[text_of(&s.redirects[i % IP6_REDIRECTS]) for i in range(s.redirect_next, s.redirect_next + IP6_REDIRECTS)
                   if not address_is_unspecified6(&s.redirects[i % IP6_REDIRECTS])],
        default_router=text_of(&s.default_router),
        numbers=[s.retrans_ns, s.reachable_ns, s.solicit_wait_ns, s.base_reachable_ms, s.router_mtu, s.hop_limit,
                 s.other_config, s.started, s.look_again],
        times=[remaining(s.reachable_again_ns, now_ns), remaining(s.solicit_ns, now_ns), remaining(s.general_ns, now_ns),
               remaining(s.old_querier_until_ns, now_ns)],
    )
    return state


cdef int ip6_restore(interface_t *ifc, dict state, int64_t now_ns) except -1:
    cdef ip6_t *s
    cdef uint32_t i
    cdef bytes domain
    cdef bytes conf = bytes.fromhex(state["conf"])
    if len(conf) != sizeof(ifc.conf):
        raise ValueError(f"settings of {len(conf)} bytes")
    memcpy(&ifc.conf, <const char *> conf, sizeof(ifc.conf))
    if "held" not in state:
        return 0
    if ip6_make(ifc) < 0:
        raise MemoryError
    s = ifc.ip6
    for name, most in (("routers", IP6_ROUTERS), ("prefixes", IP6_PREFIXES), ("servers", IP6_SERVERS),
                       ("domains", IP6_DOMAINS), ("groups", IP6_GROUPS), ("redirects", IP6_REDIRECTS)):
        if len(state[name]) > most:
            raise ValueError(f"{len(state[name])} {name}")
    for i, address in enumerate(state["redirects"]):
        read_address(address, &s.redirects[i])
    s.redirect_next = len(state["redirects"])
    s.held_count = read_held(state["held"], s.held, now_ns)
    s.trial_count = read_held(state["trial"], s.trial, now_ns)
    for i, (address, left, preference) in enumerate(state["routers"]):
        read_address(address, &s.routers[i].address)
        s.routers[i].until_ns = absolute(left, now_ns)
        s.routers[i].preference = preference
    s.router_count = len(state["routers"])
    for i, (address, left, length) in enumerate(state["prefixes"]):
        read_address(address, &s.prefixes[i].prefix)
        s.prefixes[i].until_ns = absolute(left, now_ns)
        s.prefixes[i].length = length
    s.prefix_count = len(state["prefixes"])
    for i, (address, left) in enumerate(state["servers"]):
        read_address(address, &s.servers[i].address)
        s.servers[i].until_ns = absolute(left, now_ns)
    s.server_count = len(state["servers"])
    for i, (text, left) in enumerate(state["domains"]):
        domain = bytes.fromhex(text)
        if len(domain) > IP6_DOMAIN_MAX:
            raise ValueError(f"a domain of {len(domain)} bytes")
        memcpy(s.domains[i].name, <const char *> domain, len(domain))
        s.domains[i].length = <uint8_t> len(domain)
        s.domains[i].until_ns = absolute(left, now_ns)
    s.domain_count = len(state["domains"])
    for i, (address, report, answer, users, wanted, reports, gone, text) in enumerate(state["groups"]):
        s.groups[i].filter = <filter_t *> calloc(1, sizeof(filter_t))
        if s.groups[i].filter == NULL:
            raise MemoryError
        s.group_count = i + 1
        filter_restore(s.groups[i].filter, bytes.fromhex(text), 0)
        read_address(address, &s.groups[i].address)
        s.groups[i].wanted = wanted
        s.groups[i].report_ns = absolute(report, now_ns)
        s.groups[i].answer_ns = absolute(answer, now_ns)
        s.groups[i].users = users
        s.groups[i].reports = reports
        s.groups[i].left = gone
    read_address(state["default_router"], &s.default_router)
    (s.retrans_ns, s.reachable_ns, s.solicit_wait_ns, s.base_reachable_ms, s.router_mtu, s.hop_limit, s.other_config,
     s.started, s.look_again) = state["numbers"]
    again, solicit, general, old = state["times"]
    s.reachable_again_ns = absolute(again, now_ns)
    s.solicit_ns = absolute(solicit, now_ns)
    s.general_ns = absolute(general, now_ns)
    s.old_querier_until_ns = absolute(old, now_ns)
    ip6_schedule(ifc)
    return 0
