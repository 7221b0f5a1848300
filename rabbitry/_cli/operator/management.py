"""What the broker tells an operator: by the management HTTP API, or by rabbitmqctl. Both give rows of the same names.

What must stay true: TLS is verified, credentials go to the host that was named and nowhere else (no redirects, no
proxies), and no error shows them.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import shlex
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlencode, urlsplit

from rabbitry._cli.output import FAILED, UNREACHABLE, USAGE, CommandError

TIMEOUT = 30.0  # seconds
PORT, TLS_PORT = 15672, 15671

Row = dict[str, Any]

_BLANK: Row = dict.fromkeys(("name", "vhost", "source", "destination", "destination_type", "routing_key"), "")
"""What each kind of row is known by; that of a connection which is being opened or closed may lack some of it."""

_COLUMNS = {
    "queues": "name type durable auto_delete exclusive arguments state memory consumers messages_ready "
    "messages_unacknowledged",
    "consumers": "",
    "exchanges": "name type durable auto_delete internal arguments",
    "bindings": "source_name destination_name destination_kind routing_key arguments",
    "connections": "name user vhost peer_host peer_port state channels ssl protocol client_properties",
}
"""The columns that rabbitmqctl is asked for, of each kind of row."""


class Source(Protocol):
    """Where the rows of the lists come from."""

    def rows(self, kind: str, **query: int) -> list[Row]:
        """All queues, consumers, exchanges, bindings or connections of the virtual host, or of all of them."""
        ...


def open_source(arguments: argparse.Namespace) -> Source:
    """The source that the command line asks for."""
    try:
        parts = urlsplit(arguments.url)
        if parts.scheme not in ("amqp", "amqps", "amqp+unix") or parts.port == 0 or "@" in parts.path:
            raise ValueError
    except ValueError:
        raise CommandError(
            "the broker's URL is no AMQP URL (amqp://user:password@host:port/vhost, where '/' in a password is written "
            "%2F, and '@' %40)",
            USAGE,
        ) from None
    vhost = None if arguments.all_vhosts else unquote(parts.path.removeprefix("/")) or "/"
    if parts.scheme == "amqp+unix" and vhost is not None:
        vhost = "/"
    if arguments.rabbitmqctl is not None:
        return Rabbitmqctl(tuple(shlex.split(arguments.rabbitmqctl)), vhost)
    is_tls = parts.scheme == "amqps"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "localhost"
    url = (
        arguments.management
        or os.environ.get("RABBITRY_MANAGEMENT_URL")
        or f"http{'s' if is_tls else ''}://{host}:{TLS_PORT if is_tls else PORT}"
    )
    user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
    return Api.at(url, user, password, vhost, arguments.cacert)


# --- the HTTP API ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Api:
    """The management's HTTP API."""

    url: str
    """Without user and password."""
    authorization: str
    vhost: str | None
    context: ssl.SSLContext | None

    def __repr__(self) -> str:
        return f"<Api {self.url}>"

    @classmethod
    def at(cls, url: str, user: str, password: str, vhost: str | None, cacert: str | None) -> Api:
        """The API at this URL, whose own user and password win over those given. CommandError if it is none."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        is_url = parts.scheme in ("http", "https") and not (parts.query or parts.fragment)
        if not is_url or not parts.hostname or "@" in parts.path:  # of a password with a "/" in it
            raise CommandError(
                "the management's URL is not such as http://user:password@host:15672; '/' in a password is written %2F",
                USAGE,
            )
        if cacert is not None and parts.scheme != "https":
            raise CommandError("--cacert is for an https:// management", USAGE)
        context = None
        if parts.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=cacert)
            except OSError as error:
                raise CommandError(f"--cacert {cacert}: {error}", USAGE) from None
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        where = f"{parts.scheme}://{host}:{port or (TLS_PORT if context else PORT)}{parts.path.rstrip('/')}"
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        return cls(where, f"Basic {token}", vhost, context)

    def rows(self, kind: str, **query: int) -> list[Row]:
        """All rows of a kind, by one GET."""
        path = kind
        if self.vhost is not None:
            vhost = quote(self.vhost, safe="")
            path = f"vhosts/{vhost}/connections" if kind == "connections" else f"{kind}/{vhost}"
        found = self._get(f"{self.url}/api/{path}" + (f"?{urlencode(query)}" if query else ""))
        if not isinstance(found, list):
            raise CommandError(f"{self.url} answered something else than a list of {kind}", UNREACHABLE)
        return [_BLANK | row for row in found if isinstance(row, dict)]

    def _get(self, url: str) -> Any:
        handlers: list[Any] = [urllib.request.ProxyHandler({}), _NoRedirects()]
        if self.context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=self.context))
        request = urllib.request.Request(url, headers={"Authorization": self.authorization})
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error.code) from None
        except urllib.error.URLError as error:
            raise CommandError(
                f"no management at {self.url}: {error.reason}. It is the plugin rabbitmq_management; --management says "
                "where, --rabbitmqctl does without",
                UNREACHABLE,
            ) from None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            what = str(error) or type(error).__name__
            raise CommandError(
                f"{self.url} did not answer as RabbitMQ's management does: {what}", UNREACHABLE
            ) from None

    def _refused(self, code: int) -> CommandError:
        if code == 401:
            text = "refuses this user or password, or the user lacks the tag `management`"
            return CommandError(f"the management at {self.url} {text}", UNREACHABLE)
        if code == 404:
            return CommandError(f"there is no virtual host {self.vhost!r} that this user may see", FAILED)
        return CommandError(f"the management at {self.url} answered {code}", UNREACHABLE)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, which would take the credentials along."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


# --- rabbitmqctl ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rabbitmqctl:
    """A local node, asked by its own tool."""

    command: tuple[str, ...]
    vhost: str | None

    def rows(self, kind: str, **query: int) -> list[Row]:
        """All rows of a kind, by `rabbitmqctl list_…`, which has no history, whatever the query."""
        vhosts = [self.vhost] if self.vhost is not None else [row["name"] for row in self._list("list_vhosts", "name")]
        if kind == "connections":
            rows = self._list("list_connections", *_COLUMNS[kind].split())
            return [_renamed(row) for row in rows if row.get("vhost") in vhosts]
        return [
            {**_renamed(row), "vhost": vhost}
            for vhost in vhosts
            for row in self._list(f"list_{kind}", "-p", vhost, *_COLUMNS[kind].split())
        ]

    def _list(self, *words: str) -> list[Row]:
        command = [*self.command, "--quiet", "--formatter", "json", *words]
        try:
            done = subprocess.run(command, capture_output=True, timeout=2 * TIMEOUT, check=False)
        except OSError as error:
            raise CommandError(f"{self.command[0] if self.command else ''}: {error.strerror}", UNREACHABLE) from None
        except subprocess.TimeoutExpired:
            raise CommandError("rabbitmqctl did not end within a minute", UNREACHABLE) from None
        if done.returncode:
            text = (done.stderr or done.stdout).decode(errors="replace").strip().partition("\n")[0]
            raise CommandError(f"rabbitmqctl {words[0]} failed ({done.returncode}): {text}", UNREACHABLE)
        try:
            rows: list[Row] = json.loads(done.stdout or b"[]")
        except ValueError:
            raise CommandError(f"rabbitmqctl {words[0]} printed no JSON", UNREACHABLE) from None
        return rows


def _renamed(row: Mapping[str, Any]) -> Row:
    """The row with the names and types of the HTTP API."""
    names = {"source_name": "source", "destination_name": "destination", "destination_kind": "destination_type"}
    renamed: Row = {names.get(name, name): value for name, value in row.items()}
    for name in ("arguments", "client_properties"):
        if isinstance(renamed.get(name), list):  # an empty table is an empty list, others list [key, type, value]
            renamed[name] = {each[0]: each[-1] for each in renamed[name] if isinstance(each, list)}
    if "queue_name" in renamed:
        renamed["queue"] = {"name": renamed.pop("queue_name")}
    return renamed
