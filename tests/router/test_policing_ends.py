"""``greedy="detach"`` in a router that runs: who misbehaves is cut off and told why, and everybody else goes on."""

import logging

import pytest

import netstack
from netstack.router import Router, client
from tests.router.forged import OWN_PORT, PORT, acknowledge_early, address_of, attached, overrun
from tests.router.lan import wait_until
from tests.router.test_hostile import Bystanders, words_of


def poison(attachment):
    words, _ = words_of(attachment)
    words[128 // 8] = 1 << 60                                # of its ring, where no tail can be
    attachment.link.channel.peer_doorbells[1].kick()


@pytest.mark.parametrize(("misbehave", "misdeed", "words"), [
    (acknowledge_early, "optimistic_ack", "acknowledged data that it has not got"),
    (overrun, "window_overrun", "sends beyond the window it is offered")])
def test_the_offender_is_told_why_its_peer_gets_a_reset_and_others_go_on(runtime, backend, caplog, misbehave, misdeed,
                                                                         words):
    caplog.set_level(logging.INFO, "netstack.router")
    with Router(greedy="detach", backend=backend, ring_capacity=1 << 18) as router, Bystanders(router) as others, \
            netstack.attach(router.name, drain=0) as server, netstack.attach(router.name, drain=0) as friend, \
            server.create_server((address_of(server), PORT)) as listener:
        with friend.create_connection((address_of(server), PORT)) as honest, listener.accept()[0] as its_end:
            offender = router.attach()
            forged = attached(offender, address_of(server))
            with listener.accept()[0] as cheated:
                cheated.sendall(bytes(1000))
                assert offender.ending == ""
                misbehave(forged)
                wait_until(lambda: offender.gone)
                assert offender.ending.startswith("greedy: ") and words in offender.ending
                cheated.settimeout(60)
                with pytest.raises(ConnectionResetError):
                    cheated.recv(1)
            assert router.endings() == {"greedy": 1}
            assert offender.id not in [info.id for info in router.attachments()] and len(router.attachments()) == 4
            said = [record.getMessage() for record in caplog.records]
            assert any(f"{offender.address}.{OWN_PORT} " in line and words in line for line in said)
            assert any("misbehaves: detached" in line and words in line for line in said), "the router's log"
            assert any("ended the attachment of" in line and words in line for line in said), "the offender's log"
            its_end.settimeout(60)
            honest.sendall(b"still here")
            assert its_end.recv(100) == b"still here"
            before = others.count
            wait_until(lambda: others.problem or others.count > before + 20)
            assert router.counters()[f"greedy_{misdeed}"] == 1 and router.counters()["drop_in_policed"] == 1
            assert router.attach(offender.address).address == offender.address, "it is free again"
        assert router.check_conservation() == []
        offender.close()


def test_a_host_that_is_cut_off_gives_up_and_does_not_come_back(runtime, monkeypatch):
    """It would wait for a router that was killed."""
    made = []
    monkeypatch.setattr(client, "attach", lambda *args, given=client.attach, **options: made.append(
        given(*args, **options)) or made[-1])
    with Router(ring_capacity=1 << 18) as router, netstack.attach(router.name, drain=0) as server, \
            server.create_server((address_of(server), PORT)) as listener, \
            netstack.attach(router.name, drain=0, reconnect=60) as host, \
            host.create_connection((address_of(server), PORT)) as sock, listener.accept()[0]:
        lease = made[-1]
        sock.settimeout(60)
        poison(lease)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert lease.ending == "poisoned"
        wait_until(lambda: lease.gone)
        assert not lease.down and lease.returns == 0 and len(router.attachments()) == 1


def test_a_poisoned_ring_is_told_too(runtime, backend):
    with Router(backend=backend, ring_capacity=1 << 18) as router:
        hostile = router.attach()
        poison(hostile)
        wait_until(lambda: hostile.gone)
        assert hostile.ending == "poisoned" and router.endings() == {"poisoned": 1}
        hostile.close()
