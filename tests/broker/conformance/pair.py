"""RabbitMQ and the embedded broker, step by step: each does the same, and all that can be seen must be the same.

After each step the channels of RabbitMQ make a round trip, and so do the queues, which tell how much is in them. It is
given time to come to what the embedded broker has come to at once: what it does between its processes is not ordered.
Nor is it promised in which order one channel gets the messages of different consumers: each consumer's are compared by
themselves, and a delivery is settled on both sides by what it is, not by its tag.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rabbitry.protocol.wire import methods
from tests.broker.conformance.conversation import Channel, Connection, Conversation
from tests.broker.conformance.local import LocalConnection, LocalConversation

PATIENCE = 2.0
"""Seconds for RabbitMQ to come to the same."""
LITTLE_PATIENCE = 0.3
"""The same, once there is a difference, and a shorter way to it is looked for."""
LANES = 4
"""Channels: half of them on one connection, half on the other."""
MONITOR, PROBE = 9, 10
"""Numbers of channels of our own."""

Act = Callable[[Channel], object]
Tags = tuple[int, int]
"""Of a delivery, at RabbitMQ and here."""


differences: list[str] = []
"""What was found in this process."""


class Difference(AssertionError):
    """The two are not the same."""


class Lane:
    """A channel on both sides, and what is known of it."""

    def __init__(self, sides: tuple[Channel, Channel]) -> None:
        self.sides = sides
        self.consumers: dict[str, bool] = {}
        """Whether what they get needs no acknowledgement, by their tags."""
        self.used: set[str] = set()
        """The tags of consumers that there are or were."""
        self.unsettled: list[Tags] = []
        self.in_transaction: list[Tags] | None = None
        self.is_limited = False
        """Whether it has a prefetch of its own."""

    @property
    def is_open(self) -> bool:
        ours = self.sides[1]
        return ours.is_open and not ours.connection.is_over


class Pair:
    """Both brokers, two connections to each that a sequence uses, and one to look."""

    def __init__(self, host: str, port: int, version: str) -> None:
        self.version = version
        self.patience = PATIENCE
        self.theirs = Conversation(host, port)
        self.ours = LocalConversation(version)
        self.ours.prefix = self.theirs.prefix
        self._watch = self.theirs.connect(), self.ours.connect()
        self._connections: dict[int, tuple[Connection, LocalConnection]] = {}
        self._lanes: dict[int, Lane] = {}
        self._queues: set[str] = set()
        self.steps = 0

    # --- steps -------------------------------------------------------------------------------------------------------

    def lane(self, number: int) -> Lane:
        """The channel, opened if it is not."""
        if number not in self._lanes:
            which = number // (LANES // 2)
            if which not in self._connections:
                self._connections[which] = self.theirs.connect(), self.ours.connect()
            one, other = self._connections[which]
            channel = 1 + number % (LANES // 2)
            self._lanes[number] = Lane((one.channel(channel), other.channel(channel)))
        return self._lanes[number]

    def is_open(self, number: int) -> bool:
        return number in self._lanes

    def do(self, number: int, act: Act) -> Lane:
        """Do something on both sides of a channel, and compare."""
        lane = self.lane(number)
        for side in lane.sides:
            act(side)
        self._agree()
        return lane

    def get(self, number: int, queue: str, *, no_ack: bool) -> None:
        """Get a message on both sides."""
        lane = self.lane(number)
        for side in lane.sides:
            side.get(queue, no_ack=no_ack)
        said = (entry for conversation in (self.theirs, self.ours) for entry in conversation.transcript)
        tags = [entry[1]["delivery_tag"] for entry in said if entry[0] == "basic.get-ok"]
        if len(tags) == 2 and not no_ack:
            lane.unsettled.append((tags[0], tags[1]))
        self._agree()

    def settle(self, number: int, chosen: Tags, multiple: bool, settle: Callable[[Channel, int], object]) -> None:
        """Settle a delivery, or all up to this one, where they have the same tags on both sides."""
        lane = self.lane(number)
        settled = [tags for tags in lane.unsettled if tags == chosen or (multiple and tags < chosen)]
        for side, tag in zip(lane.sides, chosen, strict=True):
            settle(side, tag)
        lane.unsettled = [tags for tags in lane.unsettled if tags not in settled]
        if lane.in_transaction is not None:
            lane.in_transaction += settled
        self._agree()

    def end_connection(self, which: int, *, is_cut: bool) -> None:
        """Close a connection, or have it lost."""
        for side in self._connections.get(which, ()):
            if is_cut:
                side.cut()
            else:
                side.close()
        self._agree()

    def close(self) -> None:
        """Leave nothing at RabbitMQ."""
        self.theirs.clean()

    # --- what both show ----------------------------------------------------------------------------------------------

    def _agree(self) -> None:
        """Wait for RabbitMQ to show the same. Raises `Difference`."""
        self.steps += 1
        for _, ours in self._connections.values():
            ours.wait(lambda: False)
        for theirs, ours in self._connections.values():
            if ours.is_over:
                theirs.wait_for_end(self.patience)
        owners = self._owners()
        gone, self._queues = self._queues - set(owners), set(owners)
        ours_shown = self._look(1, owners)
        deadline, pause = time.monotonic() + self.patience, 0.001
        while True:
            shown = self._look(0, owners)
            gone = {name for name in gone if not self._is_gone(name)}
            if shown == ours_shown and not gone:
                break
            if time.monotonic() > deadline:
                differences.append(_told(shown, ours_shown, gone))
                raise Difference(differences[-1])
            time.sleep(pause)
            pause *= 1.5
        self._take()

    def _owners(self) -> dict[str, int | None]:
        """The queues that there are, and the connection that alone may see each."""
        owners = dict[str, int | None]()
        for name, queue in self.ours.world.vhosts["/"].queues.items():
            owners[name] = next(
                (which for which, (_, ours) in self._connections.items() if ours.owns(queue.owner)), None
            )
        return owners

    def _look(self, side: int, owners: dict[str, int | None]) -> dict[str, Any]:
        """All that this side shows since the last step."""
        conversation = (self.theirs, self.ours)[side]
        channels = {
            number: lane.sides[side] for number, lane in self._lanes.items() if not lane.sides[side].connection.is_over
        }
        asked = [each for each in channels.values() if each.is_open]
        for each in asked:
            each.ask(methods.AccessRequest())
        monitors = self._ask_for_counts(side, owners)
        for each in asked:
            each.replies()
        said = list(conversation.transcript)
        replies = [fields for monitor in monitors for _, fields in monitor.replies()]
        del conversation.transcript[len(said) :]
        return {
            "said": [_without_tag(entry) for entry in said],
            "connections": sorted(which for which, pair in self._connections.items() if not pair[side].is_over),
            "open": sorted(number for number, each in channels.items() if each.is_open),
            "came": {number: _by_consumer(each.line) for number, each in channels.items()},
            "settled": {number: each.settled for number, each in channels.items()},
            "queues": {each["queue"]: (each["message_count"], each["consumer_count"]) for each in replies},
        }

    def _ask_for_counts(self, side: int, owners: dict[str, int | None]) -> list[Channel]:
        """Ask for the messages and consumers of each queue; the channels that will tell."""
        monitors = list[Channel]()
        for which in (None, *self._connections):
            connection = self._watch[side] if which is None else self._connections[which][side]
            names = [name for name, owner in owners.items() if owner == which]
            if not names or connection.is_over:
                continue
            monitor = connection.channels.get(MONITOR)
            if monitor is None or not monitor.is_open:
                monitor = connection.channel(MONITOR)
            monitor.ask(*[methods.QueueDeclare(queue=name, passive=True) for name in names])
            monitors.append(monitor)
        return monitors

    def _is_gone(self, name: str) -> bool:
        """Whether RabbitMQ has no such queue any more: it may take a moment."""
        transcript = self.theirs.transcript
        said = len(transcript)
        probe = self._watch[0].channel(PROBE)
        probe.request(methods.QueueDeclare(queue=name, passive=True))
        told, transcript[said:] = transcript[said:], []
        if probe.is_open:
            probe.close()
            del transcript[said:]
        return any(entry[1].get("reply_code") == 404 for entry in told)

    def _take(self) -> None:
        """What both have shown is known now."""
        for which, pair in list(self._connections.items()):
            if pair[1].is_over:
                pair[0].cut()
                del self._connections[which]
        for number, lane in list(self._lanes.items()):
            if not lane.is_open:
                del self._lanes[number]
                continue
            theirs, ours = [_by_consumer(side.line, is_whole=True) for side in lane.sides]
            for tag, came in theirs.items():
                for one, other in zip(came, ours[tag], strict=True):
                    if one[0] == "basic.cancel":
                        del lane.consumers[tag]
                    elif tag and not lane.consumers[tag]:
                        lane.unsettled.append((one[1]["delivery_tag"], other[1]["delivery_tag"]))
            for side in lane.sides:
                side.line.clear()
        self.theirs.transcript.clear()
        self.ours.transcript.clear()


def _without_tag(entry: list[Any]) -> list[Any]:
    return [
        {name: value for name, value in each.items() if name != "delivery_tag"} if isinstance(each, dict) else each
        for each in entry
    ]


def _by_consumer(line: list[list[Any]], *, is_whole: bool = False) -> dict[str, list[Any]]:
    """What came for each consumer; under "" what came for none."""
    found = dict[str, list[Any]]()
    for entry in line:
        found.setdefault(entry[1].get("consumer_tag", ""), []).append(entry if is_whole else _without_tag(entry))
    return found


def _told(theirs: dict[str, Any], ours: dict[str, Any], gone: set[str]) -> str:
    lines = [
        f"{what}:\n  RabbitMQ: {theirs[what]}\n  embedded: {ours[what]}" for what in ours if theirs[what] != ours[what]
    ]
    if gone:
        lines.append(f"RabbitMQ still has {', '.join(gone)}")
    return "\n".join(lines)
