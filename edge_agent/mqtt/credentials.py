"""Who we are to the broker, and by what we know it: read from files that may be replaced at any time."""

from __future__ import annotations

import ssl
from pathlib import Path

from edge_agent.core.config import TlsConfig


def read_secret(path: Path) -> str:
    """Raises OSError, ValueError."""
    return path.read_text(encoding="utf-8").rstrip("\n")


def tls_context(tls: TlsConfig) -> ssl.SSLContext:
    """Always verifies. Raises OSError, ValueError."""
    context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


def connection_fault(error: BaseException | None) -> str:
    """Why no connection came about, in plain words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    return getattr(error, "strerror", None) or str(error)
