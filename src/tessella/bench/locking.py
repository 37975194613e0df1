"""One job of a name at a time: a lock that the operating system drops when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ..core.errors import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Lock:
    """A job's lock on a file, held in `<file>.<job>.lock` beside it, which names the process. A dead one's is free.

    Raises InputError for a job's name that is none, and with the process id of whoever holds it.
    """

    def __init__(self, target: Path, job: str) -> None:
        if not NAME.fullmatch(job):
            raise InputError(
                f"a job's name has 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first; got "
                f"{job!r}."
            )
        self._path = _path_of(target, job)
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            if not _try_lock(handle):
                owner = os.read(handle, 32).decode(errors="replace").strip()
                os.close(handle)
                raise InputError(
                    f"{str(target)!r} is in use by a job {job!r}, process {owner or 'unknown'}; wait for it, give "
                    "another file, or give this job another name, and they share the work."
                )
            if _is_at(handle, self._path):
                break
            os.close(handle)  # its last owner removed it in between
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        self._handle: int | None = handle

    def release(self) -> None:
        if self._handle is None:
            return
        with contextlib.suppress(OSError):  # an open file cannot be removed everywhere
            self._path.unlink()
        os.close(self._handle)
        self._handle = None


def is_held(target: Path, job: str) -> bool:
    """Whether a running process holds a job's lock on a file."""
    try:
        handle = os.open(_path_of(target, job), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(handle)
    finally:
        os.close(handle)


def _path_of(target: Path, job: str) -> Path:
    return target.with_name(f"{target.name}.{job}.lock")


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _try_lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:
        return _try_lock_windows(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_windows(handle: int) -> bool:
    import msvcrt

    os.lseek(handle, 1 << 20, os.SEEK_SET)  # a byte far behind the process id, which others may read
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    finally:
        os.lseek(handle, 0, os.SEEK_SET)
    return True
