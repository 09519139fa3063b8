"""Every error that Vigie raises on purpose.

    VigieError
    ├── InvalidRecord      a message of the stream that cannot be used (carries an error code)
    ├── InvalidHistory     a history file that cannot be used
    ├── InvalidSetting     an environment variable or option with an unusable value
    ├── InvalidBundle      a model bundle that does not fit this code, or is damaged
    ├── InvalidStore       a recovery store that is incomplete, in use, or of something else
    ├── MeetingFailure     processes of a flow that do not come together, or do not fit each other
    ├── ExportRefused      a model whose ONNX graph does not score as the library does
    ├── KafkaFailure       a broker, topic or delivery problem that the flow cannot outlive
    └── ContenderFailure   a contender of the speed benchmark that died, stood still, or scored differently

Each message names the value that was found and what to do about it.
"""

from __future__ import annotations


class VigieError(Exception):
    """Root of the errors above; a command prints it as one line and exits with 2."""


class InvalidRecord(VigieError):
    """A record that can be neither scored nor used as a label.

    ``code`` is the stable, machine-readable name of what is wrong (header ``error_code`` in the rejected topic).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[InvalidRecord], tuple[str, str]]:
        return InvalidRecord, (self.code, str(self))


class InvalidHistory(VigieError):
    """A history file with missing columns or unusable rows; the message gives row numbers and counts."""


class InvalidSetting(VigieError):
    """A setting whose value cannot be used; the message gives the accepted form."""


class InvalidBundle(VigieError):
    """A bundle that is incomplete, damaged, or made for other feature definitions."""


class InvalidStore(VigieError):
    """A recovery store that the flow must not resume from."""


class MeetingFailure(VigieError):
    """The processes of a flow did not all come, or work on different terms; the message says which or what."""


class ExportRefused(VigieError):
    """The ONNX graph and the fitted model disagree by more than the tolerance."""


class KafkaFailure(VigieError):
    """Kafka refused or lost something; the flow stops so that nothing is skipped."""


class ContenderFailure(VigieError):
    """A contender of the speed benchmark that cannot be measured; the message says which, and what it said."""
