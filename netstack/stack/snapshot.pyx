"""A stack as a versioned record format, and back: what migration, live upgrade and the determinism tests stand on.

Layout: magic, length of the header, header (JSON), records. The header names the fields of each structure with their
sizes, so that a later version reads what it still knows and leaves the rest at its default; it also carries the small
state of the stack (interfaces, neighbours, routes, settings). A record is {u16 type, u16 0, u32 length} and its bytes,
little-endian throughout.

Times are kept as the difference to the clock of the restored stack: a timer goes on with what it had left. The clock
that timestamps and initial sequence numbers come from goes on without a step (``tcp_t.clock_shift_ns``).

What is not in it: frames inside links, buffers lent by waiting threads, and the list of events; a driver ends loans before
and looks at every socket after.
"""

import json
import struct

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from netstack.address cimport address_t
from netstack.demux cimport BIND_BUCKETS, demux_bind, demux_tw_insert, tw_t
from netstack.ip.interface cimport interface_add_address, interface_t
from netstack.ip.ip6_state cimport ip6_restore, ip6_save
from netstack.ip.route cimport route_add
from netstack.ip.state cimport (
    fragments_restore, fragments_save, interface_restore, interface_save, limits_restore, limits_save,
)
from netstack.link.link cimport MEDIA_ETHERNET, Link
from netstack.link.queue cimport QueueLink
from netstack.sock cimport SF_ORPHAN, SOCK_TCP, sock_t
from netstack.stack.core cimport stack_add_interface, stack_init, stack_t
from netstack.stack.snapshot_datagrams cimport datagram_record, restore_datagram
from netstack.stack.snapshot_format cimport MAX_RECORDS, Reader, field_sizes, need, pack, plans_of, unpack
from netstack.stack.snapshot_tcp cimport restore_tcp, tcp_record
from netstack.tcp.congestion.controller cimport congestion_default, congestion_find
from netstack.tcp.fast_open cimport fast_open_remember
from netstack.tcp.listener cimport request_join
from netstack.tcp.tcb cimport (
    CE, CLOSED, ECN_ACCURATE, MAX_FAST_OPEN_CACHE, MAX_PATH_MTUS, REQUEST_LEVELS, TF_IN_ACCEPT, fast_open_cache_t,
    path_mtu_t, request_t, tcb_t, want_output,
)
from netstack.udp.endpoint cimport udp_endpoint_t

from netstack.config import InterfaceConfig, StackConfig
from netstack.errors import SnapshotError

MAGIC = b"netstack snapshot 2\n"

cdef enum:                       # record types
    RECORD_TCP = 1
    RECORD_DATAGRAM = 2
    RECORD_TIME_WAIT = 3
    RECORD_REQUEST = 4


# --- out --------------------------------------------------------------------------------------------------------------

cdef dict interface_state(const interface_t *ifc, int64_t now_ns):
    """Its settings, and what the interface itself saves: neighbours, waiting packets, limits."""
    return {
        "media": "ethernet" if ifc.media == MEDIA_ETHERNET else "ip", "mtu": ifc.mtu,
        "mac": (<const char *> ifc.mac)[:6].hex(),
        "addresses": [[(<const char *> &ifc.addresses[k])[:16].hex(), ifc.prefix_lengths[k]]
                      for k in range(ifc.address_count)],
        "state": interface_save(ifc, now_ns).hex(), "ipv6": ip6_save(ifc, now_ns),
    }


cdef list path_mtus(stack_t *c):
    """What paths were said to carry, oldest first, with the time that is left."""
    cdef list out = []
    cdef path_mtu_t *entry
    cdef uint32_t i
    for i in range(<uint32_t> MAX_PATH_MTUS):
        entry = &c.tcp.path_mtus[(c.tcp.path_mtu_next + i) % MAX_PATH_MTUS]
        if entry.mtu and entry.until_ns > c.tcp.now_ns:
            out.append([(<const char *> &entry.remote)[:16].hex(), entry.mtu, entry.until_ns - c.tcp.now_ns])
    return out


