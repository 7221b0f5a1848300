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
        "bindings_differ_in_the_size_of_a_number",
        "",
    ): "RabbitMQ takes two bindings for different ones whose arguments have the same number in another size, the "
    "embedded broker for one: numbers have no size once they are decoded",
    (
        "headers_that_are_deep_and_a_delivery_that_fails",
        "",
    ): "RabbitMQ counts deliveries in headers of any depth; the embedded broker passes headers on as they are that "
    "have more than 64 tables one in another, or more than 4,096 values",
    ("headers_that_are_deep_and_a_death", ""): "the same for x-death",
    ("a_quorum_queue_counts_a_consumer_that_is_called_as_a_get_is_numbered", ""): "who gets a message from a quorum "
    "queue is called by the number of its delivery there: RabbitMQ takes a consumer of the same channel whose tag is "
    "that number for the same one",
    ("direct_reply_to_is_declared", "4.3"): "RabbitMQ 4.3 crashes (541) at a reply name that it has not made up",
}
