"""Every mistake a user can make, one class each.

The message is one line: what is wrong, where, and what to do. The command line
prints it and exits with 2; a Python caller catches ``SongcastError``.
"""


class SongcastError(Exception):
    """Base of all user-facing errors; the message is one line."""


class AudioError(SongcastError):
    """A song cannot be read or written."""


class ParamsError(SongcastError):
    """``params.yaml`` has an unknown, missing or invalid key."""


class CorpusError(SongcastError):
    """The prepared songs are missing or do not fit what is asked of them."""


class BundleError(SongcastError):
    """A model bundle is missing, incomplete or altered."""


class TrackingError(SongcastError):
    """The tracking store cannot be reached or refuses."""


class RegistryError(SongcastError):
    """A registered model, version or alias does not exist or may not move."""


class ContinuationError(SongcastError):
    """A song cannot be continued as asked."""
