"""The differences that stay, and why: by case and version ("" for all)."""

from __future__ import annotations

DIFFERENCES: dict[tuple[str, str], str] = {
    ("a_quorum_queue_knows_a_consumer_again_that_has_something_to_settle", "3.10"): "RabbitMQ 3.10 crashes (541) at a "
    "consumer tag that was cancelled and has something to settle",
    (
        "a_classic_queue_comes_back_as_a_quorum_one",
        "",
    ): "RabbitMQ crashes (541) where a channel knows a queue as one of another type",
    ("a_quorum_queue_comes_back_as_a_classic_one_in_a_transaction", ""): "the same",
    (
        "what_was_got_comes_back_ahead_of_what_was_delivered",
        "",
    ): "RabbitMQ takes back what was got and what each consumer "
    "had one after the other, the embedded broker at once: limits of length may drop more",
    ("direct_reply_to_is_declared", "4.3"): "RabbitMQ 4.3 crashes (541) at a reply name that it has not made up",
}
