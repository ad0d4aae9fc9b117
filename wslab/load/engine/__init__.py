"""The compiled event loops: what every connection of the load passes through while it is plain.

Theory of operation:

1. Two loops, `server_loop` for a shard and `swarm_loop` for a worker, are Python compiled to machine code by Numba,
   with what they are made of (`blocks`; `dialling`, `talking`, `unasked`, `swarm_connection`; `wire`). They call
   libc directly (`libc`), so that a plain connection touches no Python object at all.
2. A connection is a record in an array indexed by its descriptor (`state`). Both loops use the same words for what a
   connection is. Counters are written straight into the shared memory of the scoreboard.
3. A loop handles the plain case: the whole request that differs from a judged one in its key only, the whole answer
   with the right accept value, a data frame (a large one comes and goes in parts: `blocks`), its echo. Everything else
   leaves by the one exit: the loop returns a reason, with the descriptor and the bytes in the control words. Python
   deals with it and calls the loop again, which goes on where it was: that is the one way back in.
4. Keys, masks and payloads come from a counter-based generator (`wire`): to check an answer or an echo it is enough to
   know its number.
5. Compiled code runs no Python signal handler, so commands and the lifeline are descriptors in the loop's own epoll.
6. Machine code is kept on disk (`cache`) and is loaded by a master before it forks.

Only this folder imports numba.
"""
