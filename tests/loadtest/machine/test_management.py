"""What is read of a management API, against a real one and against strange ones."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from loadtest.machine.management import Management, ManagementFailed


class Answers(BaseHTTPRequestHandler):
    """Answers as it is told, and notes who asked."""

    answers: ClassVar[dict[str, tuple[int, str]]] = {}
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        code, text = self.answers.get(self.path, (404, "{}"))
        self.send_response(code)
        if code == 302:
            self.send_header("Location", text)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    Answers.answers, Answers.asked = {}, []
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://me:open%20sesame@127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_reading_adds_up_the_nodes(api: str) -> None:
    Answers.answers = {
        "/api/nodes": (200, json.dumps([{"mem_used": 100}, {"mem_used": 50}, {}])),
        "/api/overview": (
            200,
            json.dumps({"queue_totals": {"messages": 9}, "message_stats": {"publish": 5, "ack": 4}}),
        ),
    }
    reading = Management(api).read()
    assert (reading.memory_bytes, reading.cpu_seconds, reading.messages) == (150, None, 9)
    assert reading.counters == {"published": 5, "confirmed": 0, "delivered": 0, "acknowledged": 4}
    assert Answers.asked[0][1] == "Basic bWU6b3BlbiBzZXNhbWU="


@pytest.mark.parametrize("nodes", ['{"error": "x"}', "3", '["node"]', '[{"mem_used": "much"}]'])
def test_json_that_is_something_else(api: str, nodes: str) -> None:
    Answers.answers = {"/api/nodes": (200, nodes), "/api/overview": (200, "{}")}
    with pytest.raises(ManagementFailed, match="answers something else"):
        Management(api).read()


ASKED = "/api/queues/a%2Fb?columns=name,consumers&name=%5Eloadtest%5C.&use_regex=true&sort=name&page={}&page_size=500"


def test_names_of_a_virtual_host_are_asked_for_by_pages(api: str) -> None:
    Answers.answers = {
        ASKED.format(number): (
            200,
            json.dumps({"page_count": 2, "items": [{"name": f"q{number}", "consumers": number}]}),
        )
        for number in (1, 2)
    }
    assert Management(api).names("queues", "a/b", "loadtest.") == [("q1", 1), ("q2", 2)]


@pytest.mark.parametrize(
    "answer",
    ["[]", "3", "{}", '{"page_count": 1}', '{"page_count": 1, "items": [3]}', '{"page_count": [], "items": []}'],
)
def test_names_that_are_something_else(api: str, answer: str) -> None:
    Answers.answers = {ASKED.format(1): (200, answer)}
    with pytest.raises(ManagementFailed, match="answers something else"):
        Management(api).names("queues", "a/b", "loadtest.")


def test_statistics_that_are_switched_off_are_no_zero(api: str) -> None:
    Answers.answers = {"/api/nodes": (200, '[{"name": "a", "running": true}]'), "/api/overview": (200, "{}")}
    assert Management(api).read().memory_bytes is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((401, "{}"), "answers 401 Unauthorized .does the user have a management tag"),
        ((200, "<html>"), "answers no JSON"),
        ((302, "http://127.0.0.1:1/elsewhere"), "answers 302"),
        ((500, ""), "answers 500"),
    ],
)
def test_strange_answers(api: str, answer: tuple[int, str], text: str) -> None:
    Answers.answers = {"/api/nodes": answer}
    with pytest.raises(ManagementFailed, match=text) as raised:
        Management(api).read()
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize("greeting", [b"AMQP\x00\x00\x09\x01", b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\x15\x03\x01"])
def test_what_speaks_no_http(greeting: bytes) -> None:
    """Such as the broker's AMQP port: a slip that must not end a run."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(greeting)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(ManagementFailed, match=r"answers no HTTP|answers no JSON") as raised:
            Management(f"http://me:sesame@127.0.0.1:{listener.getsockname()[1]}").read()
        thread.join()
    assert "sesame" not in str(raised.value)


def test_nobody_answers() -> None:
    with pytest.raises(ManagementFailed, match=r"http://127\.0\.0\.1:1 doesn't answer"):
        Management("http://me:sesame@127.0.0.1:1").read()


@pytest.mark.parametrize("url", ["", "amqp://h", "http://", "http://h:99999", "localhost:15672"])
def test_what_is_no_url_of_an_api(url: str) -> None:
    with pytest.raises(ValueError, match="--management"):
        Management(url)
