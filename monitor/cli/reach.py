"""What stands at an address: this machine itself, something that speaks TLS, something that does not."""

from __future__ import annotations

import ipaddress

from shared.reach import speaks_plain, speaks_tls

__all__ = ["is_loopback", "speaks_plain", "speaks_tls"]


def is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
