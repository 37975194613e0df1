"""How a server is set up: what every worker of it is told, and what its front is told."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from ..app.source import Source
from ..core.errors import InputError


@dataclass(frozen=True)
class WorkerSettings:
    """One model and how it takes questions.

    `max_batch` are answers written side by side, `max_waiting` questions that may wait for them; a first question waits
    `gather_ms` for company. `timeout_s` is for waiting and answering together. The two caches are bounded in bytes and
    off at 0: encoded pictures, and the caches of reduced pictures whose pipeline does not read the question.
    """

    source: Source = field(default_factory=Source)
    max_batch: int = 32
    max_waiting: int = 256
    gather_ms: float = 4.0
    timeout_s: float = 120.0
    feature_cache_bytes: int = 256 * 2**20
    prompt_cache_bytes: int = 256 * 2**20

    def check(self) -> None:
        """Raise InputError for settings with which no question would be answered."""
        for name in ("max_batch", "max_waiting"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; got {getattr(self, name)}.")
        for name in ("gather_ms", "feature_cache_bytes", "prompt_cache_bytes"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must be at least 0; got {getattr(self, name)}.")
        if not self.timeout_s > 0:
            raise InputError(f"timeout_s must be more than 0; got {self.timeout_s}.")


@dataclass(frozen=True)
class FrontSettings:
    """Where the endpoints are, who may use them, and what one request may ask for.

    Without `keys` anyone who reaches the address may ask, so it has to be a loopback one. `method` and `keep` are
    what a request gets that names none; `max_keep` bounds those that do. `max_tokens` is for an answer,
    `max_prompt_tokens` for the text of a prompt. Pictures are fetched from `allow_hosts` alone ("host", or
    "host:port" where it is not the usual one), within `fetch_s`; `max_body_mb` bounds each of them as it bounds a
    request, `max_held_mb` all that requests hold at a time. A body that stands still for `body_s` and a reader that
    takes nothing for `reader_s` are let go. `grace_s` is what running requests get at the end. Results that the page
    shares are kept in `share_dir`, by default in memory.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = field(default=(), repr=False)
    method: str | None = None
    keep: str | None = None
    max_keep: str | None = None
    max_tokens: int = 1024
    max_n: int = 8
    max_pictures: int = 8
    max_prompt_tokens: int = 8192
    max_body_mb: float = 20.0
    max_megapixels: float = 25.0
    max_held_mb: float = 2000.0
    allow_hosts: tuple[str, ...] = ()
    fetch_s: float = 10.0
    body_s: float = 30.0
    reader_s: float = 60.0
    grace_s: float = 30.0
    share_dir: str | None = None
    log_prompts: bool = False

    @property
    def max_bytes(self) -> int:
        """The longest body, and the longest picture that is fetched."""
        return int(self.max_body_mb * 1e6)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)

    @property
    def max_held_bytes(self) -> int:
        """What bodies and decoded pictures of all requests may take together."""
        return int(self.max_held_mb * 1e6)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check(self) -> None:
        """Raise InputError for an address that is open to others, or limits that allow nothing."""
        if not self.is_loopback and not self.keys:
            raise InputError(
                f"--host {self.host} can be reached from other machines, so keys are needed: give --api-key-file FILE, "
                "or the environment variable TESSELLA_API_KEYS."
            )
        if not 0 <= self.port <= 65535:
            raise InputError(f"port must be 0 (any that is free) to 65535; got {self.port}.")
        for name in ("max_tokens", "max_n", "max_pictures", "max_prompt_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; got {getattr(self, name)}.")
        for name in ("max_body_mb", "max_megapixels", "fetch_s", "body_s", "reader_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be more than 0; got {getattr(self, name)}.")
        needed = self.max_body_mb + 3 * self.max_pictures * self.max_megapixels
        if not self.max_held_mb >= needed:
            raise InputError(
                f"max_held_mb must be at least {needed:g}, for the largest request that the other limits let in; "
                f"got {self.max_held_mb:g}."
            )
        if not self.grace_s >= 0:
            raise InputError(f"grace_s must be at least 0; got {self.grace_s}.")
