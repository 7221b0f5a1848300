"""Whom a client's certificate names, as RabbitMQ reads it for the mechanism EXTERNAL: its distinguished name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["name_in_certificate"]

_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "emailAddress": "EMAILADDRESS",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "serialNumber": "SERIALNUMBER",
    "stateOrProvinceName": "ST",
    "surname": "SN",
    "title": "TITLE",
    "userId": "UID",
}
_SPECIAL = re.compile(r'([,+"\\<>;])')


def name_in_certificate(certificate: Mapping[str, Any] | None) -> str | None:
    """The subject of what `ssl` tells of a certificate, in RFC 4514's form, such as "CN=guest,O=Example"; None if the
    client has shown none that was verified.
    """
    if not certificate:
        return None
    parts = [
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in relative)
        for relative in reversed(certificate.get("subject", ()))
    ]
    return ",".join(parts) or None


def _escaped(value: str) -> str:
    escaped = _SPECIAL.sub(r"\\\1", value)
    if escaped[:1] in (" ", "#"):
        escaped = "\\" + escaped
    if escaped[-1:] == " " and len(value) > 1:
        escaped = escaped[:-1] + "\\ "
    return escaped
