"""Sequence numbers that wrap amid a watched connection: no misdeed is missed, and nobody is taken for guilty.

The tests of `test_policing` again, with connections whose numbers begin so many bytes before the end of 32 bits; and
two stacks whose connection crosses it in both directions, over a bad way.
"""

import ipaddress
import random

import pytest

from netstack.router.forwarding import Forwarder
from netstack.router.pool import pack_address
from netstack.testing.packets import parse_packet
from tests.router import test_policing as policing
from tests.router.lan import put, take
from tests.router.test_policing import A6, D6, MSS, A, D
from tests.router.test_policing_honest import PORT, STEP_NS, Party

SPACE = 1 << 32
MB = 1_000_000
BYTES = 300_000

# Each with how far its data goes: the end of the numbers is put at the beginning, somewhere in it, and near its end.
SCENARIOS = {
    "optimistic": (2 * MSS, policing.test_d10_an_acknowledgement_of_what_was_not_handed_over_is_found_at_the_third,
                   {"names": (A, D)}),
    "optimistic, other half": (
        2 * MSS, policing.test_d10_an_acknowledgement_of_what_was_not_handed_over_is_found_at_the_third,
        {"names": (D6, A6)}),
    "waits": (8 * MSS, policing.test_d10_what_waits_in_the_router_was_not_handed_over, {}),
    "hole": (6 * MSS, policing.test_d10_what_the_router_dropped_cannot_be_acknowledged, {}),
    "filled hole": (12 * MSS, policing.test_d10_what_was_dropped_and_sent_again_can_be, {}),
    "older": (2 * MSS, policing.test_d10_what_proves_nothing_is_not_held_against_anybody, {"what": "older"}),
    "opened anew": (12 * MSS, policing.test_d10_nobody_can_make_another_look_guilty_by_opening_anew, {}),
    "division": (MSS, policing.test_d11_more_acknowledgements_than_segments_are_found_at_the_sixteenth,
                 {"names": (A, D)}),
    "an acknowledgement each": (
        200 + 40 * MSS, policing.test_d11_an_acknowledgement_for_each_segment_is_not_too_often, {}),
    "saved up": (401 * MSS, policing.test_d11_acknowledgements_saved_up_long_ago_do_not_count, {}),
    "overrun": (40, policing.test_data_beyond_the_window_is_found_at_the_eighth_segment, {"shift": 0, "names": (A, D)}),
    "overrun, scaled": (40 << 7, policing.test_data_beyond_the_window_is_found_at_the_eighth_segment,
                        {"shift": 7, "names": (D, A)}),
    "shrunk": (27 * MSS, policing.test_a_window_that_shrinks_takes_nothing_back, {}),
    "no back-off": (32 * 40 * MSS, policing.test_a_sender_that_goes_on_after_32_losses_is_found, {}),
    "backs off": (2 * MB, policing.test_one_that_sends_less_each_time_is_not, {}),
    "clamped": (70 * MSS, policing.test_clamping_makes_windows_small_and_never_takes_one_back,
                {"shift": 3, "window": 65535, "names": (A, D)}),
    "clamped, whole scale": (40 * MSS, policing.test_clamping_makes_windows_small_and_never_takes_one_back,
                             {"shift": 0, "window": 65535, "names": (D, A)}),
    "detached": (2 * MSS, policing.test_who_does_what_no_mistake_explains_is_detached, {}),
}


@pytest.mark.parametrize("part", [0, 0.3, 0.9])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_numbers_that_wrap_change_nothing(scenario, part, monkeypatch):
    reach, run, arguments = SCENARIOS[scenario]
    before = int(part * reach)
    monkeypatch.setattr(policing.Conversation, "isn", (SPACE - 1 - before, SPACE - 1))
    run(**arguments)


# --- real senders ---


class Crossing:
    """Two stacks and one connection between them, `BYTES` each way, over a slow link that loses and reorders.

    Each stack has a clock of its own, `shifts` nanoseconds ahead: initial sequence numbers follow it (RFC 6528).
    """

    def __init__(self, seed, shifts=(0, 0)):
        self.forwarder = Forwarder([ipaddress.ip_network("10.77.0.0/16")], [pack_address("10.77.0.1")], spin_us=0,
                                   greedy="count")
        self.parties = [Party(self, address, random.Random(f"{seed} {address}"), mtu=1500, chaos=0.05)
                        for address in (A, D)]
        for party in self.parties:
            self.forwarder.emulate(party.port, seed=seed, output={"rate": "20mbit", "queue": 15, "loss": 0.02})
        self.shifts, self.now = shifts, 10**9
        self.isn = {}                                        # by address
        self.ends = {}                                       # by address: socket, bytes to send, bytes that came
        self.furthest = dict.fromkeys((A, D), 0)             # bytes that were sent since then, by address

    def step(self):
        for party, shift in zip(self.parties, self.shifts, strict=True):
            now = self.now + shift
            party.stack.advance(now)
            for packet in party.inward.pop(self.now):
                party.stack.input(packet, now)
            self.program(party)
            party.stack.advance(now)
            while (item := party.stack.pop_output()) is not None:
                self.look(parse_packet(item[0]))
                party.outward.push(self.now, item[0])
            for packet in party.outward.pop(self.now):
                put(party.channel, packet)
            party.channel.flush()
        while self.forwarder.run_once(self.now):
            pass
        for party in self.parties:
            while (packet := take(party.channel)) is not None:
                party.inward.push(self.now, packet)
            party.channel.flush()
        self.now += STEP_NS

    def look(self, packet):
        if "S" in packet.flags:
            self.isn[packet.src] = packet.seq
        else:
            self.furthest[packet.src] = max(self.furthest[packet.src], packet.seq - self.isn[packet.src] & SPACE - 1)

    def program(self, party):
        try:
            if party.address not in self.ends:
                if party.address == A:
                    sock = party.socket()
                    sock.connect_ex((D, PORT))
                else:
                    sock = party.listener.accept()[0]
                self.ends[party.address] = [sock, BYTES, 0]
            end = self.ends[party.address]
            while data := end[0].recv(1 << 16):
                end[2] += len(data)
        except BlockingIOError:
            pass
        if party.address in self.ends:
            try:
                while end[1]:
                    end[1] -= end[0].send(bytes(min(end[1], 1 << 15)))
            except BlockingIOError:
                pass

    def run(self, steps, done):
        for _ in range(steps):
            if done():
                return
            self.step()
        raise AssertionError("it takes too long")


@pytest.mark.parametrize("seed", range(3))
def test_d10_d11_honest_stacks_are_not_accused_where_their_numbers_wrap(seed):
    trial = Crossing(seed)
    trial.run(4000, lambda: len(trial.isn) == 2)
    wanted = {A: SPACE - BYTES // 2, D: SPACE - 1}           # amid the data, and at its first byte
    shifts = [(wanted[address] - trial.isn[address]) % SPACE << 6 for address in (A, D)]
    crossing = Crossing(seed, shifts)
    crossing.run(200_000, lambda: [end[2] for end in crossing.ends.values()] == [BYTES, BYTES])
    for address in (A, D):
        assert crossing.isn[address] < SPACE < crossing.isn[address] + crossing.furthest[address]
    assert crossing.forwarder.findings() == [] and crossing.forwarder.check_conservation() == []
    dropped = sum(n for name, n in crossing.forwarder.counters(0).items() if name.startswith("drop_out_"))
    assert dropped > 10, "nothing was tried"
