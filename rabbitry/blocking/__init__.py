"""rabbitry without async: the same nouns and verbs, for programs made of ordinary functions and threads.

    from rabbitry import blocking

    with blocking.open_client("amqp://guest:guest@localhost") as client:
        client.publish_many([b"one", b"two"], routing_key="jobs")
        client.publish_many({"jobs": b"three", "letters": [b"four", b"five"]})

`open_client` is where to begin: it spans reconnects. `connect` gives the raw connection, which raises when it ends.
Where start and stop are different functions, it is `client = start_client(url)` and `client.close()`. All the logic is
the async library's; what stands here hands its operations over to an event loop in a thread, and waits.

- Everything may be used from several threads at once.
- Each call that waits takes `timeout`, in seconds or as a `timedelta` (None: no bound). When the time is up, the
  operation is cancelled, with what that means for the async one of the same name, and then `TimeoutError` is raised. To
  undo at a broker that does not answer what has begun there (a consumer, say) may take 5 s more.
  The time counts where the call waits: it also ends while something holds up the loop.
- A logging handler may publish: what is logged in the loop's thread is written in a third one, so that neither waits
  for the other. What the loop itself calls (`on_outcome`, `on_error`, an instrumentation) must not make a blocking
  call, which raises `LocalProtocolError`, nor log by a handler that makes one.
- Ctrl-C, and whatever else a signal handler raises, interrupts each wait the same way: the operation is cancelled, then
  `KeyboardInterrupt` goes on. All blocks can be left as usual.
- After a fork the child has none of it: it must open its own. What it inherited raises `LocalProtocolError` and does
  nothing when its block is left.
- A client or connection that is dropped without leaving its block is closed in the background, with a
  `ResourceWarning`. It never holds up the end of the program: the thread is a daemon, and the broker then sees the
  connection drop. Confirmed messages are safe, unsettled deliveries go back.

One event loop in one thread serves the whole process: the first block that is entered starts it, the last one that is
left ends it. Measured: with a thread for each connection, 50 callers that publish one by one took two to five times the
processor time, as more threads fight for the interpreter; to one caller, and to `publish_many`, it made little
difference. What takes its time - handlers, credentials - runs in other threads, so it does not stall the loop.
"""

from rabbitry.blocking.changes import Changes
from rabbitry.blocking.channel import Channel
from rabbitry.blocking.client import Client, open_client, start_client
from rabbitry.blocking.connection import Connection, connect
from rabbitry.blocking.consumer import Batches, Consumer
from rabbitry.blocking.delivery import Delivery
from rabbitry.blocking.publisher import Confirmation, Publisher
from rabbitry.blocking.rpc import RPC

__all__ = [
    "RPC",
    "Batches",
    "Changes",
    "Channel",
    "Client",
    "Confirmation",
    "Connection",
    "Consumer",
    "Delivery",
    "Publisher",
    "connect",
    "open_client",
    "start_client",
]

for _public in [globals()[name] for name in __all__]:
    _public.__module__ = "rabbitry.blocking"
