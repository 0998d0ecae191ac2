"""A hand-over: a running server gives its sockets, its lock and its engines to another process.

The *predecessor* starts its *successor*, and both talk over a pair of Unix sockets, a JSON document
a line (`messages`):

    predecessor                                  successor
    freezes: starts and ends no engine
    Offer, with the lock, the listening
    sockets, the standard error           ──►    reads its configuration, makes a data plane of its
                                                 own, takes the engines, publishes a table
                                          ◄──    Ready, or Refused with the reason
    Go, with the last changes; changes
    no key any more                       ──►    accepts on the very same sockets
                                          ◄──    Serving; makes the sockets' places its own
    accepts no more, finishes its
    requests                              ◄──    KeysChanged: a revoked key is revoked there, too
                                          ◄──    Hurry, when the successor is to stop itself
    Wanted, where a request waits for a
    model that sleeps                     ──►    wakes it; the engine's record says when it runs
    Left, with what it has counted; ends
    (the connection, too)                 ──►    may end engines from now on

Until `Serving` the predecessor serves as ever. Whatever happens before, it ends the successor and
goes on; so no client notices a version that cannot start.

    messages     what is said
    channel      how it is sent and received
    launch       a successor's process, and its end
    predecessor  what the running server does
    successor    what a server does that takes over
"""
