"""Rows I1 to I6: what stacks on one router may do to each other."""

from tests.security.mutants import Mutant

FAIR = "netstack/router/fair.pyx"

MUTANTS = [
    Mutant("I2", "all sources wait in one queue", FAIR, "cdef flow_t *flow = flow_of(fair, source)\n",
           "cdef flow_t *flow = fair.first\n", ("test_i2_a_greedy_stack_gets_its_part_and_no_more",)),
    Mutant("I2", "a full queue drops whoever comes", FAIR, "        victim = greediest(fair, flow)\n",
           "        victim = flow\n", ("test_i2_a_greedy_stack_gets_its_part_and_no_more",)),
    Mutant("I2", "what a turn sends costs nothing", FAIR,
           "            flow.deficit -= w.head_length + w.body_length\n", "            pass\n",
           ("test_i2_a_greedy_stack_gets_its_part_and_no_more",)),
]
