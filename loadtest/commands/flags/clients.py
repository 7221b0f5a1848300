"""Who takes part: the numbers of clients, connections, queues and servers."""

from __future__ import annotations

import argparse

from loadtest.commands.parsing import number
from loadtest.scenarios.completing import DEFAULT_CLIENTS


def add_clients(parser: argparse.ArgumentParser) -> None:
    """Adds the group's flags."""
    add = parser.add_argument_group(
        "clients (each has a channel, and a connection of its own unless --connections is less)"
    ).add_argument
    text = f"clients altogether: 45%% produce, 45%% consume, 10%% call RPC (default {DEFAULT_CLIENTS})"
    add("--clients", **number(), help=text)
    add("--producers", **number(least=0), help="of these, clients that publish with confirms")
    add("--consumers", **number(least=0), help="of these, clients that consume and acknowledge")
    add("--callers", **number(least=0), help="of these, clients that call RPC")
    add("--connections", **number(), help="sockets that the clients share (default: one each)")
    add("--channels-per-connection", **number(), help="how many clients share a socket, instead of --connections")
    add("--queues", **number(), help="queues for producers and consumers (default: one for each 100 producers)")
    text = "RPC servers, on connections beside the clients' (default: one for each 250 callers)"
    add("--servers", **number(), help=text)
