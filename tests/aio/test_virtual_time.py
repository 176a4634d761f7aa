"""Programs on virtual time: one clock for sockets, timers and sleep, and the same run from the same seed."""

import asyncio
import errno
import socket
import ssl
import time

import pytest

import netstack
from netstack.testing import SimulationError, VirtualNetwork

A, B = "10.0.0.1", "10.0.0.2"
DATA = bytes(range(256)) * 400


def pair(**options):
    net = VirtualNetwork(**options)
    return net, net.host(A, name="client"), net.host(B, name="server")


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def exchange(a, b, data=DATA):
    server = await b.start_server(echo, "server", 80)
    reader, writer = await a.open_connection("server", 80)
    writer.write(data)
    writer.write_eof()
    got = await reader.read()
    writer.close()
    server.close()
    return got


def test_hours_of_sleep_take_no_time():
    begun = time.monotonic()

    async def main():
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200.5))
        return loop.time() - start

    net, *_ = pair()
    with net:
        assert net.run(main(), limit="24h") == pytest.approx(7200.5)
    assert time.monotonic() - begun < 3600


@pytest.mark.parametrize("faults", [{}, {"delay": "50ms"}, {"loss": 0.1, "delay": "20ms", "reorder": 0.1}])
def test_streams_carry_everything(faults):
    net, a, b = pair(seed=3, **faults)
    with net:
        assert net.run(exchange(a, b)) == DATA
        assert a.counters()["tcp_payload_in"] == len(DATA)


def test_a_round_trip_takes_the_delay_of_the_links():
    async def main(a, b):
        server = await b.start_server(echo, B, 80)
        loop, times = asyncio.get_running_loop(), []
        reader, writer = await a.open_connection(B, 80)
        for _ in range(3):
            start = loop.time()
            writer.write(b"x")
            await reader.read(1)
            times.append(loop.time() - start)
        writer.close()
        server.close()
        return times

    net, a, b = pair(delay="25ms")                       # two links each way
    with net:
        assert net.run(main(a, b)) == pytest.approx([0.1] * 3, abs=1e-6)


def test_the_same_seed_gives_the_same_run():
    def run(seed):
        net, a, b = pair(seed=seed, loss=0.2, delay="10ms", jitter="5ms")
        with net:
            assert net.run(exchange(a, b)) == DATA
            return net.now_ns, a.counters()["tcp_retransmits"], b.counters()["tcp_retransmits"]

    assert run(5) == run(5) != run(6)


def test_a_connection_attempt_gives_up_after_the_time_that_tcp_has():
    async def main(a):
        loop = asyncio.get_running_loop()
        start = loop.time()
        with pytest.raises(TimeoutError):
            await a.open_connection(B, 80)
        return loop.time() - start

    net, a, b = pair()
    with net:
        net.faults(b).set(loss=1.0)
        assert 60 < net.run(main(a)) < 200               # SYN and its retransmissions


def test_a_client_that_tries_again_until_the_server_is_there():
    async def patient_client():
        for attempt in range(10):
            try:
                return attempt, await asyncio.open_connection("server", 80)
            except ConnectionRefusedError:
                await asyncio.sleep(2 ** attempt)
        raise AssertionError("never")

    async def main(b):
        client = asyncio.ensure_future(patient_client())
        await asyncio.sleep(20)
        server = await b.start_server(echo, B, 80)
        attempt, (reader, writer) = await client
        writer.write(b"at last")
        assert await reader.read(7) == b"at last"
        writer.close()
        server.close()
        return attempt

    net, a, b = pair(delay="1ms")
    with net:
        assert net.run(main(b), host=a) == 5             # after 1 + 2 + 4 + 8 + 16 seconds


def test_datagrams_and_sock_calls():
    async def main(a, b):
        loop = asyncio.get_running_loop()
        with a.socket(type=socket.SOCK_DGRAM) as one, b.socket(type=socket.SOCK_DGRAM) as two:
            two.bind((B, 53))
            await loop.sock_sendto(one, b"question", (B, 53))
            data, who = await loop.sock_recvfrom(two, 100)
            await loop.sock_sendto(two, data[::-1], who)
            assert await loop.sock_recv(one, 100) == b"noitseuq"
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(loop.sock_recv(one, 100), 30)

    net, a, b = pair(delay="1ms")
    with net:
        net.run(main(a, b))
        assert net.now_ns > 30 * 10**9


def test_tls():
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    there, here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("server").configure_cert(there)
    authority.configure_trust(here)

    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()

    async def main(a, b):
        server = await b.start_server(answer, B, 443, ssl=there)
        reader, writer = await a.open_connection("server", 443, ssl=here)
        writer.write(b"secret\n")
        got = await reader.read()
        writer.close()
        server.close()
        return got

    net, a, b = pair(seed=2, loss=0.05, delay="5ms")
    with net:
        assert net.run(main(a, b)) == b"SECRET\n"


def test_time_stands_while_a_thread_works():
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.time()
        beyond = asyncio.ensure_future(asyncio.sleep(100))
        assert await loop.run_in_executor(None, sum, range(100_000)) == 4_999_950_000
        assert loop.time() == before and not beyond.done()
        await beyond
        return loop.time() - before

    net, *_ = pair()
    with net:
        assert net.run(main()) == pytest.approx(100)


def test_a_program_that_waits_for_nothing_is_told_so():
    net, a, b = pair(seed=11)
    with net:
        async def forever():
            await asyncio.get_running_loop().create_future()

        with pytest.raises(SimulationError, match=r"not done after 90s.*seed 11"):
            net.run(forever(), limit="90s")
        loop = net.new_event_loop()
        with pytest.raises(SimulationError, match="nothing is due"):
            loop.run_until_complete(forever())
        loop.end()


def test_a_call_that_would_block_says_why():
    net, a, b = pair()
    with net, a.socket() as s:
        assert s.gettimeout() == 0
        for timeout in (None, 1.0):
            with pytest.raises(OSError, match="virtual") as e:
                s.settimeout(timeout)
            assert e.value.errno == errno.EOPNOTSUPP
        with pytest.raises(BlockingIOError):
            s.connect((B, 80))


def test_virtual_and_real_hosts_do_not_disturb_each_other():
    with netstack.Host(address="10.9.0.1/24") as real:
        net, a, b = pair()
        with net:
            assert net.run(exchange(a, b, b"x" * 1000)) == b"x" * 1000
        with real.create_server(("10.9.0.1", 0)) as listener, real.create_connection(listener.getsockname()) as s:
            peer, _ = listener.accept()
            with peer:
                s.sendall(b"real")
                assert peer.recv(10) == b"real"


def test_names_are_the_networks_and_nobody_else_is_asked():
    net, a, b = pair()
    with net:
        assert a.getaddrinfo("server", 80, type=socket.SOCK_STREAM)[0][4] == (B, 80)
        with pytest.raises(socket.gaierror):
            a.getaddrinfo("no-such-name.invalid", 80)
