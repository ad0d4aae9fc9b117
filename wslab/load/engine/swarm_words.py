"""What the loop of a swarm worker and Python tell each other besides the words of both loops (`state`)."""

from __future__ import annotations

from wslab.load import scoreboard as board
from wslab.load.engine.state import BOTH

# Control words of this loop.
(
    FAMILY,
    ADDRESS_BYTES,  # of a socket address
    PORTS_AT_BIND,  # 1: bind chooses the port, not connect
    CONNECTIONS,  # to open
    DIALLED,
    DIALLING,  # 1 while there is more to dial
    BEGAN,  # when dialling began, ns
    PENDING_MAX,
    FAILURES_IN_A_ROW,
    TIMEOUT_NS,
    ECHO_TIMEOUT_NS,
    CHECK_AT,  # when to look for what is overdue, ns
    CHECKED,  # descriptors that this look is through with
    TOP,  # one more than the largest descriptor of a connection so far
    KEY_SEED,
    MESSAGE_SEED,
    KEY_AT,  # where in the request its key stands
    ANSWER_BYTES,  # of the known answer; 0 = none is known
    ACCEPT_AT,  # where in it the accept value stands
    FIRST_NUMBER,  # of this worker's connections in the whole swarm
    SAYS,  # first byte of a message; 0 = bare bytes
    HEARS,  # first byte of its echo
    TELLS,  # 1: Python makes the messages
    COUNTS_UNASKED,  # 1: whole data frames that answer nothing are counted in here
    FANS_OUT,  # 1: they are broadcasts
    MESSAGE_BYTES,
    SERIAL,  # number of the last message
    DUE,  # messages whose echo is due
    TALKING,
    VERIFYING,
    PASSES,  # of the verify phase that are left
    SOUGHT,  # 0 or PROVED: what a connection must be to be next in this pass
    WINDOW,
    CURSOR,  # descriptor from which the next connection to talk on is sought
    TALK_UNTIL,  # nothing is due from then on, ns
    WORDS,
) = range(BOTH, BOTH + 36)
# Words in 64-bit floating point.
RATE, START_AFTER, MESSAGE_RATE, NEXT_AT, REALS = range(5)

NS = 1_000_000_000
BURST = 16  # dials or messages in one go before replies are looked at
CHECK_NS = NS // 4  # a worker that waits for answers looks this often for those that are overdue
OWED_MAX = 65535
# A message is made and offered in pieces, each twice the last one: what a peer with little room does not take is made
# again.
OFFER_MIN = 8192
NEVER = (1 << 63) - 1
# Fields of a request, in `slots` one pair each: where in it, and what.
SLOT_NUMBER, SLOT_HEX = range(2)
HEX_BYTES = 16
HEX_SEED = 0x5DEECE66D  # apart from the keys
RAMP_DONE, CLIMB_DONE, VERIFY_DONE = (board.PHASES.index(name) for name in ("ramp", "climb", "verify"))
