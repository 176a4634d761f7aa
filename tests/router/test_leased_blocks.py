"""Blocks that attachments lease: one route for each, all of its addresses, and nobody else's."""

import errno
import ipaddress
import json
import os
import random
import socket
import subprocess
import sys
import time

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import UDP as UDP6
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

import netstack
from netstack.errors import AddressTakenError, ConfigError, PoolEmptyError, RouterError
from netstack.router import Router, attach, protocol
from netstack.router.block_messages import BLOCKS, MAX_BLOCKS, network_of
from netstack.router.client import ControlClient
from netstack.router.journal import digest_of
from netstack.router.pool import HOLD_NS, pack_address
from netstack.router.protocol import AttachRequest, Capability, Type
from tests.faults.routers import Nursery
from tests.router.lan import Lan, parsed, put, take, wait_until
from tests.support import ROOT
from tests.test_tutorials import blocks as programs_of

LIMIT = 60
POOLS = ("10.77.0.0/16", "fd77::/48")


def net(text):
    return ipaddress.ip_network(text)


@pytest.fixture
def router(runtime, backend):
    with Router(POOLS, backend=backend, ring_capacity=1 << 18) as router:
        yield router
        assert router.check_conservation() == []


def udp(src, dst):
    kind = (IPv6, UDP6) if ":" in dst else (IP, UDP)
    return kind[0](src=src, dst=dst) / kind[1](sport=1, dport=2) / Raw(b"hello")


def send(attachment, packet):
    assert put(attachment.link.channel, packet)
    attachment.link.channel.flush()


def hears(attachment):
    return parsed(wait_until(lambda: take(attachment.link.channel)))


def routes(router, kind="stack"):
    return [route for route in router.routes() if route.kind == kind]


# ---- in the data path, where nothing happens by itself


@pytest.mark.parametrize("pool, a, block, inside", [("10.77.0.0/16", "10.77.0.2", "10.77.8.0/26", "10.77.8.9"),
                                                    ("fd77::/48", "fd77::2", "fd77:0:0:8::/64", "fd77:0:0:8::9")])
def test_a_block_without_attachment_is_silent_while_held_and_answered_for_after_that(pool, a, block, inside):
    lan = Lan(pool, router=str(net(pool)[1]))
    sender = lan.stack(a)
    lan.forwarder.set_block_aside(net(block), held=True)
    sender.send(udp(a, inside))
    lan.run()
    assert not sender.received() and sender.drops() == {"in_held": 1}
    lan.forwarder.set_block_aside(net(block))
    sender.send(udp(a, inside))
    lan.run()
    assert len(sender.received()) == 1 and sender.drops() == {"in_held": 1, "in_dead_address": 1}
    assert lan.forwarder.routes(net(block).version)[-1] == (net(block), "stack", 0, None)
    owner = lan.stack(str(net(pool)[3]))
    lan.forwarder.add_route(net(block), owner.port, replace=True)
    sender.send(udp(a, inside))
    lan.run()
    assert [p.dst for p in owner.received()] == [inside]
    lan.forwarder.set_block_aside(net(block), held=True)               # its owner's source addresses go with it
    owner.send(udp(inside, a))
    lan.run()
    assert not sender.received() and owner.drops() == {"in_spoofed": 1}
    with pytest.raises(ValueError, match="is a pool"):
        lan.forwarder.set_block_aside(net(pool))


@pytest.mark.parametrize("addresses, block, inside, outside", [
    (["10.77.0.2", "10.77.0.3", "10.77.8.9"], "10.77.8.0/26", ["10.77.8.0", "10.77.8.63"],
     ["10.77.8.64", "10.77.7.255", "10.77.9.0", "10.77.8.9", "10.77.0.2", "192.0.2.1"]),
    (["fd77::2", "fd77::3", "fd77:0:0:8::9"], "fd77:0:0:8::/64", ["fd77:0:0:8::", "fd77:0:0:8:ffff:ffff:ffff:ffff"],
     ["fd77:0:0:9::", "fd77:0:0:7:ffff::", "fd77:0:0:8::9", "fd77::2", "2001:db8::1"]),
])
def test_i1_a_stack_sends_from_its_block_and_no_other_does(addresses, block, inside, outside):
    lan = Lan(str(net(block).supernet(new_prefix=16 if "." in block else 48)), router=addresses[0][:-1] + "1")
    listener, owner, inner = (lan.stack(address) for address in addresses)
    lan.forwarder.add_route(net(block), owner.port)
    owner.send(*(udp(source, addresses[0]) for source in inside))
    lan.run()
    got = [ipaddress.ip_address(p.src) for p in listener.received()]
    assert got == [ipaddress.ip_address(source) for source in inside] and not owner.drops()
    owner.send(*(udp(source, addresses[0]) for source in outside))
    inner.send(*(udp(source, addresses[0]) for source in inside))
    lan.run()
    assert not listener.received()
    assert (owner.drops(), inner.drops()) == ({"in_spoofed": len(outside)}, {"in_spoofed": len(inside)})


