"""A private broker that is spoken to over TLS, by libraries that verify it as they do by themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from rabbitry.testing import PrivateNode
from rabbitry.testing.rabbitmq.setup import free_ports


@contextmanager
def open_tls_broker(connections: int) -> Iterator[tuple[PrivateNode, str, dict[str, str]]]:
    """A node, its amqps:// URL, and the environment in which OpenSSL trusts its certificate: every library's default
    is the system's authorities, and none of them names these alike.
    """
    with tempfile.TemporaryDirectory(prefix="rabbitry-tls-") as folder:
        authority, directory = trustme.CA(), Path(folder)
        certificate = authority.issue_cert("127.0.0.1")
        files = {name: directory / f"{name}.pem" for name in ("cacertfile", "certfile", "keyfile")}
        authority.cert_pem.write_to_path(files["cacertfile"])
        certificate.private_key_pem.write_to_path(files["keyfile"])
        files["certfile"].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        (port,) = free_ports(1)
        settings: dict[str, str | int] = {"listeners.ssl.1": f"127.0.0.1:{port}"}
        settings |= {f"ssl_options.{name}": str(file) for name, file in files.items()}
        with PrivateNode(connections=connections, settings=settings) as node:
            yield node, f"amqps://guest:guest@127.0.0.1:{port}/", {"SSL_CERT_FILE": str(files["cacertfile"])}
