"""What differs between RabbitMQ's versions, as values: one row a version, each field one difference.

What must stay true: nothing else asks for a version. `tests/broker/conformance` verifies each against that version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

__all__ = ["COMPAT", "Compat", "Version"]

Version: TypeAlias = Literal["3.10", "4.0", "4.3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compat:
    """How one version of RabbitMQ behaves where others do otherwise."""

    version: str
    """As it tells its clients."""
    unknown_protocol: bytes
    """What answers a protocol header that isn't AMQP 0-9-1's."""
    unknown_exchange_type: int
    """The reply code for an exchange type that doesn't exist."""
    has_plugin_types: bool
    """Whether types of exchanges that are plugins elsewhere come with it."""
    names_access: bool
    """Whether refused access is told by its kind: "write access to …"."""
    checks_passive_declare: bool
    """Whether a passive declare of a queue asks for the permission to configure it."""
    checks_user_id_first: bool
    """Whether a publish's user-id is checked before its expiration."""
    default_queue_type: bool
    """Whether a queue declared without `x-queue-type` has one: classic."""
    queue_versions: tuple[int, ...]
    """What `x-queue-version` may be."""
    has_queue_modes: bool
    """Whether `x-queue-mode` is looked at."""
    queue_arguments: Mapping[str, frozenset[str]]
    """The arguments of each type of queue that not all versions know."""
    consumer_arguments: Mapping[str, frozenset[str]]
    """Those of consumers."""
    has_stream_filters: bool
    """Whether streams can be filtered."""
    checks_filter_types: bool
    """Whether the size of a stream's filter must be a number, by a text of its own."""
    compares_ages: bool
    """Whether a text that tells two ages apart has them in milliseconds."""
    stumbles_over_ages: bool
    """Whether it ends the connection (541) over an age or an interval that doesn't begin with a digit."""
    stream_words: str
    """What its texts call a stream."""
    streams_set_delivery_mode: bool
    """Whether a message without a delivery mode is transient once it was in a stream."""
    streams_lose_dead_letters: bool
    """Whether what is dead-lettered to a stream never gets there, and without its x-death if it has to."""
    streams_refuse_nacks: bool
    """Whether a stream's message can be acknowledged only."""
    consumer_timeout: Literal["channel", "queue", "quorum"]
    """What may be held for too long: the oldest delivery of a channel, by the broker's measure; the same, by its
    queue's; or any of a quorum queue."""
    most_wildcards: int | None
    """How many "#" a topic binding may have."""
    exact_numbers: bool
    """Whether the headers exchange tells 1 from 1.0."""
    delivery_limit: int | None
    """How often a quorum queue redelivers by default, where a limit below zero is none."""
    limit_widens_prefetch: bool
    """Whether the consumer that gives a message back once too often may hold one more from then on, as a defect."""
    delivery_count: Literal["got", "returned", "acquired"]
    """Which counts quorum queues put into the headers: of deliveries that failed, from the first, and of what is got
    always; or from the first; or, beside them, how often the message was handed out, where a nack is no failure."""
    quorum_priorities: bool
    """Whether quorum queues heed priorities, which the embedded broker's don't."""
    requeues_behind: bool
    """Whether a quorum queue without a delivery limit has messages that come back at its end."""
    returns_by: Literal["tag", "arrival"]
    """In which order a quorum queue's messages come back as their channel ends: by the tags of the consumers that had
    them, among which what was got has its number; or by which consumer came first, with what was got after them."""
    get_from_single_active: str
    """The words for quorum queues in the refusal of a get."""
    tells_last_death: bool
    """Whether dead-lettered messages have `x-last-death-*`."""
    believes_x_death: bool
    """Whether the `x-death` of a message that a client publishes counts."""
    keeps_copies: bool
    """Whether CC stays in the headers of what is dead-lettered with another routing key."""
    dead_are_redelivered: bool
    """Whether what has died after a delivery is marked as redelivered in its next queue, unless none may be lost."""
    carried_counts: Literal["", "rejections", "deliveries"]
    """What quorum queues know of the counts of a message that has died elsewhere: nothing; how often quorum queues had
    it rejected, which is shown until it fails again; or all its deliveries, which go on being counted."""
    purges_the_dead: bool
    """Whether purging a queue drops what it holds until its dead-letter exchange finds a queue."""
    stumbles_over: Literal["foreign", "malformed", ""]
    """Addresses of direct reply-to over which it ends the connection (541), as a defect of its own: those that it has
    not made, those that are none, or no such address."""
    replies_are_routed: bool
    """Whether a reply to an address of direct reply-to counts as routed, and as a delivery among those of its channel:
    else it has the tag of the next one."""
    commits_without: Literal["passed over", "partial", "resource error"]
    """What becomes of a commit to a queue that is gone by then: it is passed over, or the commit is carried out as far
    as it can be (and then refused for a classic queue; for a stream it ends the connection), or ends the connection."""
    succession: Literal["age", "yields", "stalls"]
    """Who is next where a quorum queue has a single active consumer: the first that came; or the first of the highest
    priority, which takes over as soon as the active one has settled what it has, or unless it gave that back."""
    global_qos: bool
    """Whether channel-wide prefetch exists; else it is a prefetch of each consumer."""