# ---- a router


@pytest.mark.parametrize("length, version", [(26, 4), (64, 6)])
def test_a_block_is_one_route_and_all_of_its_addresses(router, length, version):
    with router.attach() as other, router.attach(block=length) as mine:
        block, peer = mine.block, next(a for a in other.addresses if (":" in a) == (version == 6))
        assert block.prefixlen == length and mine.blocks == (block,) and other.blocks == () and other.block is None
        assert str(block[1]) in mine.addresses and len(mine.addresses) == 2
        assert [(r.network, r.attachment) for r in routes(router)] == [(block, mine.id)]
        n = min(block.num_addresses, 1 << 20)
        for address in (str(block[0]), str(block[n // 2]), str(block[n - 1])):
            send(other, udp(peer, address))
            assert hears(mine).dst == address
            send(mine, udp(address, peer))
            assert hears(other).src == address
        before = router.counters(mine.id)["drop_in_spoofed"]
        send(mine, udp(str(block.broadcast_address + 1), peer))
        send(mine, udp(str(block.network_address - 1), peer))
        wait_until(lambda: router.counters(mine.id)["drop_in_spoofed"] == before + 2)
        assert [info.blocks for info in router.attachments()] == [(), (block,)]


def test_hosts_take_as_many_addresses_of_their_blocks_as_they_need(router):
    with netstack.attach(router.name, block=26) as a, netstack.attach(router.name, block=["/28", 96]) as b:
        for host in (a, b):
            for i in (2, 3, 7):
                host.add_address(f"{host.lease.block[i]}/32")
        for i in (1, 2, 3, 7):
            there, here = str(b.lease.block[i]), str(a.lease.block[i])
            with b.create_server((there, 80)) as listener, \
                    a.create_connection((there, 80), LIMIT, (here, 0)) as client:
                server, peer = listener.accept()
                assert peer[0] == here
                client.sendall(b"hello")
                assert server.recv(10) == b"hello"
                server.close()
        six = str(b.lease.blocks[1][1])
        assert six in {address.partition("/")[0] for address in b.addresses}
        assert len(routes(router)) == 3, "whatever addresses are in use"


def test_a_block_besides_an_address_and_several_blocks(router):
    with router.attach("0.0.0.0", block="/26") as a, router.attach(block=(26, "10.77.4.0/24", 64)) as b:
        assert a.address == "10.77.0.2" and len(a.addresses) == 1, "asked for, so that the block gives it none"
        assert str(b.blocks[1]) == "10.77.4.0/24" and [n.version for n in b.blocks] == [4, 4, 6]
        assert b.addresses == (str(b.blocks[0][1]), str(b.blocks[2][1])) and b.prefix_lengths == (16, 48)
        assert b.router_addresses == ("10.77.0.1", "fd77::1")


def test_where_stacks_share_an_address_a_block_is_one_s_own(runtime):
    with Router(POOLS[0], addressing="interface") as router, \
            router.attach() as sharer, router.attach(block=26) as a, router.attach("0.0.0.0", block=26) as b:
        assert sharer.address == b.address == router.shared_addresses[0] and a.ports is None and b.ports is not None
        send(b, udp(str(b.block[5]), a.address))
        assert hears(a).src == str(b.block[5])
        assert router.check_conservation() == []


def test_what_a_stack_gives_back_is_answered_for_and_had_by_others(router):
    with router.attach() as other:
        with router.attach(block="10.77.4.0/26") as mine:
            where = str(mine.block[9])
        send(other, IP(src=other.address, dst=where) / TCP(sport=1, dport=2, flags="S"))
        assert hears(other)[TCP].flags == "RA"
        assert [str(route) for route in routes(router)] == ["10.77.4.0/26 attachment gone"]
        with router.attach(where) as single, router.attach(block="10.77.5.0/24") as large:
            send(other, udp(other.address, where))
            assert hears(single).dst == where, "an address of it alone"
            assert large.block == net("10.77.5.0/24")
        with router.attach(block="10.77.4.0/24") as larger:
            for address in ("10.77.4.200", where):
                send(other, udp(other.address, address))
                assert hears(larger).dst == address, "nothing is left of those before"
            assert "10.77.4.0/26" not in map(str, (route.network for route in routes(router)))


@pytest.mark.parametrize("options, error, why", [
    ({"block": "10.99.0.0/26"}, RouterError, "in no pool .* any"),
    ({"block": 16}, RouterError, "from /17 .* larger pool"),
    ({"block": "10.77.4.0/31"}, RouterError, "to /30"),
    ({"block": "10.77.0.0/26"}, RouterError, "is never leased"),
    ({"block": "10.77.4.0/26"}, AddressTakenError, "taken: ask for any"),
    ({"block": "10.77.4.0/25"}, AddressTakenError, "overlaps 10.77.4.0/26"),
    ({"address": "10.77.4.9"}, AddressTakenError, "lies in the block"),
    ({"block": [17, 17]}, PoolEmptyError, "no free block /17"),
    ({"block": 64, "mtu": 1000}, RouterError, "1280"),
    ({"block": [26] * 5}, ValueError, "at most 4"),
    ({"block": "10.77.4.1/26"}, ConfigError, "host bits"),
])
def test_errors_say_what_to_do(router, options, error, why):
    with router.attach(block="10.77.4.0/26") as mine:
        with pytest.raises(error, match=why):
            router.attach(**options)
        assert [info.blocks for info in router.attachments()] == [mine.blocks]
        assert [route.network for route in routes(router) if not route.lost] == [mine.block], "nothing is left of it"


def test_nothing_is_taken_from_the_living_for_a_request_that_fails(router):
    with router.attach(block="10.77.4.0/26") as mine:
        with pytest.raises(PoolEmptyError):
            router.attach(block=[mine.block, 17], token=mine.token)
        assert [info.blocks for info in router.attachments()] == [(mine.block,)]
        assert [route.attachment for route in routes(router)] == [mine.id]


def test_a_pool_of_one_version_has_no_blocks_of_the_other(runtime):
    with Router("10.77.0.0/16") as router:
        with pytest.raises(RouterError, match="no block of IPv6: the router has 10.77.0.0/16"):
            router.attach(block=64)
        with pytest.raises(RouterError, match="stack"):
            router.remove_route(router.attach(block=26).block)


def test_any_block_is_of_the_first_pool_that_has_one(runtime):
    with Router(["10.77.0.0/24", "10.78.0.0/16"]) as router, router.attach(block=25) as a, router.attach(block=27) as b:
        assert a.block.subnet_of(net("10.78.0.0/16")) and b.block.subnet_of(net("10.77.0.0/24"))


# ---- who may come back


def die(attachment):
    """As if its process had been killed."""
    attachment._control.close()


def test_a_dead_stacks_block_waits_for_its_token_in_silence(router):
    with router.attach() as other:
        mine = attach(router.name, block=[26, 64], hold=True)
        block, token = mine.block, mine.token
        die(mine)
        wait_until(lambda: len(router.attachments()) == 1)
        assert [route.lost for route in routes(router)] == [True, True]
        with pytest.raises(AddressTakenError, match="held for its owner"):
            router.attach(block=block)
        held = router.counters(other.id)["drop_in_held"]
        send(other, udp(other.address, str(block[5])))
        wait_until(lambda: router.counters(other.id)["drop_in_held"] == held + 1)
        with attach(router.name, block=block, token=token) as again:
            assert again.block == block and take(other.link.channel) is None
            send(other, udp(other.address, str(block[5])))
            assert hears(again).dst == str(block[5])
            with attach(router.name, block=block, token=token) as third:     # also from one that lives
                send(other, udp(other.address, str(block[6])))
                assert hears(third).dst == str(block[6])
                assert [i.blocks for i in router.attachments()] == [(), (), (block,)]
                again.close()                                                # and has nothing to give back
                assert [route.attachment for route in routes(router)] == [third.id, 0]
        mine.link.close()


def test_a_block_that_nobody_came_back_for_is_anybodys(router, monkeypatch):
    monkeypatch.setattr("netstack.router.routed_blocks.HOLD_NS", 1_000_000)
    with router.attach() as other:
        mine = attach(router.name, block="10.77.4.0/26", hold=True)
        die(mine)
        wait_until(lambda: len(router.attachments()) == 1)
        dead = router.counters(other.id)["drop_in_dead_address"]

        def answered():
            send(other, udp(other.address, "10.77.4.5"))
            return router.counters(other.id)["drop_in_dead_address"] > dead

        wait_until(answered)
        assert hears(other)[ICMP].type == 3
        router.attach(block="10.77.4.0/26").close()
        mine.link.close()


def test_a_hold_whose_end_a_lease_noticed_first(router, monkeypatch):
    """Then its end is nothing to the one who has the address or the block by now."""
    with router.attach() as other:
        before = attach(router.name, ["10.77.3.9", "10.77.5.9"], block="10.77.4.0/26", hold=True)
        die(before)
        wait_until(lambda: len(router.attachments()) == 1)
        make = router._attachments.attach

        def late(*message):                    # time passes behind the last look at it, before the message
            for pool in router._pools:
                pool.clock = lambda: time.monotonic_ns() + 2 * HOLD_NS
            return make(*message)

        monkeypatch.setattr(router._attachments, "attach", late)
        with router.attach("10.77.3.9", block=["10.77.4.0/26", "10.77.5.0/26"]) as mine:
            router._service.tick(time.monotonic_ns())
            for address in ("10.77.3.9", "10.77.4.5", "10.77.5.9"):
                send(other, udp(other.address, address))
                assert hears(mine).dst == address
        before.link.close()


def test_f2_blocks_outlive_a_router_that_was_killed(runtime, backend):
    with Nursery(pool=POOLS, backend=backend, ring_capacity=1 << 18) as nursery, \
            netstack.attach(nursery.name, block=[26, 64], drain=1) as a, netstack.attach(nursery.name, drain=1) as b:
        block = a.lease.block
        extra = str(block[9])
        a.add_address(f"{extra}/32")
        with a.create_server((extra, 80)) as listener:
            client = b.create_connection((extra, 80), LIMIT)
            server, _ = listener.accept()
        with client, server:
            for _ in range(2):
                nursery.end()
                wait_until(lambda: a.lease.down and b.lease.down)
                client.sendall(b"hello")
                nursery.start()
                for options in ({"block": block}, {"address": extra}):       # nobody else has it meanwhile
                    with pytest.raises(AddressTakenError):
                        attach(nursery.name, **options)
                server.settimeout(LIMIT)
                assert server.recv(10) == b"hello"
                wait_until(lambda: not a.lease.down)
                assert a.lease.block == block and a.lease.returns
        with ControlClient(nursery.name) as control:
            assert sorted(info.blocks for info in control.attachments()) == [(), a.lease.blocks]
            assert [r.attachment for r in control.routes() if r.kind == "stack"] == [a.lease.id] * 2


def test_blocks_that_a_killed_router_had_leased_are_silent(runtime):
    with open(f"{runtime}/mine.leases", "w") as file:
        file.write(f"b 10.77.4.0/26 {os.getuid()} {digest_of(bytes(16))}\n")
    with Router(POOLS, "mine") as router, router.attach() as other:
        assert [str(route) for route in routes(router)] == ["10.77.4.0/26 attachment gone"]
        send(other, udp(other.address, "10.77.4.5"))
        wait_until(lambda: router.counters(other.id)["drop_in_held"] == 1)
        with pytest.raises(AddressTakenError, match="held"):
            router.attach(block="10.77.4.0/26")
        assert take(other.link.channel) is None


def test_connections_from_a_block_end_with_it_at_the_uplink_user(runtime):
    with socket.create_server(("127.0.0.1", 0)) as listener, \
            Router(uplinks=["user,loopback=10.77.0.1"]) as router:
        listener.settimeout(LIMIT)
        host = netstack.attach(router.name, block=26, reconnect=0)
        host.add_address(f"{host.lease.block[9]}/32")
        client = host.create_connection(("10.77.0.1", listener.getsockname()[1]), LIMIT, (str(host.lease.block[9]), 0))
        server, _ = listener.accept()
        client.sendall(b"hello")
        server.settimeout(LIMIT)
        assert server.recv(10) == b"hello" and router.relayed()["streams"] == 1
        die(host.lease)
        with pytest.raises(ConnectionResetError):
            server.recv(1)
        server.close()
        host.drain = 0
        host.close()
        wait_until(lambda: router.relayed()["streams"] == 0)


def test_the_document_s_programs(runtime, capsys):
    first, second = programs_of("addresses.md", "python")
    exec(first, {})
    addresses, listed = capsys.readouterr().out.splitlines()
    assert "10.77.255.129/16" in addresses and "10.77.255.128/26 attachment" in listed and "::/64 attachment" in listed
    exec(second, {})
    pools, listed = capsys.readouterr().out.splitlines()
    assert "10.77.254.0/24" in pools and "10.77.254.0/24 attachment" in listed and listed.count("attachment") == 2


# ---- messages of a client that lies


def ask(sock, kind, body):
    """Status and body of the answer; None: cut off."""
    sock.send(protocol.pack(kind, 1, body))
    try:
        data, fds = protocol.receive(sock, protocol.MAX_FDS)
    except ConnectionResetError:
        return None
    protocol.close_fds(fds)
    return protocol.unpack(data)[2:] if data else None


def hello(router):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(router.path)
    sock.settimeout(LIMIT)
    status, body = ask(sock, Type.HELLO, bytes(8))
    assert status == 0 and protocol.HELLO_REPLY.unpack_from(body)[0] & Capability.BLOCKS
    return sock


def request(count, lengths, *addresses):
    return AttachRequest().pack()[:protocol.ATTACH.size] + BLOCKS.pack(count, *lengths, b"".join(addresses))


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "10.77.4.0", "10.77.255.255", "fd77:0:0:8::", "fd77::ffff",
                                  "10.99.0.0", "127.0.0.0", "224.0.0.0", "ff02::1", "255.255.255.255", "::1", "fe80::"])
def test_every_length_of_a_block_is_leased_or_refused(router, text):
    packed = pack_address(text)
    any_, inside = text in ("0.0.0.0", "::"), text in ("10.77.4.0", "fd77:0:0:8::")
    with hello(router) as sock:
        for length in range(256):
            status, body = ask(sock, Type.ATTACH, request(1, [length, 0, 0, 0], packed))
            if status:
                assert not router.attachments() and not (any_ and 64 <= length <= 96 and text == "::")
                assert status in (errno.EINVAL, errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.ENOBUFS)
                continue
            assert any_ or inside
            [got] = protocol.AttachReply.unpack(body).blocks
            assert got.prefixlen == length and (any_ or got.network_address == ipaddress.ip_address(text))
            assert any(got.version == net(pool).version and got.subnet_of(net(pool)) for pool in POOLS)
            assert ask(sock, Type.RELEASE, b"") == (0, bytes(protocol.BODY_BYTES))
    assert not [route for route in routes(router) if not route.lost]


def test_blocks_stand_where_the_document_says():
    """docs/attach_protocol.md"""
    before = protocol.ATTACH.size, protocol.ATTACH_REPLY.size, protocol.LIST_REPLY.size
    assert before == (168, 232, 312) and BLOCKS.size == 69
    assert protocol.ATTACH_REPLY.size + BLOCKS.size + MAX_BLOCKS <= protocol.BODY_BYTES


@pytest.mark.parametrize("count", [MAX_BLOCKS + 1, 77, 255])
def test_more_blocks_than_a_message_has_end_the_connection(router, count):
    with pytest.raises(protocol.ProtocolError, match="at most 4"):
        AttachRequest.unpack(request(count, [26] * 4))
    with hello(router) as sock:
        assert ask(sock, Type.ATTACH, request(count, [26] * 4, *[pack_address("0.0.0.0")] * 4)) is None
    wait_until(lambda: not router.attachments())


def test_the_same_block_twice_in_one_request(router):
    with hello(router) as sock:
        status, _ = ask(sock, Type.ATTACH, request(2, [26, 26, 0, 0], *[pack_address("10.77.4.0")] * 2))
        assert status == 0 or not router.attachments()
        assert len([route for route in routes(router) if not route.lost]) <= 1
    wait_until(lambda: not router.attachments())
    router.attach(block="10.77.4.0/26").close()


def test_random_blocks(router, scale):
    """Whatever is asked for: an answer or the end; what is leased never overlaps, and all comes back."""
    rng = random.Random(5)
    bases = [pack_address(a) for a in ("0.0.0.0", "::", "10.77.4.0", "10.77.4.64", "fd77:0:0:8::")]
    socks = []
    for _ in range(scale(400)):
        sock = hello(router)
        socks.append(sock)
        n = rng.choice([1, 2, 3, 4, 4, rng.randrange(256)])
        places = [rng.choice(bases) if rng.random() < 0.9 else rng.randbytes(16) for _ in range(4)]
        ask(sock, Type.ATTACH, request(n, [rng.choice([17, 24, 26, 30, 49, 64, 96, rng.randrange(256)])
                                           for _ in range(4)], *places))
        blocks = [block for info in router.attachments() for block in info.blocks]
        assert not any(a.version == b.version and a.overlaps(b) for i, a in enumerate(blocks) for b in blocks[:i])
        assert {r.network for r in routes(router) if not r.lost} == set(blocks)
        if len(socks) > 20:
            socks.pop(rng.randrange(20)).close()
    for sock in socks:
        sock.close()
    wait_until(lambda: not router.attachments())
    with router.attach(block=["10.77.128.0/18", 17 + 32]) as everything:
        assert len(everything.blocks) == 2


def test_a_router_that_leases_none_is_not_asked(router, monkeypatch):
    monkeypatch.setattr(router._attachments, "hello", lambda connection: protocol.HELLO_REPLY.pack(
        int(Capability.HOLD | Capability.SHARED), os.getpid(), 65535, 1, b""))
    with pytest.raises(RouterError, match="leases no blocks: use the same release"):
        router.attach(block=26)
    router.attach().close()


@pytest.mark.parametrize("packed, length", [(pack_address("10.77.4.0"), 33), (pack_address("10.77.4.1"), 26),
                                            (pack_address("fd77::"), 129), (pack_address("fd77::1"), 64)])
def test_what_is_no_network(packed, length):
    with pytest.raises(RouterError, match="whose bits behind its length are 0"):
        network_of(packed, length)


# ---- the command line


def netstack_command(*argv):
    command = [sys.executable, "-m", "netstack", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)


SHOW = """
import socket, subprocess, sys
s = socket.create_server(("", 80))
subprocess.run([sys.executable, "-m", "netstack", "ps", "--json"])
"""


def test_programs_run_with_a_block(router, monkeypatch):
    monkeypatch.setenv("NETSTACK_ROUTER", router.name)
    done = netstack_command("run", "--block", "/26", "--block", "fd77:0:0:8::/64", "--", "-c", SHOW)
    [info] = json.loads(done.stdout)
    assert info["blocks"][1] == "fd77:0:0:8::/64" and info["addresses"] == []
    assert net(info["blocks"][0]).prefixlen == 26
    with router.attach(block="10.77.4.0/26") as mine:
        assert "10.77.4.0/26" in netstack_command("ps").stdout
        assert f"10.77.4.0/26 attachment {mine.id}\n" in netstack_command("route").stdout


@pytest.mark.parametrize("options, why", [
    (["--block", "10.77.4.1/26"], "host bits"), (["--block", "x"], "write a length"),
    (["--mode", "daemon", "--block", "/26"], "library stack"),
    (["--addressing", "core", "--block", "/26"], "library stack"),
])
def test_blocks_on_the_command_line_that_cannot_be(runtime, options, why):
    done = netstack_command("run", *options, "--", "-c", "print(1)")
    assert done.returncode == 2 and why in done.stderr and "Traceback" not in done.stderr


# ---- beside the kernel


@pytest.mark.root
def test_the_kernel_finds_every_address_of_a_block_on_its_network(runtime, netns):
    netns.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
    netns.run("ip", "addr", "add", "192.0.2.1/24", "dev", "tap0")
    netns.run("ip", "addr", "add", "2001:db8::1/64", "dev", "tap0", "nodad")
    netns.run("ip", "link", "set", "tap0", "up")
    for pool in POOLS:
        netns.run("ip", "route", "add", pool, "dev", "tap0")             # each address is asked for: ARP, discovery
    with netns.enter():
        router = Router(POOLS, uplinks=["tap:tap0,address=192.0.2.2/24,address=2001:db8::2/64"])
    with router, netstack.attach(router.name, block=[26, 64]) as host:
        for block in host.lease.blocks:
            for address in (block[1], block[37]):
                if str(address) not in host.lease.addresses:
                    host.add_address(f"{address}/{address.max_prefixlen}")
                done = netns.run("ping", "-c", 2, "-i", 0.1, "-W", 10, address)
                assert "2 received" in done.stdout
        listed = netns.run("ip", "neighbor", "show", "dev", "tap0").stdout
        assert all(str(block[37]) in listed for block in host.lease.blocks)
        assert router.check_conservation() == []
