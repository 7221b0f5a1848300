"""Broker URIs: the examples of RabbitMQ's specification, every query parameter, and errors that keep the password."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabbitry._secrets import Secret
from rabbitry._values.address import Address, parse_uri

PARTS = ("username", "password", "host", "port", "virtual_host")
GUEST = ("guest", "guest")


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        # Appendix A of the specification, with defaults for what is absent.
        ("amqp://user:pass@host:10000/vhost", ("user", "pass", "host", 10000, "vhost")),
        ("amqp://user%61:%61pass@ho%61st:10000/v%2fhost", ("usera", "apass", "hoast", 10000, "v/host")),
        ("amqp://", (*GUEST, "localhost", 5672, "/")),
        ("amqp://:@/", ("", "", "localhost", 5672, "/")),
        ("amqp://user@", ("user", "guest", "localhost", 5672, "/")),
        ("amqp://user:pass@", ("user", "pass", "localhost", 5672, "/")),
        ("amqp://host", (*GUEST, "host", 5672, "/")),
        ("amqp://:10000", (*GUEST, "localhost", 10000, "/")),
        ("amqp:///vhost", (*GUEST, "localhost", 5672, "vhost")),
        ("amqp://host/", (*GUEST, "host", 5672, "/")),  # the deviation: "" by the specification
        ("amqp://host/%2F", (*GUEST, "host", 5672, "/")),
        ("amqp://host//", (*GUEST, "host", 5672, "/")),  # kombu's way to write it
        ("amqp://user:pass@host:5672//?heartbeat=5", ("user", "pass", "host", 5672, "/")),
        ("amqp://[::1]", (*GUEST, "::1", 5672, "/")),
        # and more
        ("amqps://host", (*GUEST, "host", 5671, "/")),
        ("AMQP://host", (*GUEST, "host", 5672, "/")),
        ("amqp://host:", (*GUEST, "host", 5672, "/")),
        ("amqp://host:65535", (*GUEST, "host", 65535, "/")),
        ("amqp://user:@host", ("user", "", "host", 5672, "/")),
        ("amqp://user:a:b@host", ("user", "a:b", "host", 5672, "/")),
        ("amqp://user:p@ss@host", ("user", "p@ss", "host", 5672, "/")),
        ("amqp://us%20er:p%40%2F%25%3a@host", ("us er", "p@/%:", "host", 5672, "/")),
        ("amqp://user:a+b@host/c+d", ("user", "a+b", "host", 5672, "c+d")),
        ("amqp://user:pÄss@host/%C3%A4", ("user", "pÄss", "host", 5672, "ä")),
        ("amqp://127.0.0.1:1/a%2Fb%2F", (*GUEST, "127.0.0.1", 1, "a/b/")),
        ("amqp://[2001:db8::1]:5673/v", (*GUEST, "2001:db8::1", 5673, "v")),
        ("amqp://[fe80::1%25eth0]/", (*GUEST, "fe80::1%eth0", 5672, "/")),
        ("amqp://host?", (*GUEST, "host", 5672, "/")),
        ("amqp://host/v?heartbeat=5", (*GUEST, "host", 5672, "v")),
        ("amqp://host?heartbeat=5", (*GUEST, "host", 5672, "/")),
    ],
)
def test_parts(uri: str, parts: tuple[Any, ...]) -> None:
    address = parse_uri(uri)
    values = [getattr(address, name) for name in PARTS]
    assert tuple(value.reveal() if isinstance(value, Secret) else value for value in values) == parts
    assert address.tls == (address.scheme == "amqps")
    assert address.unix_path is None


def test_absent_parameters_say_nothing() -> None:
    assert parse_uri("amqp://h") == Address(scheme="amqp", host="h", port=5672)


@pytest.mark.parametrize(
    ("query", "attribute", "value"),
    [
        ("heartbeat=5", "heartbeat", 5),
        ("heartbeat=0", "heartbeat", 0),
        ("connection_timeout=10000", "connection_timeout", 10.0),
        ("connection_timeout=1500", "connection_timeout", 1.5),
        ("channel_max=65535", "channel_max", 65535),
        ("frame_max=0", "frame_max", 0),
        ("frame_max=4096", "frame_max", 4096),
        ("auth_mechanism=external", "auth_mechanism", ("external",)),
        ("auth_mechanism=plain&auth_mechanism=amqplain", "auth_mechanism", ("plain", "amqplain")),
        ("name=billing", "name", "billing"),
        ("connection_name=bill%20ing%26", "name", "bill ing&"),
        ("&name=a=b&", "name", "a=b"),
        ("name=a+b", "name", "a+b"),
        ("cacertfile=/etc/ca.pem", "cacertfile", "/etc/ca.pem"),
        ("certfile=%2Fetc%2Fc.pem", "certfile", "/etc/c.pem"),
        ("keyfile=k.pem", "keyfile", "k.pem"),
        ("password=s%26cret", "key_password", Secret("s&cret")),
        ("verify=verify_peer", "verify", True),
        ("verify=verify_none", "verify", False),
        ("fail_if_no_peer_cert=true", "fail_if_no_peer_cert", True),
        ("fail_if_no_peer_cert=false", "fail_if_no_peer_cert", False),
        ("server_name_indication=broker.example", "server_name_indication", "broker.example"),
        ("depth=2", "depth", 2),
    ],
)
def test_query(query: str, attribute: str, value: Any) -> None:
    address = parse_uri(f"amqps://host/?{query}")
    assert getattr(address, attribute) == value
    assert type(getattr(address, attribute)) is type(value)


@pytest.mark.parametrize(
    ("query", "ours"),
    [
        ("auth=plain", "auth_mechanism=plain"),
        ("cafile=/ca.pem", "cacertfile=/ca.pem"),
        ("ca_certs=/ca.pem", "cacertfile=/ca.pem"),
        ("channelMax=10", "channel_max=10"),
        ("frameMax=4096", "frame_max=4096"),
        ("no_verify_ssl=1", "verify=verify_none"),
        ("no_verify_ssl=false", "verify=verify_peer"),
        ("locale=en_US", ""),
        ("ssl=true&locale=en_US", ""),
        ("ssl=1", ""),
        ("heartbeat=60&locale=en_US&frameMax=0", "heartbeat=60&frame_max=0"),
    ],
)
def test_what_other_clients_call_the_same(query: str, ours: str) -> None:
    assert parse_uri(f"amqps://host/?{query}") == parse_uri(f"amqps://host/?{ours}")


def test_what_is_in_the_clear_may_say_so() -> None:
    assert parse_uri("amqp://host/?ssl=false") == parse_uri("amqp://host/?ssl=0") == parse_uri("amqp://host")


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("connection_attempts", r"reconnect=Backoff\(attempts="),
        ("retry_delay", r"reconnect=Backoff\("),
        ("reconnect_interval", r"reconnect=Backoff\("),
        ("fail_fast", r"reconnect=Backoff\("),
        ("socket_timeout", "connection_timeout in milliseconds, or connect_timeout= in seconds"),
        ("stack_timeout", "connect_timeout="),
        ("timeout", "connect_timeout="),
        ("blocked_connection_timeout", r"anyio\.fail_after"),
        ("ssl_options", "cacertfile, certfile, keyfile and verify are, or pass ssl_context="),
        ("cadata", "ssl_context="),
        ("happy_eyeballs_delay", "leave it out"),
        ("keepAlive", "leave it out"),
        ("client_properties", "client_properties="),
        ("prefetch", "prefetch="),
        ("virtual_host", "the path here: amqp://host/name"),
    ],
)
def test_what_other_clients_have_is_named_with_what_to_use(name: str, instead: str) -> None:
    with pytest.raises(ValueError, match=f"query parameter {name} is .*{instead}|parameter {name} has .*{instead}"):
        parse_uri(f"amqps://host/?heartbeat=5&{name}=s3cret")
    with pytest.raises(ValueError) as raised:
        parse_uri(f"amqp://user:word@host/?{name}=s3cret")
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "path", "virtual_host"),
    [
        ("amqp+unix:///run/rabbitmq.sock", "/run/rabbitmq.sock", "/"),
        ("amqp+unix:///run/a%20b?vhost=jobs", "/run/a b", "jobs"),
        ("amqp+unix:///run/x?vhost=%2F&heartbeat=1", "/run/x", "/"),
        ("amqp+unix:///run/x?vhost=a/b", "/run/x", "a/b"),
    ],
)
def test_unix_sockets(uri: str, path: str, virtual_host: str) -> None:
    address = parse_uri(uri)
    assert (address.unix_path, address.virtual_host, address.host, address.port, address.tls) == (
        path,
        virtual_host,
        "",
        0,
        False,
    )


def test_unix_sockets_with_credentials() -> None:
    address = parse_uri("amqp+unix://user:secret@/run/x")
    assert (address.username, address.password.reveal(), address.unix_path) == ("user", "secret", "/run/x")


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("", "begins with amqp://, amqps://, amqp\\+unix://"),
        ("localhost", "begins with amqp://"),
        ("localhost:5672", "begins with amqp://"),
        ("//localhost", "begins with amqp://"),
        ("amqp:localhost", "begins with amqp://"),
        ("amqp:/localhost", "begins with amqp://"),
        ("http://localhost", "begins with amqp://"),
        ("amqp+ssl://localhost", "begins with amqp://"),
        (" amqp://localhost", "white space"),
        ("amqp://localhost\n", "white space"),
        ("amqp://user:pass word@host", "white space"),
        ("amqp://host:0", "port must be a number from 1 to 65535"),
        ("amqp://host:65536", "port must be a number"),
        ("amqp://host:-1", "port must be a number"),
        ("amqp://host:+1", "port must be a number"),
        ("amqp://host:٣", "port must be a number"),
        ("amqp://host:567a", "port must be a number"),
        ("amqp://host:999999999999", "port must be a number"),
        ("amqp://::1/", "IPv6 address stands in brackets"),
        ("amqp://host:1:2", "too many colons"),
        ("amqp://[::1", "too many colons|brackets"),
        ("amqp://[]", "no IPv6 address between"),
        ("amqp://[127.0.0.1]", "no IPv6 address between"),
        ("amqp://[::1]x", "too many colons|brackets"),
        ("amqp://ho%2Fst", "character that no host name has"),
        ("amqp://ho%20st", "character that no host name has"),
        ("amqp://host//jobs", "virtual host contains a '/'"),
        ("amqp://host///", "virtual host contains a '/'"),
        ("amqp://host/a/b", "virtual host contains a '/'; write it as %2F"),
        ("amqp://host/a/", "virtual host contains a '/'"),
        ("amqp://host/" + "x" * 256, "longer than 255 bytes"),
        ("amqp://host/%", "virtual host has a '%' without two hexadecimal digits"),
        ("amqp://host/%zz", "virtual host has a '%'"),
        ("amqp://host/%ff", "virtual host is not UTF-8"),
        ("amqp://us%er@host", "user name has a '%'"),
        ("amqp://user:%ff@host", "password is not UTF-8"),
        ("amqp://user:\udcff@host", "password is not UTF-8"),
        ("amqp://user:a%00b@host", "may contain %00"),
        ("amqp://host/#fragment", "'#'"),
        ("amqp://host/a@b", "'@' behind the host"),
        ("amqp://host/?name=a@b", "'@' behind the host"),
        ("amqp://host/?zork=1", "unknown query parameter zork; there are heartbeat, connection_timeout"),
        ("amqp://host/?Heartbeat=1", "unknown query parameter; there are"),
        ("amqp://host/?heartbeat", "query parameter heartbeat: must be an integer from 0 to 65535, not ''"),
        ("amqp://host/?heartbeat=65536", "heartbeat: must be an integer from 0 to 65535, not '65536'"),
        ("amqp://host/?heartbeat=1.5", "heartbeat: must be an integer"),
        ("amqp://host/?heartbeat=-1", "heartbeat: must be an integer"),
        ("amqp://host/?heartbeat=1&heartbeat=2", "heartbeat occurs twice"),
        ("amqp://host/?name=a&connection_name=b", "connection_name occurs twice"),
        ("amqp://host/?name=", "name: must not be empty"),
        ("amqp://host/?name=%", "name: the value has a '%'"),
        ("amqp://host/?connection_timeout=0", "connection_timeout: must be an integer from 1"),
        ("amqp://host/?channel_max=65536", "channel_max: must be"),
        ("amqp://host/?frame_max=4095", "frame_max: must be 0 .the broker's. or at least 4096, not 4095"),
        ("amqp://host/?ssl=true", "amqps:// uses TLS"),
        ("amqps://host/?ssl=false", "amqps:// uses TLS, amqp:// does not"),
        ("amqp://host/?ssl=maybe", "ssl: must be true or false"),
        ("amqp://host/?locale=de_DE", "locale: can't be chosen"),
        ("amqp://host/?channelMax=1&channel_max=1", "channel_max occurs twice"),
        ("amqp://host/?no_verify_ssl=1", "verify: only amqps:// uses TLS"),
        ("amqp://host/?vhost=x", "virtual host is the path here"),
        ("amqp://host/?verify=verify_peer&cacertfile=x", "cacertfile, verify: only amqps:// uses TLS"),
        ("amqps://host/?verify=yes", "verify: must be verify_peer or verify_none, not 'yes'"),
        ("amqps://host/?fail_if_no_peer_cert=1", "fail_if_no_peer_cert: must be true or false"),
        ("amqp+unix://run/x", "has no host: three slashes"),
        ("amqp+unix://", "path of the socket is missing"),
        ("amqp+unix:///", "path of the socket is missing"),
        ("amqp+unix:///x?certfile=y", "only amqps:// uses TLS"),
    ],
)
def test_errors(uri: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_uri(uri)


@pytest.mark.parametrize("uri", [b"amqp://host", None, 5])
def test_not_a_string(uri: Any) -> None:
    with pytest.raises(ValueError, match="must be a str"):
        parse_uri(uri)


# --- secrets -------------------------------------------------------------------------------------------------------


def test_repr_hides_passwords() -> None:
    address = parse_uri("amqps://user:hunter2@host/?password=hunter3")
    assert (address.password.reveal(), address.key_password.reveal()) == ("hunter2", "hunter3")
    assert "hunter" not in repr(address)
    assert "hunter" not in str(address)


@pytest.mark.parametrize("delimiter", ["/", "//", "?", "#", "%", "@", ":", " ", "\n", "[", "]", "/?", "@/", "&", "="])
@pytest.mark.parametrize("tail", ["host", "host:5672/vhost", "host/?heartbeat=x", "host:port", "host/v/v"])
@pytest.mark.parametrize(
    "secret",
    ["hunter{}hunter", "1{}hunter", "{}hunter", "hunter{}", "a{}b{}hunter", "5672{}hunter=1", "1{}name=hunter"],
)
def test_unescaped_passwords_are_neither_shown_nor_misread(delimiter: str, tail: str, secret: str) -> None:
    password = secret.replace("{}", delimiter)
    try:
        address = parse_uri(f"amqp://user:{password}@{tail}")
    except ValueError as exc:
        error = exc
    else:
        assert (address.username, address.password.reveal(), address.host) == ("user", password, "host")
        return
    assert "hunter" not in str(error)
    assert error.__context__ is None or error.__suppress_context__


@given(st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text), st.text(min_size=1, max_size=30))
def test_anything_percent_encoded_survives(secret: str, virtual_host: str) -> None:
    uri = f"amqp://{quote(secret, safe='')}:{quote(secret, safe='')}@host/{quote(virtual_host, safe='')}"
    address = parse_uri(uri)
    assert (address.username, address.password.reveal(), address.virtual_host) == (secret, secret, virtual_host)


@given(st.text(max_size=60))
def test_only_value_errors(text: str) -> None:
    for uri in (text, f"amqp://{text}", f"amqps://u:p@h/{text}", f"amqps://h?{text}", f"amqp+unix:///{text}"):
        try:
            parse_uri(uri)
        except UnicodeError:
            raise
        except ValueError:
            pass
