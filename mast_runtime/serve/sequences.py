"""The episodes in progress: one agent per live sequence, with an idle limit and a cap."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from mast_runtime.serve.protocol import InferRequest, RequestError

Key = tuple[str, int | str]
Episode = TypeVar("Episode")
"""What a sequence keeps between its steps."""


class SequenceTable(Generic[Episode]):
    """Live sequences by (model, sequence id), the one idle for longest first. Time is clock() in seconds.

    `expired` counts those dropped at the idle limit. Not locked: all use is from the event loop's thread, and one step
    (`take`, decide, `keep`) contains no await, so two requests on a sequence cannot interleave.
    """

    def __init__(self, idle_limit_s: float, max_sequences: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.idle_limit_s, self.max_sequences, self.clock = idle_limit_s, max_sequences, clock
        self.expired = 0
        self._live: OrderedDict[Key, tuple[Episode, float]] = OrderedDict()

    def __len__(self) -> int:
        """Live sequences, expired ones dropped."""
        oldest_s = self.clock() - self.idle_limit_s
        while self._live and next(iter(self._live.values()))[1] < oldest_s:
            self._live.popitem(last=False)
            self.expired += 1
        return len(self._live)

    def take(self, model: str, request: InferRequest, start: Callable[[], Episode]) -> Episode:
        """The episode to step: a new one at a start, else the sequence's own. Changes nothing. Raises RequestError."""
        live, known = len(self), self._live.get((model, request.sequence_id))
        if not request.sequence_start:
            if known is None:
                raise RequestError(
                    f"{model} has no live sequence {request.sequence_id!r}: it was not started, has ended, or was idle "
                    f"for more than {self.idle_limit_s:g} s; begin again with sequence_start true",
                    status=409,
                    outcome="unknown_sequence",
                )
            return known[0]
        if known is None and not request.sequence_end and live >= self.max_sequences:
            raise RequestError(
                f"{live} sequences are live, the most this server keeps; end one (sequence_end) or wait until one has "
                f"been idle for {self.idle_limit_s:g} s",
                status=429,
                outcome="too_many_sequences",
            )
        return start()

    def keep(self, model: str, request: InferRequest, episode: Episode) -> None:
        """Record a step that succeeded: remember its episode, or forget the sequence at its end."""
        key = model, request.sequence_id
        if request.sequence_end:
            self._live.pop(key, None)
        else:
            self._live[key] = episode, self.clock()
            self._live.move_to_end(key)
