"""The certificate for HTTPS: checked before the start, and read again when its files change."""

import ssl
from pathlib import Path

from ganctl.serving.errors import SettingError
from ganctl.serving.hosts.native.keys import file_stamp


def check_certificate(certificate: Path, key: Path | None) -> tuple[Path, Path | None]:
    """Returns the absolute paths of a certificate and its key, which belong together.

    Raises:
        SettingError: they cannot be read, or do not belong together.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        hint = "" if key else " The certificate's file must hold the key, or give --tls-key."
        raise SettingError(f"--tls-cert {certificate}: found no usable certificate and key ({error}).{hint}") from error
    return certificate.absolute(), key.absolute() if key is not None else None


class Certificate:
    """A TLS context with the certificate that is in the files now; for new connections."""

    def __init__(self, certificate: Path, key: str | None) -> None:
        self._certificate, self._key = certificate, key
        self._stamp = file_stamp(certificate)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate, key)

    def reload(self) -> bool:
        """Reads the files again if the certificate has changed; returns whether it has.

        Raises:
            OSError: the files cannot be read, or do not belong together; the old certificate stays.
        """
        stamp = file_stamp(self._certificate)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self.context.load_cert_chain(self._certificate, self._key)
        return True
