"""``netstack ss``: the sockets of running stacks, as ``ss -ti`` shows the kernel's."""

from __future__ import annotations

import json
import socket
import struct

import click

STATES = {
    "ESTABLISHED": "ESTAB", "SYN_SENT": "SYN-SENT", "SYN_RCVD": "SYN-RECV", "FIN_WAIT_1": "FIN-WAIT-1",
    "FIN_WAIT_2": "FIN-WAIT-2", "TIME_WAIT": "TIME-WAIT", "CLOSED": "UNCONN", "CLOSE_WAIT": "CLOSE-WAIT",
    "LAST_ACK": "LAST-ACK", "LISTEN": "LISTEN", "CLOSING": "CLOSING",
}
LISTENING = ("LISTEN", "UNCONN")
NOT_CONNECTED = (*LISTENING, "TIME-WAIT", "SYN-RECV")       # what ss leaves out without -a
NOT_PACED = (1 << 64) - 1


def state_of(info) -> str:
    """The name that ss gives it."""
    if info.kind == "tcp":
        return STATES[info.state]
    return "ESTAB" if info.rport else "UNCONN"


def wanted(info, tcp: bool, udp: bool, listening: bool, everything: bool) -> bool:
    """Whether the options ask for this socket."""
    if (tcp or udp) and not (tcp if info.kind == "tcp" else udp):
        return False
    state = state_of(info)
    if everything:
        return True
    return state in LISTENING if listening else state not in NOT_CONNECTED


def service(port: int, kind: str, numeric: bool) -> str:
    """The port's name where it has one."""
    if port == 0:
        return "*"
    if numeric:
        return str(port)
    try:
        return socket.getservbyport(port, "tcp" if kind == "tcp" else "udp")
    except OSError:
        return str(port)


def end(address: str, port: int, kind: str, numeric: bool) -> str:
    """``address:port``, IPv6 in brackets."""
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{service(port, kind, numeric)}"


def duration(ms: int) -> str:
    """As ss writes timers: 188ms, 1.204ms, 12sec, 1min59sec, 119min."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    out = f"{minutes}min" if minutes else ""
    if minutes < 9:
        if seconds:
            out += f"{seconds}{'.' if ms else 'sec'}"
        if ms:
            out += f"{ms:03d}ms"
    return out or "0ms"


def number(value: float) -> str:
    """Shortest form, as C's %g."""
    return f"{value:g}"


def milliseconds(us: int) -> str:
    return number(us / 1000)


def congestion_details(info) -> str:
    """TCP_CC_INFO by the structures of linux/inet_diag.h."""
    data = info.cc_info
    if len(data) >= 20:
        low, high, min_rtt, pacing_gain, cwnd_gain = struct.unpack("=5I", data[:20])
        gains = "".join(f",{name}:{number(gain / 256)}" for name, gain in
                        (("pacing_gain", pacing_gain), ("cwnd_gain", cwnd_gain)) if gain)
        return f"bbr:(bw:{8 * (high << 32 | low)}bps,mrtt:{milliseconds(min_rtt)}{gains})"
    if len(data) >= 16 and info.congestion == "dctcp":
        enabled, ce, alpha, ecn, total = struct.unpack("=HHIII", data[:16])
        return f"dctcp:(ce_state:{ce},alpha:{alpha},ab_ecn:{ecn},ab_tot:{total})" if enabled else "dctcp:fallback_mode"
    if len(data) >= 16:
        _, count, rtt, min_rtt = struct.unpack("=4I", data[:16])
        return f"vegas:(rttcnt:{count},rtt:{milliseconds(rtt)},minrtt:{milliseconds(min_rtt)})"
    return ""


def limited(name: str, us: int, busy: int) -> str:
    return f"{name}:{us // 1000}ms({100 * us / busy:.1f}%)" if us and busy else ""


