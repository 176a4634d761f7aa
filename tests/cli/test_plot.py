"""Traces of stacks, captures, and what ``netstack plot`` draws of them."""

from __future__ import annotations

import doctest
import os
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from click.testing import CliRunner

import netstack.trace
from netstack.cli import plot
from netstack.cli.flows import Segment, flows_of_capture, flows_of_trace, read
from netstack.link import PcapWriter
from netstack.stack import Stack
from netstack.testing import Pair
from netstack.testing.packets import flag_bits
from netstack.trace import RECEIVED, SENT, Trace
from tests.support import ROOT

pytest.importorskip("dpkt")
pytest.importorskip("matplotlib")
SVG = "{http://www.w3.org/2000/svg}"
SIZE = 300_000


@pytest.fixture(scope="module")
def transfer():
    """A transfer with loss: the pair, the trace of its sender, every packet that the sender saw."""
    pair = Pair(seed=11, loss=0.02, delay="10ms", rate="20mbit", log=True)
    pair.a.stack.start_trace()
    pair.transfer(SIZE)
    pair.run("1s")                                       # the last acknowledgements
    return pair, pair.a.stack.stop_trace(), pair.a.packets()


@pytest.fixture(scope="module")
def capture(transfer, tmp_path_factory):
    """The same packets as a capture file, by the pcapng link."""
    path = tmp_path_factory.mktemp("capture") / "transfer.pcapng"
    write_pcap(path, transfer[2])
    return path


