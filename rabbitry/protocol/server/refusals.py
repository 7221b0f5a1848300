"""What a broker refuses, and with which reply: the code, its name and the text as RabbitMQ builds them.

What must stay true: a text fits a short string (255 octets) and is UTF-8, whatever it quotes. `Refusal` is raised by
whatever decides, down to a queue, and becomes a close at the connection alone.
"""

from __future__ import annotations

__all__ = ["NAMES", "SOFT", "Refusal", "cut_text", "octets_shown", "term"]

NAMES = {
    311: "CONTENT_TOO_LARGE",
    312: "NO_ROUTE",
    313: "NO_CONSUMERS",
    320: "CONNECTION_FORCED",
    402: "INVALID_PATH",
    403: "ACCESS_REFUSED",
    404: "NOT_FOUND",
    405: "RESOURCE_LOCKED",
    406: "PRECONDITION_FAILED",
    501: "FRAME_ERROR",
    502: "SYNTAX_ERROR",
    503: "COMMAND_INVALID",
    504: "CHANNEL_ERROR",
    505: "UNEXPECTED_FRAME",
    506: "RESOURCE_ERROR",
    530: "NOT_ALLOWED",
    540: "NOT_IMPLEMENTED",
    541: "INTERNAL_ERROR",
}
"""The reply codes of AMQP 0-9-1 by the names that RabbitMQ's texts begin with."""

SOFT = frozenset({311, 312, 313, 403, 404, 405, 406})
"""The codes that close a channel; the others close the connection."""

LONGEST = 255


class Refusal(Exception):
    """A command that is not carried out. `ids` are class and method, by default those of the command at hand."""

    def __init__(self, code: int, explanation: str, ids: tuple[int, int] | None = None) -> None:
        super().__init__(code, explanation)
        self.code = code
        self.explanation = explanation
        self.ids = ids

    @property
    def is_hard(self) -> bool:
        """Whether it ends the connection rather than the channel."""
        return self.code not in SOFT

    @property
    def text(self) -> str:
        """The reply text, of any length."""
        name = NAMES[self.code]
        return f"{name} - {self.explanation}" if self.explanation else name


def cut_text(text: str) -> str:
    """A reply text as RabbitMQ shortens it: at most 255 octets, "..." for what is left out."""
    octets = text.encode("utf-8", "replace")
    if len(octets) > LONGEST:
        octets = octets[: LONGEST - 3] + b"..."
    return octets.decode("utf-8", "ignore")


def term(octets: bytes) -> str:
    """A binary as Erlang prints it: `<<"text">>` or `<<0,1,255>>`."""
    if octets and all(32 <= octet < 127 for octet in octets):
        return '<<"' + octets.decode("ascii").replace("\\", "\\\\").replace('"', '\\"') + '">>'
    return f"<<{','.join(map(str, octets))}>>"


def octets_shown(payload: bytes) -> str:
    """The beginning of a frame that could not be understood, for a reply text."""
    if len(payload) <= 16:
        return f"all octets = {term(payload)}"
    return f"first 16 octets = {term(payload[:16])}"
