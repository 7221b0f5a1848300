"""The front door of the sans-IO protocol: what it names is enough to be a client, and nothing else is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

from rabbitry import protocol
from rabbitry.protocol import (
    ChannelState,
    ConnectionState,
    Content,
    Mode,
    Properties,
    ProtocolConnection,
    encode_properties,
    events,
    methods,
)
from tests.support.protocol_broker import ack, deliver, method_frame, parse

ROOT = Path(__file__).parents[2]


def test_a_client_made_of_what_the_door_names() -> None:
    connection = ProtocolConnection(mechanisms=[("PLAIN", b"\0guest\0guest")])
    sent = parse(connection.data_to_send())
    connection.receive_data(method_frame(0, methods.ConnectionStart()))
    connection.receive_data(method_frame(0, methods.ConnectionTune(channel_max=1, frame_max=8192, heartbeat=10)))
    connection.receive_data(method_frame(0, methods.ConnectionOpenOk()))
    assert [type(event) for event in connection.events] == [events.Opened]
    assert connection.state is ConnectionState.OPEN and connection.handle_timer(100.0) == 105.0
    connection.events.clear()

    channel, _ = connection.open_channel("opening")
    channel.request(methods.ConfirmSelect(), "confirming")
    connection.receive_data(method_frame(1, methods.ChannelOpenOk()) + method_frame(1, methods.ConfirmSelectOk()))
    assert [event.token for event in connection.events] == ["opening", "confirming"]
    assert channel.state is ChannelState.OPEN and channel.mode is Mode.CONFIRM
    connection.events.clear()

    channel.publish(encode_properties(Properties(delivery_mode=2)), b"body", "", "q", False, "publish")
    channel.consume(methods.BasicConsume(queue="q", consumer_tag="c"), "consumer", "consuming")
    connection.receive_data(ack(1, 1) + method_frame(1, methods.BasicConsumeOk(consumer_tag="c")) + deliver(1, 1))
    confirmed, replied, content = connection.events
    assert (confirmed.tokens, replied.token) == (["publish"], "consuming")
    assert isinstance(content, Content) and (content.consumer, content.body) == ("consumer", b"body")
    channel.ack(content.delivery_tag)
    connection.events.clear()

    connection.close()
    sent += parse(connection.data_to_send())
    connection.receive_data(method_frame(0, methods.ConnectionCloseOk()))
    assert [type(event) for event in connection.events] == [events.ChannelEnded, events.ConnectionEnded]
    assert sent[0] == ("protocol header",) and sent[-2:] == [
        (1, methods.BasicAck(delivery_tag=1)),
        (0, methods.ConnectionClose(reply_code=200, reply_text="closed by the client")),
    ]


def test_it_names_all_that_it_imports() -> None:
    """Submodules appear as attributes of a package; anything else that is there, is named."""
    # (pytest adds names that begin with @ to the modules of a package with a plugin, whose asserts it rewrites)
    there = {name for name, value in vars(protocol).items() if not name.startswith(("_", "@"))}
    assert there - set(protocol.__all__) <= {"annotations", "client", "wire", "server"}
    assert isinstance(protocol.events, ModuleType) and isinstance(protocol.methods, ModuleType)
    assert sorted(protocol.__all__) == protocol.__all__


def test_it_imports_no_input_or_output() -> None:
    script = (
        "import sys, rabbitry.protocol\n"
        "assert not {'anyio', 'asyncio', 'socket', 'ssl', 'trio', 'rabbitry._public'} & set(sys.modules)\n"
        "assert not [name for name in sys.modules if name.startswith('rabbitry._transport')]"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
