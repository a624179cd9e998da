"""Readiness and the watchdog, told to systemd by the protocol of sd_notify(3). Nothing happens where none listens."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress


class Notifier:
    """One process's line to its service manager.

    interval_s: how often `beat` has something to say, half of WATCHDOG_USEC; None where no watchdog waits.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._next_s = clock, 0.0
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        limit_us, owner = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        watched = self._address and limit_us.isdecimal() and int(limit_us) and owner in ("", str(os.getpid()))
        self.interval_s = int(limit_us) / 2e6 if watched else None

    def send(self, *lines: str) -> None:
        """Assignments such as READY=1 or STATUS=text, in one message. Lost where nobody reads it."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.setblocking(False)  # a robot does not wait for its manager
                line.sendto("\n".join(lines).encode(), self._address)

    def beat(self) -> None:
        """Say that the process works. To be called from the work itself, as often as it likes."""
        if self.interval_s is not None and self._clock() >= self._next_s:
            self._next_s = self._clock() + self.interval_s
            self.send("WATCHDOG=1")

    def reloading(self) -> None:
        """A reload begins; send READY=1 when it is over."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
