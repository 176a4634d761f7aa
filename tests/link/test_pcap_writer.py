"""Capture files: other people's readers must see the frames, times, directions and link types that passed."""

import json
import os
import shutil
import struct
import subprocess

import pytest

from netstack.errors import LinkError, NetstackError
from netstack.link import PcapWriter, Wire
from netstack.testing import LinkDriver

SECOND = 10**9
T0 = 1_700_000_000 * SECOND


def udp_packet(payload, src="10.0.0.1", dst="10.0.0.2"):
    scapy = pytest.importorskip("scapy.all")
    return bytes(scapy.IP(src=src, dst=dst) / scapy.UDP(sport=40001, dport=40002) / payload)


def captured(tmp_path, frames=5, media="ip", **kw):
    """A capture of `frames` frames out (head and body apart) and one in; (path, frames in file order)."""
    a, b = Wire(media=media)
    path = tmp_path / "capture"
    writer = PcapWriter(a, path, wall_offset_ns=T0, **kw)
    link, peer = LinkDriver(writer), LinkDriver(b)
    ethernet = b"\x02" * 12 + b"\x08\x00" if media == "ethernet" else b""
    sent = [ethernet + udp_packet(bytes([i]) * (10 + i)) for i in range(frames)]
    for i, f in enumerate(sent):
        link.send(f, now_ns=i * SECOND + 123_456_789, head=len(ethernet) + 28)
    back = ethernet + udp_packet(b"answer", "10.0.0.2", "10.0.0.1")
    peer.send(back)
    link.advance(frames * SECOND)
    assert link.receive() == [back] and peer.receive() == sent
    assert writer.frames == frames + 1
    writer.stop()
    return path, [*sent, back]


@pytest.mark.parametrize("format", ["pcapng", "pcap"])
@pytest.mark.parametrize("media", ["ip", "ethernet"])
def test_scapy_reads_what_passed(tmp_path, format, media):
    scapy = pytest.importorskip("scapy.all")
    path, frames = captured(tmp_path, media=media, format=format)
    packets = scapy.rdpcap(str(path))
    assert [bytes(p) for p in packets] == frames
    assert {type(p) for p in packets} == {scapy.Ether if media == "ethernet" else scapy.IP}
    assert [round(p.time * 10**9) for p in packets[:2]] == [T0 + 123_456_789, T0 + SECOND + 123_456_789]


@pytest.mark.parametrize("format", ["pcapng", "pcap"])
@pytest.mark.parametrize("media", ["ip", "ethernet"])
@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
def test_tshark_reads_it_without_complaint(tmp_path, format, media):
    path, frames = captured(tmp_path, media=media, format=format)
    done = subprocess.run(
        ["tshark", "-r", path, "-T", "json", "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"],
        capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = [p["_source"]["layers"] for p in json.loads(done.stdout)]
    assert len(rows) == len(frames)
    assert "malformed" not in done.stdout.lower()
    assert {r["udp"]["udp.checksum.status"] for r in rows} == {"1"}
    assert [int(r["frame"]["frame.len"]) for r in rows] == [len(f) for f in frames]
    assert rows[1]["frame"]["frame.time_epoch"].startswith("1700000001.123456789") \
        or "123456789" in rows[1]["frame"]["frame.time_epoch"]
    if format == "pcapng":
        flags = [r["frame"]["frame.packet_flags_tree"]["frame.packet_flags_direction"] for r in rows]
        assert [int(f, 16) for f in flags] == [2] * 5 + [1]


def test_snap_length_cuts_what_is_kept_not_what_passes(tmp_path):
    scapy = pytest.importorskip("scapy.all")
    path, frames = captured(tmp_path, snap_length=30)
    assert [bytes(p) for p in scapy.rdpcap(str(path))] == [f[:30] for f in frames]
    assert [p.wirelen for p in scapy.rdpcap(str(path))] == [len(f) for f in frames]


def test_blocks_are_whole_after_many_buffers(tmp_path):
    a, b = Wire(mtu=65535)
    path = tmp_path / "big.pcapng"
    writer = PcapWriter(a, path, wall_offset_ns=0)
    link, peer = LinkDriver(writer), LinkDriver(b)
    for i in range(40):
        link.send(bytes([i]) * (65535 - i))
        peer.receive()
    writer.close()
    data = path.read_bytes()
    at = count = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert struct.unpack_from("<I", data, at + length - 4) == (length,) and length % 4 == 0
        count += kind == 6
        at += length
    assert at == len(data) and count == 40


def test_frames_are_written_once_a_second_of_the_time_told(tmp_path):
    a, _ = Wire()
    path = tmp_path / "live"
    link = LinkDriver(PcapWriter(a, path, wall_offset_ns=0))
    link.send(b"x" * 40, now_ns=1)
    assert path.stat().st_size == 0
    link.advance(2 * SECOND)
    assert path.stat().st_size > 40


def test_an_open_file_stays_open(tmp_path):
    a, _ = Wire()
    with open(tmp_path / "own", "wb") as file:
        writer = PcapWriter(a, file)
        writer.stop()
        file.write(b"still mine")
    assert (tmp_path / "own").read_bytes().endswith(b"still mine")


def test_a_full_disk_ends_the_capture_not_the_traffic():
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    a, b = Wire(mtu=65535)
    writer = PcapWriter(a, "/dev/full")
    link, peer = LinkDriver(writer), LinkDriver(b)
    for _ in range(20):
        assert link.send(bytes(60000))
        assert peer.receive() == [bytes(60000)]
    assert writer.missed > 0 or not link.dead
    with pytest.raises(LinkError, match="capture ended") as caught:
        writer.flush_file()
    assert isinstance(caught.value, OSError) and isinstance(caught.value, NetstackError)


def test_a_path_that_cannot_be_written_says_so(tmp_path):
    a, _ = Wire()
    with pytest.raises(LinkError, match="cannot write the capture"):
        PcapWriter(a, tmp_path / "missing" / "file")
    with pytest.raises(ValueError, match="'pcapng' or 'pcap'"):
        PcapWriter(a, tmp_path / "x", format="erf")