cdef bytes snapshot_stack(Stack stack):
    """See `Stack.snapshot`."""
    cdef stack_t *c = stack.c
    cdef uint32_t i
    cdef sock_t *sock
    cdef tcb_t *tcb
    cdef tw_t *tw
    cdef request_t *request
    cdef list records = []
    cdef list bound = [], output = []
    for i in range(<uint32_t> BIND_BUCKETS):
        chain = []
        sock = c.demux.bound[i]
        while sock != NULL:
            chain.append(sock.id)
            sock = sock.bind_next
        bound.extend(reversed(chain))                  # bound in this order, the chains come out the same
    tcb = c.tcp.output_first
    while tcb != NULL:
        output.append(tcb.sock.id)
        tcb = tcb.output_next
    for i in range(c.sock_count):
        sock = c.socks[i]
        if sock.kind == SOCK_TCP:
            if (<tcb_t *> sock).state == CLOSED and sock.flags & SF_ORPHAN and not (<tcb_t *> sock).flags & TF_IN_ACCEPT:
                continue                               # dead, waiting to be freed
            records.append((RECORD_TCP, tcp_record(<tcb_t *> sock)))
        else:
            records.append((RECORD_DATAGRAM, datagram_record(<udp_endpoint_t *> sock)))
    for i in range(REQUEST_LEVELS + 1):                # each list in its order: so they are restored
        request = c.tcp.requests[i].first if i < REQUEST_LEVELS else c.tcp.requests_due.first
        while request != NULL:
            records.append((RECORD_REQUEST, struct.pack("<I", request.listener.sock.id) + pack("request", request)))
            request = request.later
    tw = c.demux.tw_first
    while tw != NULL:
        records.append((RECORD_TIME_WAIT, pack("time_wait", tw)))
        tw = tw.next
    header = {
        "fields": field_sizes(),
        "now": c.tcp.now_ns, "clock_shift": c.tcp.clock_shift_ns,
        "secret": (<const char *> c.tcp.secret)[:16].hex(), "random": (<const char *> c.tcp.random)[:16].hex(),
        "congestion": c.tcp.congestion.name.decode(), "next_sock_id": c.next_sock_id,
        "config": pack("config", &c.tcp.config).hex(),
        "counters": (<const char *> &c.tcp.counters)[:sizeof(c.tcp.counters)].hex(),
        "interfaces": [interface_state(c.interfaces[k], c.tcp.now_ns) for k in range(c.interface_count) if not c.interfaces[k].loopback],
        "routes": [[(<const char *> &c.routes.routes[k].prefix)[:16].hex(), c.routes.routes[k].prefix_length,
                    (<const char *> &c.routes.routes[k].gateway)[:16].hex(), c.routes.routes[k].interface]
                   for k in range(c.routes.count)],
        "settings": [{"addresses": list(s.addresses), "gateway": s.gateway, "mtu": s.mtu, "media": s.media, "mac": s.mac}
                     for s in stack.config.interfaces],
        "bound": bound, "output": output,
        "ip": pack("ip", &c.ip).hex(), "icmp_limits": limits_save(&c.ip, c.tcp.now_ns).hex(),
        "path_mtus": path_mtus(c), "fragments": fragments_save(&c.fragments, c.tcp.now_ns).hex(),
        "fast_open": {
            "keys": (<const char *> c.tcp.fast_open.keys)[:32].hex(), "key_count": c.tcp.fast_open.key_count,
            "cache": [pack("fast_open", &c.tcp.fast_open.cache[k]).hex()
                      for k in range(c.tcp.fast_open.cache_count)],
            "blackholes": c.tcp.fast_open.blackholes, "since": c.tcp.now_ns - c.tcp.fast_open.blackhole_ns,
        },
        "ipv6": {"bindv6only": c.bindv6only, "auto_flowlabels": c.auto_flowlabels},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    parts = [MAGIC, struct.pack("<II", len(text), len(records)), text]
    for kind, payload in records:
        parts.append(struct.pack("<HHI", kind, 0, len(payload)))
        parts.append(payload)
    return b"".join(parts)


# --- in ---------------------------------------------------------------------------------------------------------------

cdef object restore_path_mtus(stack_t *c, list paths):
    cdef bytes raw
    cdef uint32_t i
    for remote, mtu, left in paths[:<int> MAX_PATH_MTUS]:
        raw = bytes.fromhex(remote)
        if len(raw) != 16:
            raise SnapshotError("a path MTU of no address")
        i = c.tcp.path_mtu_next % MAX_PATH_MTUS
        memcpy(&c.tcp.path_mtus[i].remote, <const char *> raw, 16)
        c.tcp.path_mtus[i].mtu = mtu
        c.tcp.path_mtus[i].until_ns = c.tcp.now_ns + <int64_t> left
        c.tcp.path_mtu_next += 1


cdef object restore_interface(stack_t *c, Link link, dict state, int64_t now_ns):
    cdef interface_t *ifc = stack_add_interface(c, &link.link)
    cdef address_t a
    cdef bytes raw
    need(ifc != NULL)
    ifc.mtu = min(int(state["mtu"]), ifc.mtu)
    raw = bytes.fromhex(state["mac"])
    memcpy(ifc.mac, <const char *> raw, 6)
    for text, prefix in state["addresses"]:
        raw = bytes.fromhex(text)
        memcpy(&a, <const char *> raw, 16)
        interface_add_address(ifc, &a, prefix)
    interface_restore(ifc, bytes.fromhex(state["state"]), now_ns)
    ip6_restore(ifc, state["ipv6"], now_ns)


cdef sock_t *by_id(stack_t *c, dict index, object id) except NULL:
    if id not in index:
        raise SnapshotError(f"the snapshot names a socket {id} it does not have")
    return c.socks[<uint32_t> index[id]]


cdef object restore_request(stack_t *c, dict index, Reader one, list plan, int64_t shift):
    """One half-open connection; they come in the order of their lists."""
    cdef sock_t *parent = by_id(c, index, one.number("<I"))
    cdef request_t *request
    if parent.kind != SOCK_TCP or (<tcb_t *> parent).listener == NULL:
        raise SnapshotError("a half-open connection without a listener")
    request = <request_t *> calloc(1, sizeof(request_t))
    need(request != NULL)
    unpack(one, plan, request, shift)
    request.listener = <tcb_t *> parent
    if request.interface >= c.interface_count or request.ecn > ECN_ACCURATE or request.ecn_syn > CE:
        free(request)
        raise SnapshotError("a half-open connection with an impossible interface or ECN")
    if not c.tcp.request_keep(c, request):
        free(request)
        need(False)
    request_join(request)


cdef object restore_fast_open(stack_t *c, dict state, list plan, int64_t shift):
    """Keys, what a client remembers, and black holes."""
    cdef fast_open_cache_t one
    cdef fast_open_cache_t *entry
    cdef bytes raw = bytes.fromhex(state["keys"])
    if len(raw) != 32 or not 0 <= state["key_count"] <= 2:
        raise SnapshotError("Fast Open keys of the wrong size")
    memcpy(c.tcp.fast_open.keys, <const char *> raw, 32)
    c.tcp.fast_open.key_count = state["key_count"]
    for text in state["cache"][:MAX_FAST_OPEN_CACHE]:
        raw = bytes.fromhex(text)
        memset(&one, 0, sizeof(one))
        unpack(Reader(raw), plan, &one, shift)
        if one.length > 16:
            raise SnapshotError("a Fast Open cookie of impossible size")
        entry = fast_open_remember(&c.tcp, &one.local, &one.remote)
        need(entry != NULL)
        entry[0] = one
    c.tcp.fast_open.blackholes = state["blackholes"]
    c.tcp.fast_open.blackhole_ns = c.tcp.now_ns - state["since"]


cdef object rejoin(stack_t *c, dict header, dict families, list requests, dict plans, int64_t shift):
    """Lists among the sockets: accept queues, half-open connections, bound ports, output."""
    cdef uint32_t i
    cdef tcb_t *parent
    cdef tcb_t *child
    cdef tcb_t *last
    index = {c.socks[i].id: i for i in range(c.sock_count)}
    for id, accept in families.items():
        parent = <tcb_t *> by_id(c, index, id)
        last = NULL
        for child_id in accept:
            child = <tcb_t *> by_id(c, index, child_id)
            if child.sock.kind != SOCK_TCP or child == parent or child.parent != NULL:
                raise SnapshotError("a listener's queue that is none")
            child.parent = parent
            child.sibling = NULL
            child.sibling_back = last
            if last != NULL:
                last.sibling = child
            else:
                parent.listener.accept_first = child
            last = child
            child.flags |= TF_IN_ACCEPT
            parent.listener.accept_count += 1
            parent.listener.accept_last = child
    for one in requests:
        restore_request(c, index, one, plans["request"], shift)
    for id in header["bound"]:
        if id in index:
            demux_bind(&c.demux, by_id(c, index, id))
    for id in header["output"]:
        if id in index and by_id(c, index, id).kind == SOCK_TCP:
            want_output(<tcb_t *> by_id(c, index, id))


cdef Stack restore_stack(object cls, object data, object now_ns, object links):
    """See `Stack.restore`."""
    cdef Reader r = Reader(bytes(data))
    cdef Stack stack
    cdef stack_t *c
    cdef int64_t shift
    cdef bytes raw
    cdef address_t a, gateway
    cdef tw_t tw
    cdef dict families = {}
    cdef list requests = []
    if r.take(min(len(MAGIC), len(r.data))) != MAGIC:
        raise SnapshotError("these bytes are no snapshot of a stack, or one of a version this stack does not read")
    size, count = r.number("<I"), r.number("<I")
    if count > MAX_RECORDS:
        raise SnapshotError(f"a snapshot of {count} records")
    try:
        header = json.loads(r.take(size))
        plans = plans_of(header)
        settings = tuple(InterfaceConfig(**s) for s in header["settings"])
    except (ValueError, KeyError, TypeError) as e:
        raise SnapshotError(f"the snapshot's header cannot be read: {e}") from e
    if links is not None and len(links) != len(header["interfaces"]):
        raise SnapshotError(f"{len(header['interfaces'])} interfaces need as many links, not {len(links)}")
    stack = cls.__new__(cls)
    c = stack.c
    stack.config = StackConfig(interfaces=settings)
    raw = bytes.fromhex(header["secret"]) + bytes.fromhex(header["random"])
    if len(raw) != 32:
        raise SnapshotError("secrets of the wrong size")
    stack_init(c, <const uint8_t *> <const char *> raw)
    shift = now_ns - header["now"]
    c.tcp.now_ns = now_ns
    c.tcp.clock_shift_ns = header["clock_shift"] - shift
    raw = bytes.fromhex(header["config"])
    unpack(Reader(raw), plans["config"], &c.tcp.config, 0)
    raw = bytes.fromhex(header["counters"])
    memcpy(&c.tcp.counters, <const char *> raw, min(<size_t> len(raw), sizeof(c.tcp.counters)))
    name = header["congestion"].encode()
    c.tcp.congestion = congestion_find(name) if congestion_find(name) != NULL else congestion_default()
    for i, state in enumerate(header["interfaces"]):
        link = links[i] if links is not None else QueueLink(mtu=state["mtu"], media=state["media"])
        stack.links.append(link)
        try:
            restore_interface(c, link, state, now_ns)
        except (ValueError, KeyError, TypeError) as e:
            raise SnapshotError(f"an interface of the snapshot cannot be restored: {e}") from e
    stack.add_loopback()
    raw = bytes.fromhex(header["ip"])
    unpack(Reader(raw), plans["ip"], &c.ip, shift)
    try:
        limits_restore(&c.ip, bytes.fromhex(header["icmp_limits"]), now_ns)
        fragments_restore(&c.fragments, bytes.fromhex(header["fragments"]), now_ns, c.interfaces, c.interface_count)
    except ValueError as e:
        raise SnapshotError(f"limits or fragments of the snapshot cannot be restored: {e}") from e
    restore_path_mtus(c, header["path_mtus"])
    c.bindv6only = bool(header["ipv6"]["bindv6only"])
    c.auto_flowlabels = int(header["ipv6"]["auto_flowlabels"]) & 3
    for prefix, length, text, interface in header["routes"]:
        raw = bytes.fromhex(prefix)
        memcpy(&a, <const char *> raw, 16)
        raw = bytes.fromhex(text)
        memcpy(&gateway, <const char *> raw, 16)
        route_add(&c.routes, &a, length, &gateway, interface)
    for _ in range(count):
        kind = r.number("<H")
        r.number("<H")
        length = r.number("<I")
        one = Reader(r.take(length))
        if kind == RECORD_TCP:
            restore_tcp(c, one, plans, shift, families)
        elif kind == RECORD_DATAGRAM:
            restore_datagram(c, one, plans["datagram"], shift)
        elif kind == RECORD_REQUEST:
            requests.append(one)
        elif kind == RECORD_TIME_WAIT:
            memset(&tw, 0, sizeof(tw))
            unpack(one, plans["time_wait"], &tw, shift)
            need(demux_tw_insert(&c.demux, &tw) == 0)
    c.next_sock_id = header["next_sock_id"]
    rejoin(c, header, families, requests, plans, shift)
    restore_fast_open(c, header["fast_open"], plans["fast_open"], shift)
    return stack
