"""Row E2: congestion marks that are forged or taken away."""

from tests.security.mutants import Mutant

ECN = "netstack/tcp/ecn.pyx"
INPUT = "netstack/tcp/input.pyx"

MUTANTS = [
    Mutant("E2", "a SYN that says ECT gets classic ECN", ECN,
           "if setting == 0 or (codepoint != NOT_ECT and not flags & AE):", "if setting == 0:",
           ("test_e2_ce_on_a_syn_changes_nothing",)),
    Mutant("E2", "CE on a SYN counts as received", ECN, "        tcb.ecn.last_received = r.ecn_syn\n",
           "        tcb.ecn.last_received = r.ecn_syn\n        tcb.ecn.received_ce = r.ecn_syn == CE\n",
           ("test_e2_ce_on_a_syn_changes_nothing",)),
    Mutant("E2", "a SYN without flags gets ECN", ECN,
           "    if flags & (CWR | ECE) != CWR | ECE:\n        return ECN_OFF\n", "",
           ("test_e2_ce_without_agreement_is_nothing",)),
    Mutant("E2", "each ECE reduces", "netstack/tcp/recovery.pyx",
           "    if rec.state < CA_CWR:\n        rec.undo = 0\n        start_reduction(tcb, True)",
           "    if True:\n        rec.undo = 0\n        start_reduction(tcb, True)",
           ("test_e2_ece_on_every_acknowledgement_of_a_window_reduces_once",)),
    Mutant("E2", "marks count before a segment is accepted", INPUT,
           "    reason = check_timestamps(tcb, seg)\n    if reason == DROP_NONE:\n        reason = "
           "check_sequence(tcb, seg)",
           "    if tcb.ecn_mode:\n        ecn_received(tcb, seg)\n    reason = check_timestamps(tcb, seg)\n"
           "    if reason == DROP_NONE:\n        reason = check_sequence(tcb, seg)",
           ("test_e2_ce_off_the_path_is_not_echoed",)),
    Mutant("E2", "a path that wipes flags is trusted with ECT", ECN,
           "        tcb.ecn.fail |= ECN_FAIL_ACE_RECEIVE\n    elif ace != 1", "        pass\n    elif ace != 1",
           ("test_e2_bleaching_costs_marks_and_no_data",)),
    Mutant("E2", "a counter in an acknowledgement that says nothing new counts", ECN,
           "    if not a.flags & (ACK_ADVANCED | ACK_SACKED) and not seg.newer:\n        return\n", "",
           ("test_e2_a_counter_that_jumps_about_cannot_raise_the_window",)),
]
