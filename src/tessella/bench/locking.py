"""One writer at a time: a lock that the operating system drops when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..core.errors import InputError


class Lock:
    """The lock on a file, held in `<file>.lock` beside it, which names the process. A dead one's is taken over.

    Raises InputError with the process id of whoever holds it.
    """

    def __init__(self, target: Path) -> None:
        self._path = target.with_name(target.name + ".lock")
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            if not _try_lock(handle):
                owner = os.read(handle, 32).decode(errors="replace").strip()
                os.close(handle)
                raise InputError(
                    f"{str(target)!r} is in use by process {owner or 'unknown'}; wait for it, or give another file."
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