def details(info) -> str:
    """The line of -i, in ss's words and order; what is 0 or unknown is left out."""
    t = info.tcp
    flags = [name for bit, name in ((1, "ts"), (2, "sack"), (8, "ecn"), (16, "ecnseen"), (32, "fastopen"))
             if t.options & bit]
    if t.state == 10:
        return f"{info.congestion} cwnd:{t.snd_cwnd}"
    rates = [f"pacing_rate {8 * t.pacing_rate}bps" if t.pacing_rate != NOT_PACED else "",
             f"delivery_rate {8 * t.delivery_rate}bps" if t.delivery_rate else ""]
    out = [
        *flags, info.congestion,
        f"wscale:{t.snd_wscale},{t.rcv_wscale}" if t.options & 4 else "",
        f"rto:{milliseconds(t.rto)}", f"backoff:{t.backoff}" if t.backoff else "",
        f"rtt:{milliseconds(t.rtt)}/{milliseconds(t.rttvar)}" if t.rtt else "",
        f"ato:{milliseconds(t.ato)}" if t.ato else "", f"mss:{t.snd_mss}", f"pmtu:{t.pmtu}" if t.pmtu else "",
        f"rcvmss:{t.rcv_mss}", f"advmss:{t.advmss}", f"cwnd:{t.snd_cwnd}",
        f"ssthresh:{t.snd_ssthresh}" if t.snd_ssthresh < 0xFFFF else "",
        *(f"{n}:{getattr(t, n)}" for n in ("bytes_sent", "bytes_retrans", "bytes_acked", "bytes_received", "segs_out",
                                          "segs_in", "data_segs_out", "data_segs_in") if getattr(t, n)),
        congestion_details(info),
        f"send {8 * t.snd_cwnd * t.snd_mss * 1_000_000 // t.rtt}bps" if t.rtt else "",
        *(f"{short}:{value}" for short, value in
          (("lastsnd", t.last_data_sent), ("lastrcv", t.last_data_recv), ("lastack", t.last_ack_recv)) if value),
        *rates, f"delivered:{t.delivered}" if t.delivered else "",
        f"delivered_ce:{t.delivered_ce}" if t.delivered_ce else "",
        "app_limited" if t.delivery_rate_app_limited else "",
        f"busy:{t.busy_time // 1000}ms" if t.busy_time else "",
        limited("rwnd_limited", t.rwnd_limited, t.busy_time), limited("sndbuf_limited", t.sndbuf_limited, t.busy_time),
        f"unacked:{t.unacked}" if t.unacked else "",
        f"retrans:{t.retrans}/{t.total_retrans}" if t.retrans or t.total_retrans else "",
        *(f"{n}:{getattr(t, n)}" for n in ("lost", "sacked", "dsack_dups") if getattr(t, n)),
        f"reordering:{t.reordering}" if t.reordering != 3 else "",
        f"reord_seen:{t.reord_seen}" if t.reord_seen else "",
        f"rcv_rtt:{milliseconds(t.rcv_rtt)}" if t.rcv_rtt else "",
        f"rcv_space:{t.rcv_space}", f"rcv_ssthresh:{t.rcv_ssthresh}",
        f"notsent:{t.notsent_bytes}" if t.notsent_bytes else "",
        f"minrtt:{milliseconds(t.min_rtt)}" if t.min_rtt != 0xFFFFFFFF else "",
        f"rcv_ooopack:{t.rcv_ooopack}" if t.rcv_ooopack else "", f"snd_wnd:{t.snd_wnd}", f"rcv_wnd:{t.rcv_wnd}",
        f"total_rto:{t.total_rto}" if t.total_rto else "",
    ]
    return " ".join(filter(None, out))


def memory(info) -> str:
    """skmem, as ss -m."""
    m = info.memory
    return (f"skmem:(r{m.rmem_alloc},rb{m.rcvbuf},t{m.wmem_alloc},tb{m.sndbuf},f{m.fwd_alloc},w{m.wmem_queued},"
            f"o{m.optmem},bl{m.backlog},d{m.drops})")