def write_pcap(path, packets, snap=1 << 16, magic=0xA1B23C4D):
    """Classic pcap with nanoseconds, raw IP."""
    with open(path, "wb") as file:
        file.write(struct.pack("=IHHiIII", magic, 2, 4, 0, 0, snap, 101))
        for p in packets:
            raw = bytes(p.raw)
            head = struct.pack("=IIII", p.t_ns // 10**9, p.t_ns % 10**9, min(len(raw), snap), len(raw))
            file.write(head + raw[:snap])


def data_packets(packets):
    return [p for p in packets if p.direction == "out" and p.payload]


# --- the trace --------------------------------------------------------------------------------------------------------

def test_a_trace_has_every_segment_with_its_numbers(transfer):
    _, trace, packets = transfer
    sent = [e for e in trace if e.kind == SENT]
    out = [p for p in packets if p.direction == "out"]
    assert [(e.seq, e.length, e.flags) for e in sent] == [(p.seq, len(p.payload), flag_bits(p.flags)) for p in out]
    got = [(e.seq, e.ack, e.length) for e in trace if e.kind == RECEIVED]
    assert got == [(p.seq, p.ack, len(p.payload)) for p in packets if p.direction == "in"]
    assert [e.t_ns for e in trace] == sorted(e.t_ns for e in trace)
    assert sum(e.length for e in sent if not e.again) == SIZE and any(e.again for e in sent)
    assert all(e.cwnd > 0 for e in trace if e.length)


def test_a_trace_is_kept_in_a_file(transfer, tmp_path):
    _, trace, _ = transfer
    trace.save(tmp_path / "a.trace")
    again = Trace.load(tmp_path / "a.trace")
    assert again.data == trace.data and list(again) == list(trace) and again.missed == 0
    for text in (b"", b"netstack trace 1\n", b"netstack trace 1\n{}\n", b"netstack trace 1\nnull\n", b"GIF89a"):
        (tmp_path / "bad").write_bytes(text)
        with pytest.raises(ValueError):
            Trace.load(tmp_path / "bad")


def test_a_full_trace_keeps_the_last_events(transfer):
    whole = list(transfer[1])
    pair = Pair(seed=11, loss=0.02, delay="10ms", rate="20mbit", log=True)
    pair.a.stack.start_trace(records=50)
    pair.transfer(SIZE)
    pair.run("1s")
    trace = pair.a.stack.stop_trace()
    assert list(trace) == whole[-50:] and trace.missed == len(whole) - 50


def test_tracing_changes_nothing_and_can_be_stopped(transfer):
    pair = Pair(seed=11, loss=0.02, delay="10ms", rate="20mbit", log=True)
    pair.transfer(SIZE)
    pair.run("1s")
    assert [p.raw for p in pair.a.packets()] == [p.raw for p in transfer[2]]
    stack = Stack(addresses="10.0.0.1")
    assert len(stack.stop_trace()) == 0
    stack.start_trace()
    stack.start_trace()                                  # begins anew
    assert len(stack.stop_trace()) == 0
    with pytest.raises(ValueError):
        stack.start_trace(records=0)


# --- flows ------------------------------------------------------------------------------------------------------------

def test_trace_and_capture_tell_the_same_flow(transfer, capture):
    _, trace, packets = transfer
    one, other = flows_of_trace(trace)[0], read(capture)[0]
    assert one.name == other.name
    assert one.payload == other.payload == sum(len(p.payload) for p in data_packets(packets))
    assert [s[1:] for s in one.sent] == [s[1:] for s in other.sent]
    assert one.acked.y == other.acked.y and one.acked.y[-1] == SIZE + 2        # with SYN and FIN
    assert other.acked.t == pytest.approx(one.acked.t, abs=1e-6)
    assert other.rtt.y == pytest.approx(one.rtt.y, abs=1e-3) and min(one.rtt.y) >= 20
    assert len(one.cwnd) and len(one.srtt) and not len(other.cwnd)


def test_a_capture_with_cut_payloads_tells_the_same(transfer, capture, tmp_path):
    write_pcap(tmp_path / "cut.pcap", transfer[2], snap=96)
    assert read(tmp_path / "cut.pcap")[0].sent == read(capture)[0].sent


def test_the_stacks_own_capture_is_read(tmp_path):
    from netstack.link.wire import Wire

    near, far = Wire(mtu=1500, media="ip")
    path = tmp_path / "own.pcapng"
    writer = PcapWriter(near, path)
    a = _stack_on(writer, "10.0.0.1/24", 1)
    b = _stack_on(far, "10.0.0.2/24", 2)
    server = b.socket()
    server.bind(("10.0.0.2", 80))
    server.listen()
    client = a.socket()
    client.connect_ex(("10.0.0.2", 80))
    now = 10**9
    for _ in range(50):
        now += 10**6
        for stack in (a, b):
            stack.process(now)
        if client.poll() & 4:
            break
    client.send(bytes(5000))
    for _ in range(20):
        now += 10**6
        for stack in (a, b):
            stack.process(now)
    writer.close()
    flow, = read(path)
    assert flow.payload == 5000 and flow.acked.y[-1] == 5001


def _stack_on(link, address, seed):
    from netstack.config import StackConfig

    return Stack(StackConfig(media="ip", addresses=(address,), mtu=1500, seed=seed), links=[link])


def test_sequence_numbers_may_wrap():
    near_end = (1 << 32) - 1000
    segments = [Segment(i / 10, ("a", 1), ("b", 2), (near_end + 500 * i) % (1 << 32), 0, 500, 0, 16, None, ())
                for i in range(6)]
    flow, = (f for f in flows_of_capture(segments) if f.sent)
    assert [s.start for s in flow.sent] == [0, 500, 1000, 1500, 2000, 2500]


def test_a_second_connection_of_the_same_names_is_another_flow():
    def connection(t, iss):
        return [Segment(t, ("a", 1), ("b", 2), iss, 0, 0, 0, 2, 7, ()),
                Segment(t + 1, ("a", 1), ("b", 2), iss + 1, 0, 100, 0, 24, None, ())]

    flows = [f for f in flows_of_capture(connection(0, 10) + connection(5, 77777)) if f.sent]
    assert [f.sent[0].start for f in flows] == [1, 1] and len(flows) == 2


@pytest.mark.parametrize("content", [b"", b"hello", b"\x0a\x0d\x0d\x0a", bytes(100),
                                     struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 9, 1)])
