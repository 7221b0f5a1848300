"""The query of a broker's URI: RabbitMQ's "URI query parameters", and what other clients' users write there.

What must stay true: a parameter of another client is taken where it means just what one of ours does, and else refused
with what there is instead. No message shows a part that may be the key's password.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from rabbitry._later import Later
from rabbitry._secrets import Secret
from rabbitry._values.durations import LONGEST_MS
from rabbitry.protocol.wire.constants import FRAME_MAX_SIZE, FRAME_MIN_SIZE

if TYPE_CHECKING:
    from urllib import parse as quoting
else:
    quoting = Later("urllib.parse")

__all__ = ["TLS_PARAMETERS", "decode", "parse_query"]


def decode(text: str, what: str) -> str:
    """Percent-decoding, strict: a stray % is more often an unescaped password than meant."""
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"the {what} has a '%' without two hexadecimal digits; a percent sign itself is written %25")
    try:
        return quoting.unquote_to_bytes(text).decode()
    except UnicodeError:  # which carries the text, and so must not be the context of what is raised
        pass
    raise ValueError(f"the {what} is not UTF-8, plain or behind its percent signs")


def _integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,10}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"must be an integer from {minimum} to {maximum}, not {text!r:.40}")
        return int(text)

    return parse


def _frame_max(text: str) -> int:
    value = _integer(0, FRAME_MAX_SIZE)(text)
    if 0 < value < FRAME_MIN_SIZE:
        raise ValueError(f"must be 0 (the broker's) or at least {FRAME_MIN_SIZE}, not {value}")
    return value


def _seconds(text: str) -> float:
    return _integer(1, LONGEST_MS)(text) / 1000


def _choice(choices: dict[str, bool]) -> Callable[[str], bool]:
    def parse(text: str) -> bool:
        if text not in choices:
            raise ValueError(f"must be {' or '.join(choices)}, not {text!r:.40}")
        return choices[text]

    return parse


def _text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _secret(text: str) -> Secret[str]:
    return Secret(_text(text))


_Parameters: TypeAlias = dict[str, tuple[str, Callable[[str], Any]]]


def _switch(text: str) -> bool:
    if text.lower() not in ("1", "0", "true", "false"):
        raise ValueError(f"must be true or false, not {text!r:.40}")
    return text.lower() in ("1", "true")


def _locale(text: str) -> None:
    if text != "en_US":
        raise ValueError(f"can't be chosen: brokers speak en_US, not {text!r:.40}")


_TLS: _Parameters = {
    "cacertfile": ("cacertfile", _text),
    "certfile": ("certfile", _text),
    "keyfile": ("keyfile", _text),
    "password": ("key_password", _secret),
    "verify": ("verify", _choice({"verify_peer": True, "verify_none": False})),
    "fail_if_no_peer_cert": ("fail_if_no_peer_cert", _choice({"true": True, "false": False})),
    "server_name_indication": ("server_name_indication", _text),
    "depth": ("depth", _integer(0, 255)),
}
_PARAMETERS: _Parameters = {
    "heartbeat": ("heartbeat", _integer(0, 65535)),
    "connection_timeout": ("connection_timeout", _seconds),
    "channel_max": ("channel_max", _integer(0, 65535)),
    "frame_max": ("frame_max", _frame_max),
    "auth_mechanism": ("auth_mechanism", _text),
    "name": ("name", _text),
    "connection_name": ("name", _text),
    "vhost": ("vhost", _text),
    **_TLS,
}
"""The parameters of the query: the attribute of `Address` each sets, and how it is read."""

_ELSEWHERE: _Parameters = {
    "auth": _PARAMETERS["auth_mechanism"],  # aio-pika
    "cafile": _TLS["cacertfile"],
    "ca_certs": _TLS["cacertfile"],  # kombu
    "channelMax": _PARAMETERS["channel_max"],  # amqplib of node.js
    "frameMax": _PARAMETERS["frame_max"],
    "no_verify_ssl": ("verify", lambda text: not _switch(text)),  # aio-pika
    "locale": ("locale", _locale),  # pika
    "ssl": ("ssl", _switch),  # kombu
}
"""What other clients call a parameter that means the same, and what says nothing that we wouldn't do."""

_RECONNECT = "is not for URLs: pass reconnect=Backoff(attempts=…, initial=…, maximum=…, deadline=…) to open_client"
_TIMEOUT = "has another name here: connection_timeout in milliseconds, or connect_timeout= in seconds, bounds all of it"
_CONTEXT = "is not for URLs: cacertfile, certfile, keyfile and verify are, or pass ssl_context="
_NEEDLESS = "is not one of this client's, and needless: leave it out"
_OWN_TIMEOUT = "is not one of this client's: bound what waits with anyio.fail_after(seconds), or timeout= in blocking"
_PREFETCH = "is not for URLs: pass prefetch= where you consume"

_BY_ADVICE: dict[str, str] = {
    _RECONNECT: "connection_attempts retry_delay reconnect_interval fail_fast max_retries recovery_attempts "
    "automatically_recover network_recovery_interval reconnect reconnect_delay retry retries",
    _TIMEOUT: "socket_timeout stack_timeout timeout connect_timeout handshake_timeout connectionTimeout",
    _OWN_TIMEOUT: "blocked_connection_timeout read_timeout write_timeout rpc_timeout",
    _CONTEXT: "ssl_options ssl_context capath cadata ssl_version cert_reqs ciphers tls",
    _NEEDLESS: "noDelay keepAlive keepAliveDelay tcp_options backpressure_detection heartbeat_monitoring "
    "happy_eyeballs_delay interleave failover_strategy confirm_publish publisher_confirms",
    _PREFETCH: "prefetch prefetch_count prefetchcount",
    "is not for URLs: pass client_properties=": "client_properties clientProperties",
    "is called auth_mechanism here": "login_method mechanism",
    "is called heartbeat here": "requested_heartbeat requestedHeartbeat",
    "is the path here: amqp://host/name": "virtual_host virtualHost",
}
_INSTEAD = {name: advice for advice, names in _BY_ADVICE.items() for name in names.split()}
"""What other clients have in their URLs, and what there is instead: pika, aio-pika, kombu, bunny, amqplib, EasyNetQ."""

TLS_PARAMETERS = {attribute for attribute, _ in _TLS.values()}


def parse_query(query: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    arguments_seen: set[str] = set()
    for item in filter(None, query.split("&")):
        name, equals, text = item.partition("=")
        arguments_seen.add(name)
        if name in _INSTEAD:
            raise ValueError(f"query parameter {name} {_INSTEAD[name]}")
        if name not in _PARAMETERS and name not in _ELSEWHERE:
            may_be_secret = "password" in arguments_seen or not equals or not re.fullmatch("[a-z_]{1,40}", name)
            shown = "" if may_be_secret else f" {name}"
            raise ValueError(f"unknown query parameter{shown}; there are {', '.join(_PARAMETERS)}")
        attribute, parse = _PARAMETERS.get(name) or _ELSEWHERE[name]
        try:
            value = parse(decode(text, "value"))
        except ValueError as exc:
            raise ValueError(f"query parameter {name}: {exc}") from None
        if attribute == "auth_mechanism":
            arguments[attribute] = (*arguments.get(attribute, ()), value)
        elif attribute in arguments:
            raise ValueError(f"query parameter {name} occurs twice")
        else:
            arguments[attribute] = value
    return arguments
