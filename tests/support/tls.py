"""A certificate authority of a test, and a RabbitMQ that shows a certificate of it."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.services import RabbitServer, free_port


class Authority:
    """Signs certificates that are good for a day."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority of a test")])
        self._certificate = (
            _begun(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self) -> tuple[str, str]:
        """Return certificate and key for a server on 127.0.0.1, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = _begun(name, self._name, key.public_key()).add_extension(address, critical=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        signed = certificate.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
    )


class TlsRabbitServer(RabbitServer):
    """A RabbitMQ that listens for AMQPS beside AMQP."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self.authority = authority
        self.tls_port = free_port()

    def prepare(self) -> None:
        super().prepare()
        certificate, key = self.authority.issue()
        for name, text in (("ca.pem", self.authority.pem), ("server.pem", certificate), ("server.key", key)):
            (self.directory / name).write_text(text)
            if self.user:
                shutil.chown(self.directory / name, self.user)
        with (self.directory / "rabbitmq.conf").open("a") as conf:
            conf.write(
                f"listeners.ssl.default = 127.0.0.1:{self.tls_port}\n"
                f"ssl_options.cacertfile = {self.directory}/ca.pem\n"
                f"ssl_options.certfile = {self.directory}/server.pem\n"
                f"ssl_options.keyfile = {self.directory}/server.key\n"
                "ssl_options.verify = verify_none\n"
            )


@contextlib.contextmanager
def started_with_tls(authority: Authority) -> Iterator[TlsRabbitServer]:
    """A RabbitMQ with a certificate of `authority`."""
    with TlsRabbitServer(authority).start() as server:
        yield server
