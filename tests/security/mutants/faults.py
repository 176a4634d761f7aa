"""Rows F6 to F9, F11 and F12."""

from tests.security.mutants import Mutant

INPUT = "netstack/tcp/input.pyx"
CORE = "netstack/stack/core.pyx"
OUTPUT = "netstack/tcp/output.pyx"
CONNECTION = "netstack/tcp/connection.pyx"

VIRTUAL = ("test_f6_streams_survive_thirty_percent_of_everything_on_virtual_time",)
SEEDS = ("test_f7_every_stream_is_equal_with_the_limits_lifted[0]",
         "test_f7_above_a_tenth_of_loss_a_stream_is_equal_or_times_out_at_the_limit[0]")
LIMITS = ("test_f7_lower_limits_are_reached_and_kept_exactly",)

MUTANTS = [
    Mutant("F6", "the place of a segment beyond a gap is the next one", INPUT,
           "receive_store(tcb, start, data, end - start)\n        if tcb.parent == NULL",
           "receive_store(tcb, tcb.rcv_nxt, data, end - start)\n        if tcb.parent == NULL", VIRTUAL),
    Mutant("F6", "nothing is sent again after a timeout", OUTPUT,
           "if tcb.rtx_deadline and tcb.rtx_deadline <= now:\n        on_retransmit_timer(tcb)",
           "if tcb.rtx_deadline and tcb.rtx_deadline <= now:\n        tcb.rtx_deadline = 0", VIRTUAL),
    Mutant("F7", "a FIN counts before what precedes it", INPUT,
           "if not tcb.flags & TF_FIN_AHEAD or tcb.rcv_nxt != tcb.fin_seq:", "if not tcb.flags & TF_FIN_AHEAD:", SEEDS),
    Mutant("F7", "ranges that touch nothing are taken for readable", "netstack/tcp/ranges.pyx",
           "while n < tcb.range_count and seq_ge(tcb.rcv_nxt, tcb.ranges[n].start):", "while n < tcb.range_count:",
           SEEDS),
    Mutant("F7", "one attempt too few before ETIMEDOUT", OUTPUT,
           "if tcb.retries >= retry_limit(tcb):", "if tcb.retries + 1 >= retry_limit(tcb):", LIMITS),
    Mutant("F7", "timeouts do not double", "netstack/tcp/rtt.pyx", "tcb.rto_ns *= 2", "tcb.rto_ns += 1", LIMITS),
    Mutant("F8", "the sum of a predicted segment is not looked at", INPUT,
           "if checksum_fold(total) != 0xffff and not seg.trusted:", "if False:"),
    Mutant("F8", "the sum of other segments is not looked at", INPUT,
           "return seg.trusted or checksum_fold(total) == 0xffff", "return True"),
    Mutant("F8", "the sum of a datagram is not looked at", "netstack/udp/endpoint.pyx",
           "elif checksum_fold(<uint64_t> partial + checksum_and_copy(d + 1, payload, covered)) != 0xffff:\n"
           "        free(d)\n        return DROP_UDP_CHECKSUM\n    elif covered < length:\n"
           "        copy_bytes(<uint8_t *> (d + 1) + covered, payload + covered, length - covered)\n",
           "else:\n        copy_bytes(d + 1, payload, length)\n",
           ("test_f8_a_stack_delivers_garbage_exactly_when_its_sum_is_right",)),
    Mutant("F8", "every link is trusted", CORE,
           "seg.trusted = (packet.interface.link.capabilities & LINK_CHECKSUM_TRUSTED) != 0", "seg.trusted = 1",
           ("test_f8_no_field_of_a_damaged_segment_acts",)),
    Mutant("F9", "a block of SACK is looked up from the front of the flight, by each frame", "netstack/tcp/ack.pyx",
           "cdef uint32_t i = scoreboard_find(tcb, start), last = i + DSACK_RECORDS\n",
           "cdef uint32_t i = scoreboard_find(tcb, start), last = i + DSACK_RECORDS\n"
           "    tcb.tcp.counters.tcp_sack_steps += 1000000\n",
           ("test_f9_mutants_of_live_sessions_crash_nothing_and_leave_nothing",)),
    Mutant("F9", "an ACK of what was never sent is taken", INPUT,
           "if seq_gt(seg.ack, tcb.snd_nxt) or seq_lt(seg.ack, tcb.snd_una - tcb.max_snd_wnd):",
           "if seq_lt(seg.ack, tcb.snd_una - tcb.max_snd_wnd):",
           ("test_f9_mutants_of_live_sessions_crash_nothing_and_leave_nothing",)),
    Mutant("F9", "an orphan waits in FIN-WAIT-2 for ever", INPUT,
           "tcb.state_deadline = tcb.tcp.now_ns + fin_timeout_ns(tcb)", "pass",
           ("test_f9_mutants_of_live_sessions_crash_nothing_and_leave_nothing",)),
    Mutant("F11", "an idle connection keeps its receive buffer", "netstack/tcp/buffers.pyx",
           "if not peek:\n        tcb.rcv_read += n\n        receive_shrink(tcb)",
           "if not peek:\n        tcb.rcv_read += n",
           ("test_f11_a_hundred_thousand_idle_connections_and_what_one_takes",)),
    Mutant("F11", "a reset connection is not freed", CORE,
           "if tcb.sock.flags & SF_ORPHAN:\n        tcb.sibling = stack.dead\n        stack.dead = tcb",
           "if tcb.sock.flags & SF_ORPHAN and tcb.sock.error == 0:\n        tcb.sibling = stack.dead\n"
           "        stack.dead = tcb", ("test_f11_a_million_connections_leave_nothing",)),
    Mutant("F11", "the state of an algorithm is not freed", "netstack/tcp/congestion/controller.pyx",
           "if tcb.cc_ops.release != NULL:\n        tcb.cc_ops.release(&tcb.cc)\n    free(tcb.cc.extended)",
           "if tcb.cc_ops.release != NULL:\n        tcb.cc_ops.release(&tcb.cc)",
           ("test_f11_a_million_connections_leave_nothing",)),
    Mutant("F11", "TIME-WAIT records are taken out and not freed", "netstack/demux.pyx",
           "port_left(d, SOCK_TCP, tw.lport)\n    free(tw)", "port_left(d, SOCK_TCP, tw.lport)",
           ("test_f11_a_million_connections_leave_nothing",)),
    Mutant("F12", "all that would have fired in a leap fires after it", CORE,
           "stack_set_now(stack, now_ns)                       # first: what", "# first: what",
           ("test_f12_a_leap_of_hours_fires_each_timer_once_and_ends_no_connection",
            "test_f12_attempts_after_a_leap_are_as_many_and_as_far_apart_as_without")),
    Mutant("F12", "time goes back", CORE,
           "if now_ns > stack.tcp.now_ns:\n        stack.tcp.now_ns = now_ns", "stack.tcp.now_ns = now_ns",
           ("test_f12_time_that_goes_back_stands_still",)),
    Mutant("F12", "an echo from the future is a sample", "netstack/tcp/ack.pyx",
           "if ms < 0 or ms >= TS_LIMIT_MS:", "if ms >= TS_LIMIT_MS:",
           ("test_f12_a_round_trip_of_a_stamp_from_the_future_is_no_sample",)),
    Mutant("F12", "the time of day is read", "netstack/router/pool.py",
           "clock=time.monotonic_ns", "clock=time.time_ns", ("test_f12_no_clock_is_read_but_the_monotonic_one",)),
]
