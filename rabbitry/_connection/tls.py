"""What an `amqps://` URI asks of TLS: the context, the name the certificate must have, and what went wrong in words.

What must stay true: the peer is verified unless the URI says `verify=verify_none`; no path ever shows a key's password.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from rabbitry._errors import ConnectFailed
from rabbitry._later import Later
from rabbitry._secrets import Secret
from rabbitry._transport.tls import NotTLS, reason_of
from rabbitry._values.address import Address

if TYPE_CHECKING:
    import ssl
else:
    ssl = Later("ssl")

__all__ = ["connect_failed", "make_context", "server_name"]


def make_context(address: Address) -> ssl.SSLContext:
    """The context of such an address, shared by all connections alike. `ConnectFailed` if its files can't be used."""
    files = address.cacertfile, address.certfile, address.keyfile
    verify = address.verify is not False
    if address.depth is not None:
        raise ValueError("Python's ssl module can't limit a chain's depth: leave out depth, or use ssl_context=")
    if address.keyfile is not None and address.certfile is None:
        raise ValueError("keyfile without certfile: name the certificate that the key belongs to")
    has_name = verify and address.server_name_indication != "disable"
    # A file that was renewed makes another context: reconnecting with a new certificate needs no restart.
    return _context(*files, address.key_password, verify, has_name, tuple(map(_changed, files)))


def server_name(address: Address) -> str | None:
    """What is sent as server name indication, and looked for in the certificate. None for neither."""
    name = address.server_name_indication
    # The dot that makes a name absolute is for the look-up only: SNI has none (RFC 6066, section 3), nor certificates.
    return None if name == "disable" else (name or address.host).removesuffix(".") or None


def _changed(file: str | None) -> int | None:
    try:
        return None if file is None else os.stat(file).st_mtime_ns
    except OSError as error:
        raise ConnectFailed(f"TLS: can't read {file}: {error.strerror}") from error


@lru_cache(maxsize=64)
def _context(
    cacertfile: str | None,
    certfile: str | None,
    keyfile: str | None,
    password: Secret[str] | None,
    verify: bool,
    has_name: bool,
    _: tuple[int | None, ...],
) -> ssl.SSLContext:
    what = f"cacertfile {cacertfile}"
    try:
        context = ssl.create_default_context(cafile=cacertfile)  # None: the system's authorities
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.check_hostname = has_name
        context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
        if certfile is not None:
            what = f"certfile {certfile}" + (f" with keyfile {keyfile}" if keyfile else "")
            # (without a password OpenSSL would ask at the terminal)
            context.load_cert_chain(certfile, keyfile, password.reveal() if password is not None else "")
    except (OSError, ValueError) as error:
        raise ConnectFailed(f"TLS: can't use {what}: {reason_of(error)}") from error
    return context


_FOR_ANOTHER = "connect by a name that it has, or give one in the URL: server_name_indication=broker.example"
_OF_NO_AUTHORITY = "name the authority that signed it with cacertfile, or pass ssl_context="
_OUT_OF_DATE = "it has to be renewed, or the clock of this machine is wrong"

# By OpenSSL's verify codes (x509_vfy.h).
_ADVICE = {
    62: _FOR_ANOTHER,  # host name
    64: _FOR_ANOTHER,  # IP address
    2: _OF_NO_AUTHORITY,  # no issuer
    18: _OF_NO_AUTHORITY,  # self-signed
    19: _OF_NO_AUTHORITY,  # self-signed in the chain
    20: _OF_NO_AUTHORITY,  # no local issuer
    21: _OF_NO_AUTHORITY,  # the first of the chain can't be verified
    9: _OUT_OF_DATE,  # not yet valid
    10: _OUT_OF_DATE,  # expired
}


def connect_failed(error: OSError, peer: str, name: str | None) -> ConnectFailed:
    """Why TLS with `peer`, which was to be `name`, did not come about."""
    failed: ConnectFailed
    if isinstance(error, NotTLS):
        guess = "it answers in the clear: use amqp://" if error.received[:4] == b"AMQP" else "is this an AMQP port?"
        failed = ConnectFailed(f"{peer} does not speak TLS, it began with {error.received[:16]!r}; {guess}")
    elif isinstance(error, ssl.SSLCertVerificationError):
        advice = _ADVICE.get(error.verify_code, "pass ssl_context= where that is as it should be")
        failed = ConnectFailed(
            f"the certificate of {peer} was not accepted{f' for {name}' if name else ''}: "
            f"{error.verify_message.rstrip('.')}; {advice}"
        )
    else:
        failed = ConnectFailed(f"no TLS with {peer}: {reason_of(error)}")
    failed.__cause__ = error
    return failed
