"""Whom this machine trusts: its own certificate bundle, which the wheels of HTTP libraries do not know of."""

from __future__ import annotations

import os


def system_ca_file() -> str | None:
    """The machine's certificate bundle (PEM); that of ``SSL_CERT_FILE`` before any other. None: none is known."""
    named = os.environ.get("SSL_CERT_FILE")
    for path in (
        named,
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    ):
        if path and os.path.isfile(path):  # noqa: PTH113
            return path
    return None