def test_a_file_that_is_no_capture(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    done = CliRunner().invoke(plot.command, [str(tmp_path / "x")])
    assert done.exit_code == 1 and done.output.startswith("Error: ") and done.exception is not None


# --- pictures ---------------------------------------------------------------------------------------------------------

def points(root, gid):
    """How many vertices the path of a line has, and its group."""
    group = next(g for g in root.iter(f"{SVG}g") if g.get("id") == gid)
    return [len(re.findall(r"[ML] ", path.get("d") + " ")) for path in group.iter(f"{SVG}path")], group


def draw(path, out, *options):
    done = CliRunner().invoke(plot.command, [str(path), "-o", str(out), *options])
    assert done.exit_code == 0, done.output
    return ElementTree.parse(out).getroot() if str(out).endswith("svg") else out.read_bytes()


def test_the_svg_contains_every_series(transfer, tmp_path):
    _, trace, packets = transfer
    trace.save(tmp_path / "t.trace")
    root = draw(tmp_path / "t.trace", tmp_path / "t.svg")
    flow = read(tmp_path / "t.trace")[0]
    ids = {g.get("id") for g in root.iter(f"{SVG}g")}
    assert {"segments", "retransmissions", "acknowledged", "window", "flight", "cwnd", "ssthresh", "rtt", "srtt",
            "panel-sequence", "panel-window", "panel-rtt"} <= ids
    # One short line for each segment: the picture has as many as the wire had.
    drawn, _ = points(root, "segments")
    again, _ = points(root, "retransmissions")
    assert (len(drawn), len(again)) == (sum(not s.again for s in flow.sent), sum(s.again for s in flow.sent))
    assert len(drawn) + len(again) == len(data_packets(packets))
    _, dots = points(root, "rtt")
    assert len(list(dots.iter(f"{SVG}use"))) == len(flow.rtt)
    assert flow.name.replace(">", "&gt;") in (tmp_path / "t.svg").read_text()


def test_numbers_of_the_curves_are_the_stacks(transfer):
    """What is drawn is what the connection had, in the units on the axis."""
    _, trace, _ = transfer
    flow = flows_of_trace(trace)[0]
    figure = plot.draw(flow)
    lines = {line.get_gid(): line for axis in figure.axes for line in axis.get_lines() if line.get_gid()}
    first = next(iter(trace)).t_ns
    cwnd = {round((e.t_ns - first) / 1e9, 9): e.cwnd for e in trace if e.cwnd}
    for t, y in zip(lines["cwnd"].get_xdata(), lines["cwnd"].get_ydata(), strict=True):
        assert y * 1024 == pytest.approx(cwnd[round(t, 9)]) or t in flow.cwnd.t
    assert max(lines["acknowledged"].get_ydata()) * 1024 == SIZE + 2
    assert min(lines["rtt"].get_ydata()) >= 20
    assert lines["srtt"].get_ydata()[-1] == pytest.approx([e.srtt_ns for e in trace][-1] / 1e6)


def test_png_panels_and_list(transfer, capture, tmp_path):
    assert draw(capture, tmp_path / "c.png", "--panel", "sequence").startswith(b"\x89PNG")
    root = draw(capture, tmp_path / "c.svg", "--panel", "window")
    ids = {g.get("id") for g in root.iter(f"{SVG}g")}
    assert "flight" in ids and "cwnd" not in ids and "segments" not in ids
    listed = CliRunner().invoke(plot.command, [str(capture), "--list"]).output
    total = sum(len(p.payload) for p in data_packets(transfer[2]))
    assert f"{total:,} bytes" in listed and len(listed.splitlines()) == 1


@pytest.mark.parametrize("options, why", [
    (["--flow", "7"], "1 flows"), (["-o", "x.gif"], ".png or .svg"), (["--flow", "0"], "range"),
    (["--panel", "colour"], "colour"),
])
def test_what_cannot_be_drawn_is_said(capture, options, why):
    done = CliRunner().invoke(plot.command, [str(capture), *options])
    assert done.exit_code != 0 and why in done.output


def test_the_examples_of_the_module_run():
    assert doctest.testmod(netstack.trace).failed == 0


def test_netstack_run_writes_a_trace(tmp_path):
    """A program in a process of its own, over its own loopback; in real time."""
    code = ("import socket; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname());"
            "a, _ = s.accept(); c.sendall(bytes(5000)); a.recv(5000, socket.MSG_WAITALL)")
    folder = tmp_path / "runtime"
    folder.mkdir(0o700)
    command = [sys.executable, "-m", "netstack", "run", "--trace", tmp_path / "t.trace", "--", "-c", code]
    subprocess.run(command, check=True, timeout=60, env={
        **os.environ, "PYTHONPATH": str(ROOT), "NETSTACK_RUNTIME_DIR": str(folder)})
    flow = read(tmp_path / "t.trace")[0]
    assert flow.payload == 5000 and flow.cwnd.y and flow.srtt.y