_3_10 = Compat(
    version="3.10.8",
    unknown_protocol=b"AMQP\x00\x00\x09\x01",
    unknown_exchange_type=503,
    has_plugin_types=False,
    names_access=False,
    checks_passive_declare=False,
    checks_user_id_first=True,
    default_queue_type=False,
    queue_versions=(1, 2),
    has_queue_modes=True,
    queue_arguments={},
    consumer_arguments={},
    has_stream_filters=False,
    checks_filter_types=False,
    compares_ages=False,
    stumbles_over_ages=True,
    stream_words="stream queues",
    streams_set_delivery_mode=False,
    streams_lose_dead_letters=True,
    streams_refuse_nacks=True,
    consumer_timeout="channel",
    most_wildcards=None,
    exact_numbers=False,
    delivery_limit=None,
    limit_widens_prefetch=True,
    delivery_count="got",
    quorum_priorities=False,
    requeues_behind=True,
    returns_by="tag",
    get_from_single_active="quorum queues",
    tells_last_death=False,
    believes_x_death=True,
    keeps_copies=False,
    dead_are_redelivered=False,
    carried_counts="",
    purges_the_dead=False,
    stumbles_over="foreign",
    replies_are_routed=False,
    commits_without="passed over",
    succession="age",
    global_qos=True,
)
_4_0 = replace(
    _3_10,
    version="4.0.5",
    unknown_protocol=b"AMQP\x03\x01\x00\x00",
    unknown_exchange_type=406,
    has_plugin_types=True,
    names_access=True,
    checks_user_id_first=False,
    default_queue_type=True,
    queue_arguments={"classic": frozenset({"x-queue-leader-locator"})},
    consumer_arguments={"stream": frozenset({"x-stream-filter", "x-stream-match-unfiltered"})},
    has_stream_filters=True,
    stream_words="stream",
    streams_set_delivery_mode=True,
    streams_lose_dead_letters=False,
    streams_refuse_nacks=False,
    consumer_timeout="queue",
    exact_numbers=True,
    delivery_limit=20,
    limit_widens_prefetch=False,
    delivery_count="returned",
    quorum_priorities=True,
    requeues_behind=False,
    returns_by="arrival",
    tells_last_death=True,
    believes_x_death=False,
    keeps_copies=True,
    carried_counts="rejections",
    stumbles_over="malformed",
    commits_without="partial",
    succession="stalls",
)
_DELAYED_RETRY = ("x-delayed-retry-type", "x-delayed-retry-min", "x-delayed-retry-max")
_4_3 = replace(
    _4_0,
    version="4.3.0",
    queue_versions=(2,),
    has_queue_modes=False,
    queue_arguments={
        "classic": frozenset({"x-queue-leader-locator"}),
        "quorum": frozenset({"x-consumer-timeout", "x-consumer-disconnected-timeout", *_DELAYED_RETRY}),
        "stream": frozenset({"x-stream-filter-size-bytes"}),
    },
    consumer_arguments={**_4_0.consumer_arguments, "quorum": frozenset({"x-consumer-timeout"})},
    checks_filter_types=True,
    compares_ages=True,
    stumbles_over_ages=False,
    consumer_timeout="quorum",
    most_wildcards=2,
    checks_passive_declare=True,
    delivery_count="acquired",
    get_from_single_active='<<"quorum">> queues',
    dead_are_redelivered=True,
    carried_counts="deliveries",
    purges_the_dead=True,
    stumbles_over="",
    replies_are_routed=True,
    commits_without="resource error",
    succession="yields",
    global_qos=False,
)

COMPAT: dict[str, Compat] = {"3.10": _3_10, "4.0": _4_0, "4.3": _4_3}
"""The versions that the broker can be."""
