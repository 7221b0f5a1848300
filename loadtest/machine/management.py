"""What a broker says of itself over its management HTTP API: memory, processor time, queues, and its own counters.

What must stay true: TLS is verified, credentials go to the host that was named and nowhere else (no redirects, no
proxies), and no error shows them. Every question has a time-out: a broker under load may take long to answer.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from loadtest.urls import redact

TIMEOUT = 5.0
"""Seconds for each question."""
LARGEST = 64 * 1024 * 1024
"""Bytes of an answer, at most: 100,000 queues take about half of it."""
PAGE = 500
"""Names in a page: the most that RabbitMQ gives."""
PROMETHEUS_PORT = 15692
"""Where the plugin rabbitmq_prometheus listens unless it is told otherwise."""

_RUNTIME = re.compile(r"^erlang_vm_statistics_runtime_milliseconds(?:\{[^}]*\})? ([0-9.e+]+)$", re.M)
_COUNTERS = {"published": "publish", "confirmed": "confirm", "delivered": "deliver_get", "acknowledged": "ack"}


class ManagementFailed(Exception):
    """The API could not be asked, or answered something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the broker said at one moment, of all its nodes."""

    memory_bytes: int | None
    """None where it has its statistics switched off."""
    cpu_seconds: float | None
    """Processor time since the nodes began; None where no node's plugin rabbitmq_prometheus answers."""
    messages: int | None
    """In all queues of the cluster, as of its latest sample."""
    counters: Mapping[str, int]
    """Its own counters since it began, as of its latest sample: published, confirmed, delivered, acknowledged."""


class Management:
    """A management API at ``http://user:password@host:15672``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_one = False
        if not is_one:
            raise ValueError(f"--management {redact(url)!r}: write it as http://user:password@host:15672")
        self._host = parts.hostname or ""
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._base = f"{parts.scheme}://{host}:{parts.port or (15671 if parts.scheme == 'https' else 15672)}"
        self._path = parts.path.rstrip("/")
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        self._credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._prometheus = f"http://{host}:{PROMETHEUS_PORT}/metrics" if parts.scheme == "http" else None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    @property
    def name(self) -> str:
        """Its address, without user and password."""
        return self._base + self._path

    def read(self) -> Reading:
        """Asks all that a run wants to know. ManagementFailed if it doesn't answer, or refuses the user."""
        nodes, overview = self._ask("/api/nodes"), self._ask("/api/overview")
        try:
            queued, stats = overview.get("queue_totals") or {}, overview.get("message_stats") or {}
            return Reading(
                memory_bytes=sum(known)
                if (known := [int(n["mem_used"]) for n in nodes if n.get("mem_used")])
                else None,
                cpu_seconds=self._read_runtime(len(nodes)),
                messages=queued.get("messages"),
                counters={ours: int(stats.get(theirs) or 0) for ours, theirs in _COUNTERS.items()},
            )
        except (AttributeError, TypeError, ValueError):
            raise self._strange() from None

    def names(self, kind: str, vhost: str, beginning: str) -> list[tuple[str, int]]:
        """The names of a virtual host's ``queues`` or ``exchanges`` that begin so, and how many consumers each has.

        It asks for pages, which a broker with many thousands of queues answers in time.
        """
        pattern = quote(f"^{re.escape(beginning)}", safe="")
        columns = "name,consumers" if kind == "queues" else "name"
        asked = f"/api/{kind}/{quote(vhost, safe='')}?columns={columns}&name={pattern}&use_regex=true&sort=name"
        found: list[tuple[str, int]] = []
        page, pages = 1, 1
        while page <= pages:
            answer = self._ask(f"{asked}&page={page}&page_size={PAGE}")
            try:
                pages, page = int(answer["page_count"]), page + 1
                found += [(str(row["name"]), int(row.get("consumers") or 0)) for row in answer["items"]]
            except (AttributeError, KeyError, TypeError, ValueError):
                raise self._strange() from None
        return found

    def _read_runtime(self, nodes: int) -> float | None:
        """Processor time that the Erlang runtime has used: of one node, as the plugin tells of its own alone."""
        if self._prometheus is None or nodes != 1:
            return None
        try:
            with self._opener.open(self._prometheus, timeout=TIMEOUT) as answer:
                found = _RUNTIME.search(answer.read(LARGEST).decode("utf-8", "replace"))
        except (OSError, ValueError, HTTPException):
            return None
        return None if found is None else float(found[1]) / 1000

    def _strange(self) -> ManagementFailed:
        return ManagementFailed(f"{self.name} answers something else: is this RabbitMQ's management API?")

    def _ask(self, path: str) -> Any:
        request = urllib.request.Request(self.name + path, headers={"Authorization": f"Basic {self._credentials}"})
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read(LARGEST))
        except urllib.error.HTTPError as error:
            error.close()
            refused = " (does the user have a management tag?)" if error.code in (401, 403) else ""
            raise ManagementFailed(f"{self.name} answers {error.code} {error.reason}{refused}") from None
        except json.JSONDecodeError:
            raise ManagementFailed(f"{self.name} answers no JSON: is this RabbitMQ's management API?") from None
        except HTTPException:  # such as an AMQP port's answer
            raise ManagementFailed(f"{self.name} answers no HTTP: is this RabbitMQ's management API?") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ManagementFailed(f"{self.name} doesn't answer: {reason}") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Credentials go nowhere else."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """As urllib's: None ends in an HTTPError."""
        return
