"""The data plane: the whole way of a request, in Rust. This stub is the manual of the seam.

Documents cross the seam, not parameters: each is JSON (but for `Polled`, which is MessagePack),
written once as a msgspec Struct in `gpustack_fast.seam.documents` and once as a serde struct in
`rust/sans_io/src/seam/`; one test feeds every field of each through both, and every word.

No call but `read_certificate` blocks, none holds the GIL longer than it takes to decode its
document, and Rust installs no signal handler. Every call may be made from any thread. What they
raise is `errors.DataPlaneError`.
"""

from typing import final

__all__ = ["DataPlane", "__version__", "flush_log", "log", "show"]

__version__: str

def log(
    level: int,
    subject: str,
    message: str,
    *,
    json: bool,
    request_id: str | None = None,
    exception: str | None = None,
) -> None:
    """Puts a line into the process's log on standard error, among the data plane's own.

    `level` is a number of `logging`'s; the caller has decided that the line is written. It never
    waits: a line for which there is no room, because nobody reads, is lost and counted
    (`gpustack_fast_log_lines_lost_total`).
    """

def show(text: str) -> None:
    """Shows a text to the person at the terminal, as it is, behind the lines so far."""

def flush_log(limit: float) -> bool:
    """Waits until all lines are written, at most `limit` seconds; False if some are not then."""

@final
class DataPlane:
    """The listeners, their worker threads, and everything that a request meets on its way.

    Nothing runs until `start`. Dropping the object ends the workers at once; `drain` is the polite
    way.
    """

    def __new__(cls, config: bytes, listeners: list[int]) -> DataPlane:
        """Reads a `DataPlaneConfig` document and duplicates the listening sockets.

        `listeners` are file descriptors of bound, listening TCP or Unix stream sockets. They are
        duplicated: the caller goes on owning its own, and may pass them to a successor.

        Raises DataPlaneError when the document does not fit its shape, or a descriptor is no
        listening socket.
        """

    def start(self) -> bytes:
        """Starts the workers; returns a `Started` document, the addresses that respond from now on.

        Until the first `publish`, which may come before, every inference request gets 503, and
        `/readyz` says why. Raises
        DataPlaneError when it was started before, or a thread cannot be made.
        """

    def publish(self, table: bytes) -> int:
        """Replaces the whole routing table by a `Table` document, atomically.

        Returns the table's version (1, 2, ...). A request uses the table that was current when it
        was routed. An instance that the new table no longer holds, or holds in a state other than
        `running`, gets no new request; when its last one ends, `poll` reports an `instance_idle`
        event with the version that retired it (at once, when it has none).

        A document with `settings` is a reload: they are in force from the same moment on, and so is
        the certificate that `read_certificate` has read before.

        Raises DataPlaneError when the document does not fit its shape; then nothing has changed.
        """

    def read_certificate(self) -> bool:
        """Reads the files of the certificate for the reload that `publish` gets next.

        Returns whether they hold another certificate than the one in force; without TLS it does
        nothing. It waits for the disk, without the GIL: call it from a thread
        that may wait. Raises DataPlaneError when the files cannot be used; the certificate stays.
        """

    def update_keys(self, delta: bytes) -> None:
        """Applies a `KeyDelta` document. When it returns, the next request on any worker sees it.

        Raises DataPlaneError when the document does not fit its shape; the keys then stay as they
        were.
        """

    def add_tokens(self, tokens: bytes) -> None:
        """Adds a `Tokens` document to the tokens of routes, as `stats` shows them.

        For what an earlier run has counted, or what a predecessor has counted since its hand-over.
        A route that the table has not is left out: call it behind `publish`. Raises DataPlaneError
        when the document does not fit its shape; then nothing has changed.
        """

    def show_tokens(self, tokens: bytes) -> None:
        """Has `/metrics` show no more than a `Tokens` document, of its routes, until the next call.

        Of a route that no call has named it shows all that is counted. As `add_tokens` else.
        """

    def poll(self) -> bytes:
        """Returns a `Polled` document: events and at most 10,000 records since the last call.

        Never waits. `fileno` becomes readable when there is something worth fetching soon: an
        event, or a queue of records that is half full. Fetch records every second or so besides.
        Calling `poll` clears `fileno`.
        """

    def fileno(self) -> int:
        """An eventfd for the event loop's reader. It belongs to this object: do not close it."""

    def stats(self) -> bytes:
        """Returns a `Stats` document: a reading of the counters, cheap enough for every second."""

    def drain(self, deadline: float, *, idle_grace: float = 0.0) -> None:
        """Stops accepting, and cuts requests that still run after `deadline` seconds (0: at once).

        A connection without a request is closed: at once, or where it stays so for `idle_grace`
        seconds. Until then a request on it is served as ever, and its response says that the
        connection ends. With it no client that keeps its connection meets the end in the moment in
        which it sends, where a successor accepts on the same sockets. For that successor `/readyz`
        answers on such connections as before the drain. (An HTTP/2 client is told by a GOAWAY at
        once, behind which what it has sent is served.)

        Returns at once; `poll` reports one `drained` event with the number of requests that were
        cut, and the worker threads end after it. A second call can only shorten both limits.
        """
