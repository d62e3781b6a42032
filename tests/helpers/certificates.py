"""A self-signed certificate of NAMES, and keys, made for each run of the tests."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding
from cryptography.x509.oid import NameOID

from tests.helpers.keys import private_pem

# The second is how a board that is not in this machine calls it.
NAMES = ("localhost", "broker.example")


def _certificate(key: ec.EllipticCurvePrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


_KEY = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE = _certificate(_KEY)
KEY = private_pem(_KEY).decode()
KEY_WITH_PASSPHRASE = private_pem(_KEY, BestAvailableEncryption(b"secret")).decode()
OTHER_CERTIFICATE = _certificate(ec.generate_private_key(ec.SECP256R1()))
OTHER_KEY = private_pem(ec.generate_private_key(ec.SECP256R1())).decode()
