"""How many of the clients do what, and how many queues and servers they are given, where nobody said."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.scenarios.settings import Role


def share_clients(clients: int, asked: Mapping[Role, int | None]) -> dict[Role, int]:
    """Shares the clients out among the roles for which no number was asked: 45 % produce, 45 % consume, 10 % call.

    A single one produces. ValueError if the numbers that were asked for don't fit.
    """
    weights = {Role.PRODUCER: 45, Role.CONSUMER: 45, Role.CALLER: 10}
    shares = {role: number for role, number in asked.items() if number is not None}
    left = clients - sum(shares.values())
    open_roles = [role for role in Role if role not in shares]
    if left < 0 or (left and not open_roles):
        parts = " + ".join(f"{number} {role.value}s" for role, number in shares.items())
        raise ValueError(f"{parts} don't make {clients} clients: say how many of them produce, consume and call")
    while open_roles:  # each share is rounded, the last role takes what remains
        role = open_roles.pop(0)
        total = weights[role] + sum(weights[other] for other in open_roles)
        shares[role] = round(left * weights[role] / total) or int(role is Role.PRODUCER and left == 1)
        left -= shares[role]
    return {role: shares[role] for role in Role}


def choose_queues(producers: int, consumers: int) -> int:
    """One queue for each hundred producers, never more than there are consumers; none if there are neither."""
    if not producers and not consumers:
        return 0
    wanted = max(1, -(-producers // 100))
    return min(wanted, consumers) if consumers else wanted


def choose_servers(callers: int) -> int:
    """A few servers: one for each 250 callers, at most 8."""
    return min(8, -(-callers // 250))