def row(stack, info, numeric: bool, extended: bool, timers: bool) -> list[str]:
    """One line of the table, Netid first."""
    tail = f'users:(("{stack.command}",pid={stack.pid}))'
    if (timers or extended) and info.timer:
        tail += f" timer:({info.timer},{duration(info.timer_ms)},{info.retries})"
    if extended:
        tail += f" sk:{info.id:x} <->{' orphan' if info.orphan else ''}"
    return [info.kind, state_of(info), str(info.recv_queue), str(info.send_queue),
            end(info.local, info.lport, info.kind, numeric), end(info.remote, info.rport, info.kind, numeric), tail]


def table(rows: list[list[str]], below: list[list[str]], netid: bool) -> list[str]:
    """Columns as wide as need be; addresses end where the next begins. Each row's further lines follow it."""
    head = ["Netid", "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port", "Process"]
    skip = 0 if netid else 1
    lines = [head[skip:], *(r[skip:] for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    right = (4 - skip, 5 - skip)
    out = []
    for line, more in zip(lines, [[], *below], strict=True):
        cells = [cell.rjust(w) if i in right else cell.ljust(w)
                 for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        out.append(" ".join(cells).rstrip())
        out.extend(f"\t {text}" for text in more)
    return out


def as_json(stacks, choose) -> str:
    """All that is known, by stack."""
    from dataclasses import asdict

    def plain(info) -> dict:
        values = asdict(info)
        values["cc_info"] = info.cc_info.hex()
        values["memory"] = info.memory._asdict()
        return values

    return json.dumps([{"pid": s.pid, "command": s.command, "segments_in": s.segments_in,
                        "segments_out": s.segments_out, "sockets": [plain(i) for i in s.sockets if choose(i)]}
                       for s in stacks], indent=2)


@click.command("ss")
@click.option("-t", "--tcp", is_flag=True, help="Only TCP sockets.")
@click.option("-u", "--udp", is_flag=True, help="Only datagram sockets.")
@click.option("-l", "--listening", is_flag=True, help="Only those that wait for peers.")
@click.option("-a", "--all", "everything", is_flag=True, help="All states.")
@click.option("-n", "--numeric", is_flag=True, help="Ports as numbers.")
@click.option("-i", "--info", "internal", is_flag=True, help="What TCP_INFO says, in a second line.")
@click.option("-e", "--extended", is_flag=True, help="Timers and socket numbers.")
@click.option("-o", "--options", "timers", is_flag=True, help="Timers.")
@click.option("-m", "--memory", "mem", is_flag=True, help="Buffers.")
@click.option("-p", "--processes", is_flag=True, help="Accepted for ss's sake: processes are always shown.")
@click.option("--pid", type=int, metavar="N", help="Only the stacks of one process.")
@click.option("--json", "json_output", is_flag=True, help="Print a list of objects, a stack each.")
def command(tcp, udp, listening, everything, numeric, internal, extended, timers, mem, processes, pid,
            json_output) -> None:
    """Show the sockets of the stacks that run in your processes.

    Options and columns are those of ss(8): without -l or -a, connections.

    \b
    netstack ss -ti
    netstack ss -tlpn
    """
    from netstack.errors import NetstackError
    from netstack.stacks import stacks

    try:
        running = [s for s in stacks() if pid in (None, s.pid)]
    except NetstackError as error:
        raise click.ClickException(str(error)) from None

    def choose(info) -> bool:
        return wanted(info, tcp, udp, listening, everything)

    if json_output:
        click.echo(as_json(running, choose))
        return
    rows, below = [], []
    for stack in running:
        for info in filter(choose, stack.sockets):
            rows.append(row(stack, info, numeric, extended, timers))
            below.append([*([memory(info)] if mem else []), *([details(info)] if internal and info.tcp else [])])
    for line in table(rows, below, netid=tcp == udp):
        click.echo(line)
