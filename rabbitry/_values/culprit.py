"""Which publish the broker ended a channel over: judged here, from what it said and what was published.

RabbitMQ names the method that it refused, not the message; but its text quotes what it did not like. It takes a
channel's publishes in order and drops everything behind the one that it refuses. So the first publish without a confirm
of which it would have said this text is the culprit, and those behind it were certainly not taken. What must stay true:
where no publish fits, or several that differ fit a text cut short, none is named. Pure, and asked only when a channel
has ended: nothing here is done for a publish that is confirmed.

Two of the answers depend on what the broker has, not on the message alone: whether there is the exchange, and what the
user may do. If that changed while several publishes to the same place were without their confirm, the first of them is
named, though the broker may have taken that one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from rabbitry._errors import Closed, NotSent, OutcomeUnknown, PublishFailed, RabbitryError, Refused
from rabbitry._values.message import PERSISTENT_HEADER, Message
from rabbitry._values.options import Loss
from rabbitry.protocol.wire.constants import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED
from rabbitry.protocol.wire.properties import Properties, decode_properties

__all__ = ["Published", "failure_of", "find_culprit", "is_like_refused", "loss"]


class Published(Protocol):
    """A publish as its caller made it, the exchange by its name: a `Confirmation`, a `PublishFailed`."""

    @property
    def message(self) -> Any:
        """A `Message`, or a body."""
        ...

    @property
    def exchange(self) -> str: ...

    @property
    def routing_key(self) -> str: ...


Values: TypeAlias = Iterator[tuple[object, ...]]


class Refusal(NamedTuple):
    """One thing that RabbitMQ refuses: the reply code, how its text begins behind "NAME - ", and what of a publish
    stands in it, nothing where it can't be said of that publish.

    `likewise` is whether another publish, too, would be refused, given the values in the text's end: by default where
    the same would be said of it.
    """

    code: int
    text: str
    values: Callable[[Published], Values]
    likewise: Callable[[Published, str], bool] | None = None


# --- what of a publish stands in a text -------------------------------------------------------------------------------


def _properties(published: Published) -> Properties:
    """As the broker has them."""
    message = published.message
    return decode_properties(message.encoded_properties() if isinstance(message, Message) else PERSISTENT_HEADER)


def _size(published: Published) -> int:
    message = published.message
    return memoryview(message.body if isinstance(message, Message) else message).nbytes


def _user_id(published: Published) -> str | None:
    message = published.message
    return message.user_id if isinstance(message, Message) else None


def _sizes(published: Published) -> Values:
    yield (_size(published),)


def _user_ids(published: Published) -> Values:
    user_id = _user_id(published)
    if user_id is not None:
        yield (user_id,)


def _expirations(published: Published) -> Values:
    expiration = _properties(published).expiration
    if expiration is not None:
        yield (expiration,)


def _delivery_modes(published: Published) -> Values:
    delivery_mode = _properties(published).delivery_mode
    if delivery_mode not in (None, 1, 2):
        yield (delivery_mode,)


def _no_lists_of_keys(published: Published) -> Values:
    headers = _properties(published).headers or {}
    for name in ("CC", "BCC"):  # (in which order RabbitMQ looks at them)
        if name in headers and not isinstance(headers[name], list):
            yield (name,)
            return


def _direct_reply_to(published: Published) -> Values:
    if _properties(published).reply_to == "amq.rabbitmq.reply-to":
        yield ()


def _exchanges(published: Published) -> Values:
    yield (published.exchange,)


def _resources(published: Published) -> Values:
    yield (published.exchange or "amq.default",)  # by which name permissions know the default exchange


def _topics(published: Published) -> Values:
    yield (published.routing_key, published.exchange)
    headers = _properties(published).headers or {}
    for name in ("CC", "BCC"):
        keys = headers.get(name)
        for key in keys if isinstance(keys, list) else ():
            yield (key, published.exchange)


def _is_too_large(published: Published, text: str) -> bool:
    limit = text.rpartition(" ")[2]
    return limit.isdecimal() and _size(published) > int(limit)


def _is_another_user(published: Published, text: str) -> bool:
    user_id = _user_id(published)
    is_told = text.endswith("'")  # else the text was cut
    return user_id is not None and is_told and not text.endswith(f" authenticated user was '{user_id}'")


# --- the table --------------------------------------------------------------------------------------------------------

_REFUSALS = (
    # in the order of RabbitMQ's checks: rabbit_channel:handle_method(#'basic.publish'{}), the same from 3.10 to 4.3
    Refusal(PRECONDITION_FAILED, "message size %s is larger than ", _sizes, _is_too_large),
    Refusal(ACCESS_REFUSED, "access to exchange '%s' in vhost '", _resources),  # from 3.13 on behind "write "
    Refusal(NOT_FOUND, "no exchange '%s' in vhost '", _exchanges),
    Refusal(ACCESS_REFUSED, "cannot publish to internal exchange '%s' in vhost '", _exchanges),
    Refusal(
        ACCESS_REFUSED, "access to topic '%s' in exchange '%s' in vhost '", _topics
    ),  # "write "; 4.0 and newer: CC and BCC too
    Refusal(
        PRECONDITION_FAILED, "user_id property set to '%s' but authenticated user was '", _user_ids, _is_another_user
    ),
    Refusal(PRECONDITION_FAILED, "fast reply consumer does not exist", _direct_reply_to),
    # what a `Message` can't have, though publishes made through `rabbitry.protocol` may
    Refusal(PRECONDITION_FAILED, "invalid expiration '%s': ", _expirations),
    Refusal(
        PRECONDITION_FAILED, "invalid message: {delivery_mode_unknown,%s}", _delivery_modes
    ),  # 4.0 and newer take any
    # in 3.10 the last check of all
    Refusal(PRECONDITION_FAILED, 'invalid message: {unacceptable_type_in_header,"%s",', _no_lists_of_keys),
)

_CUT = b"..."
"""How a text ends that was too long: a reply text has 255 octets at most."""


class _Said:
    """What the broker said, and which row of the table that is."""

    __slots__ = ("_octets", "_refusal", "_text", "is_cut")

    def __init__(self, refusal: Refusal, text: str) -> None:
        self._refusal = refusal
        self._text = text
        octets = _octets(text)
        self.is_cut = octets.endswith(_CUT)
        self._octets = octets.removesuffix(_CUT)

    @classmethod
    def by(cls, end: BaseException | None) -> _Said | None:
        """What the broker said as it refused a publish; None if this end is no refusal that the table knows."""
        if not isinstance(end, Closed) or end.method not in ("basic.publish", ""):
            return None
        text = (end.text.partition(" - ")[2] or end.text).removeprefix("write ")
        for refusal in _REFUSALS:
            if refusal.code == end.code and text.startswith(refusal.text.partition("%s")[0]):
                return cls(refusal, text)
        return None

    def of(self, published: Published) -> str | None:
        """The beginning of the text as it would be of this publish, if it is this one."""
        for values in self._refusal.values(published):
            text = self._refusal.text % values
            octets = _octets(text)
            if self._octets.startswith(octets) or (self.is_cut and octets.startswith(self._octets)):
                return text
        return None

    def is_like(self, published: Published) -> bool:
        """Whether this publish, too, would be refused so."""
        likewise = self._refusal.likewise
        return self.of(published) is not None or (likewise is not None and likewise(published, self._text))


def find_culprit(publishes: Sequence[Published], end: BaseException | None) -> int | None:
    """The index of the publish for which the channel was ended so; None where that can't be told.

    `publishes` are those of one channel that are not confirmed, in the order of publishing.
    """
    said = _Said.by(end)
    if said is None:
        return None
    fitting = ((index, text) for index, each in enumerate(publishes) if (text := said.of(each)) is not None)
    found = next(fitting, None)
    if found is None or (said.is_cut and any(text != found[1] for _, text in fitting)):
        return None
    return found[0]


def loss(index: int, culprit: int | None) -> Loss:
    """What the end of the channel makes of its publish at `index`, given the culprit's."""
    if culprit is None or index < culprit:
        return "unknown"
    return "refused" if index == culprit else "unsent"


def failure_of(published: Published, outcome: Loss, end: RabbitryError | None) -> PublishFailed:
    """The error of a publish that the end of its channel has struck."""
    arguments = published.message, published.exchange, published.routing_key
    failure: PublishFailed
    match outcome:
        case "refused":
            assert isinstance(end, Closed)
            failure = Refused(*arguments, end.code, end.text)
        case "unknown":
            failure = OutcomeUnknown(*arguments, str(end))
        case "unsent":
            failure = NotSent(*arguments, str(end))
    failure.__cause__ = end
    return failure


def is_like_refused(published: Published, end: BaseException | None) -> bool:
    """Whether a publish would be refused for the same reason as the one that a channel was ended for: sent beside
    others, it would end their channel again.
    """
    said = _Said.by(end)
    return said is not None and said.is_like(published)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
