"""rabbitry without async: the same nouns and verbs, for programs made of ordinary functions and threads.

    from rabbitry import blocking

    with blocking.open_client("amqp://guest:guest@localhost") as client:
        client.publish_many([b"one", b"two"], routing_key="jobs")
        client.publish_many({"jobs": b"three", "letters": [b"four", b"five"]})

`open_client` is where to begin: it spans reconnects. `connect` gives the raw connection, which raises when it ends.
Where start and stop are different functions, it is `client = start_client(url)` and `client.close()`. All the logic is
the async library's; what stands here has an event loop run its operations, and waits.

- Everything may be used from several threads at once.
- Each call that waits takes `timeout`, in seconds or as a `timedelta` (None: no bound). When the time is up, the
  operation is cancelled, with what that means for the async one of the same name, and then `TimeoutError` is raised. To
  undo at a broker that does not answer what has begun there (a consumer, say) may take 5 s more.
  The time counts where the call waits: it also ends while something holds up the loop in another thread. Where the
  calling thread itself runs the loop (see below), what the loop calls there holds up the call, too, until it returns.
- A logging handler may publish: what the loop logs, in whichever thread, is written in one of its own, so that neither
  waits for the other. What the loop itself calls (`on_outcome`, `on_error`, an instrumentation) must not make a
  blocking call, which raises `LocalProtocolError`, nor log by a handler that makes one.
- Ctrl-C, and whatever else a signal handler raises, interrupts each wait the same way: the operation is cancelled, then
  `KeyboardInterrupt` goes on. All blocks can be left as usual. While the main thread runs the loop, signals are noted,
  and their handlers called as soon as it has left the loop, which they have it do.
- After a fork the child has none of it: it must open its own. What it inherited raises `LocalProtocolError` and does
  nothing when its block is left.
- A client or connection that is dropped without leaving its block is closed in the background, with a
  `ResourceWarning`. It never holds up the end of the program: the thread is a daemon, and the broker then sees the
  connection drop. Confirmed messages are safe, unsettled deliveries go back.

One event loop serves the whole process: the first block that is entered starts it, the last one that is left ends it.
The thread that waits for something runs it itself meanwhile, one thread at a time, so that a program of one thread
hands nothing over to another; a spare thread runs it while nobody waits, for heartbeats and the like, and where the
calling thread runs an event loop of its own already (Jupyter). What the loop calls (`on_outcome`, `on_error`, an
instrumentation) it so calls in any of these threads. What takes its time - handlers, credentials - runs in others, so
it does not stall the loop.
"""

from rabbitry._signatures import hide_constructors
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

# `connect` and `open_client` make all of them.
hide_constructors(RPC, Batches, Changes, Channel, Client, Confirmation, Connection, Consumer, Delivery, Publisher)

for _public in [globals()[name] for name in __all__]:
    _public.__module__ = "rabbitry.blocking"
