"""`config | certificate_faults(files, is_strict)`: what is wrong with the certificates that a configuration names.

Told on the controller, before any board is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any, TypeVar

from cryptography import x509

_MAKE = "files/mosquitto/edge-agent.conf tells how to make one"
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class FilterModule:
    def filters(self) -> dict[str, Callable[..., list[str]]]:
        return {"certificate_faults": certificate_faults}


def certificate_faults(config: dict[str, Any], files: dict[str, str], *, is_strict: bool) -> list[str]:
    """One for each certificate that would not do, of those in `files`; what else is named is on the board already.

    is_strict: the board's Python is 3.13 or newer, which asks more of who signs than earlier ones.
    """
    tls = config.get("mqtt", {}).get("tls") or {}
    faults = []
    for key in ("ca_file", "cert_file"):
        name = tls.get(key)
        if name in files:
            found = _faults(files[name], is_authority=key == "ca_file", is_strict=is_strict)
            faults += [f"{name} (mqtt.tls.{key}) {fault}" for fault in found]
    return faults


def _faults(text: str, *, is_authority: bool, is_strict: bool) -> Iterator[str]:
    try:
        certificates = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        yield f"is no certificate in PEM: {_MAKE}" if is_authority else "is no certificate in PEM"
        return
    now = datetime.now(timezone.utc)  # noqa: UP017 - as everywhere here
    for certificate in certificates:
        if certificate.not_valid_after_utc < now:
            yield f"has expired on {certificate.not_valid_after_utc:%Y-%m-%d}: renew it"
        elif certificate.not_valid_before_utc > now:
            yield f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}: look at the clock of who made it"
        if is_authority and (fault := _authority_fault(certificate, is_strict=is_strict)):
            yield fault


def _authority_fault(certificate: x509.Certificate, *, is_strict: bool) -> str | None:
    names = _extension(certificate, x509.SubjectAlternativeName)
    constraints = _extension(certificate, x509.BasicConstraints)
    is_own = certificate.issuer == certificate.subject
    if names is not None and (is_own or is_strict):
        return None  # a broker's own, which vouches for itself: nothing is asked of it as an authority
    subject = "".join(f"/{name.rfc4514_string()}" for name in certificate.subject.rdns)
    again = (
        f"make it again of its own key, then the broker's stays good: openssl req -x509 -key ca.key -days 3650 "
        f"-subj '{subject}' -addext keyUsage=critical,keyCertSign,cRLSign -out ca.pem"
    )
    if constraints is None or not constraints.value.ca:
        who = certificate.issuer.rfc4514_string()
        return (
            f"may not sign others (no basicConstraints CA:TRUE): {again}"
            if is_own
            else f"vouches for nobody: put that of {who} here, who signed it"
        )
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None and is_strict:
        return f"has no keyUsage, on which this board's Python insists: {again}"
    if usage is not None and not usage.value.key_cert_sign:
        return f"may not sign others (its keyUsage lacks keyCertSign): {again}"
    if is_strict and not constraints.critical:
        return f"has basicConstraints that are not critical, on which this board's Python insists: {again}"
    if is_strict and _extension(certificate, x509.SubjectKeyIdentifier) is None:
        return f"has no subjectKeyIdentifier, on which this board's Python insists: {again}"
    return None


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> x509.Extension[_Extension] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
