"""User-facing errors, one class each, and the exit codes of every program in the project.

The message of a ``SongcastError`` is one line: what is wrong, where, and what to do. A program
prints it and exits with 2; a Python caller catches ``SongcastError``.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable

INVALID_INPUT, INTERRUPTED, CLOSED_PIPE = 2, 130, 141


class SongcastError(Exception):
    """Base of all user-facing errors; the message is one line."""


class AudioError(SongcastError):
    """A song cannot be read or written."""


class ParamsError(SongcastError):
    """``params.yaml`` has an unknown, missing or invalid key."""


class CorpusError(SongcastError):
    """The prepared songs are missing or do not fit the request."""


class BundleError(SongcastError):
    """A model bundle is missing, incomplete or altered."""


class TrackingError(SongcastError):
    """The tracking store is unreachable or rejects a request."""


class RegistryError(SongcastError):
    """A registered model, version or alias does not exist or cannot be changed."""


class ContinuationError(SongcastError):
    """A song cannot be continued as requested."""


def run_program(name: str, main: Callable[[], int | None]) -> int:
    """Run ``main`` and return the exit code of the program ``name``.

    ``SongcastError`` and a full or inaccessible disk print one line on stderr and give 2;
    Ctrl-C gives 130, and a closed pipe on stdout 141. Any other exception is a bug and is
    raised again, so that Python prints its traceback and exits with 1.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except SongcastError as error:
        code, line = INVALID_INPUT, str(error)
    except KeyboardInterrupt:
        code, line = INTERRUPTED, "interrupted"
    except BrokenPipeError:  # for example, the output of the program is piped into `head`
        _discard_stdout()
        return CLOSED_PIPE
    except Exception as error:
        disk = disk_fault(error)
        if disk is None:
            raise
        _discard_stdout()
        code, line = INVALID_INPUT, disk
    else:
        return code
    print(f"{name}: {line}", file=sys.stderr)
    return code


def disk_fault(error: BaseException) -> str | None:
    """Return one line for an error that the disk caused, None for any other error.

    Libraries wrap the errors of the operating system, so the causes of ``error`` count too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            place = f"{cause.filename}: " if cause.filename else ""
            if cause.errno in (errno.ENOSPC, errno.EDQUOT):
                return f"{place}the disk is full; free some space and run it again"
            if cause.errno in (errno.EROFS, errno.EACCES):
                return f"{place}cannot be read or written ({cause.strerror}); check permissions"
        cause = cause.__cause__ or cause.__context__
    return None


def _discard_stdout() -> None:
    """Drop buffered output; Python would try to write it again at exit, and fail again."""
    with contextlib.suppress(OSError, ValueError):  # a replaced stdout has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
