"""The differences that stay, and why: by case and version ("" for all)."""

from __future__ import annotations

DIFFERENCES: dict[tuple[str, str], str] = {
    **{
        ("prefetch_of_channel_and_consumer", version): "with both limits RabbitMQ hands out one message more than the "
        "channel's limit; why is not known"
        for version in ("3.10", "4.0")
    },
    ("direct_reply_to_is_declared", "4.3"): "RabbitMQ 4.3 crashes (541) at a reply name that it has not made up",
}
