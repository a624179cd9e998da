"""What stands between a policy and motors: rounds at a fixed rate, the age of what was seen, and the ways to stop.

All times are of a steady clock: setting the wall clock changes nothing here. No torch, no numpy.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mast_runtime.errors import ObservationError, RuntimeFault
from mast_runtime.notify import Notifier

if TYPE_CHECKING:
    from mast_runtime.agent import Agent

STOP = -1
"""In an action's place: do what is safe. No choice has this number; of continuous actions see Supervisor.kind."""
Clock = Callable[[], float]


@dataclass
class Counts:
    """What happened since the start.

    decisions, and rounds that stopped the robot instead: missing, nothing was seen yet; stale, the newest observation
    is too old; refused, the policy does not take it. late: rounds that missed their deadline. longest_gap_s: from one
    round's begin to the next. stalled: rounds that the watchdog gave up. ended_by: the signal that ended the loop.
    decision_us: of the newest ten thousand decisions.
    """

    decisions: int = 0
    missing: int = 0
    stale: int = 0
    refused: int = 0
    late: int = 0
    stalled: int = 0
    longest_gap_s: float = 0.0
    ended_by: str = ""
    decision_us: deque[float] = field(default_factory=lambda: deque(maxlen=10_000), repr=False)

    @property
    def stopped(self) -> int:
        """Rounds that stopped the robot."""
        return self.missing + self.stale + self.refused

    def __str__(self) -> str:
        ordered = sorted(self.decision_us) or [float("nan")]
        return (
            f"{self.decisions} decisions, median {ordered[len(ordered) // 2]:.1f} us, longest {ordered[-1]:.1f} us; "
            f"{self.late} late, longest gap {1e3 * self.longest_gap_s:.1f} ms; "
            f"stopped: {self.missing} missing, {self.stale} stale, {self.refused} refused, {self.stalled} stalled"
        )


class Rounds:
    """Rounds at rate_hz. A late one is counted and not made up for: the next is due a whole period after it.

    A round is late when it ends after the next is due, or begins more than half a period after it was due itself.
    """

    def __init__(self, rate_hz: float, counts: Counts, clock: Clock = time.monotonic) -> None:
        if not 0.0 < rate_hz < float("inf"):
            raise RuntimeFault(f"rate {rate_hz:g}: expected decisions a second, above 0; as many as training's steps")
        self.period_s, self.counts, self._clock = 1.0 / rate_hz, counts, clock
        self._due_s: float | None = None
        self._begun_s: float | None = None

    def begin(self) -> None:
        """A round begins now."""
        now = self._clock()
        if self._begun_s is not None:
            self.counts.longest_gap_s = max(self.counts.longest_gap_s, now - self._begun_s)
        if self._due_s is None or now - self._due_s > self.period_s / 2:
            self.counts.late += self._due_s is not None
            self._due_s = now
        self._begun_s, self._due_s = now, self._due_s + self.period_s

    def end(self) -> float:
        """It is over: seconds until the next is due."""
        now = self._clock()
        assert self._due_s is not None
        if now > self._due_s:
            self.counts.late += 1
            self._due_s = now
        return self._due_s - now

    def restart(self) -> None:
        """A pause that was meant: the next round begins a new schedule."""
        self._due_s = self._begun_s = None


class Supervisor:
    """Decides on the newest observation, or says STOP: none was seen, it is older than max_age_s, or it is refused.

    stop_action: of continuous actions, the one [A] in their units that a stop is. No value is safe on every robot: 0 is
    rest to a wheel's speed and a place to go to for a joint's angle. A stop is then this action in the place of STOP,
    and the policy is told that it was executed: a rate limit counts from it.
    """

    def __init__(
        self,
        agent: Agent,
        max_age_s: float = 0.5,
        counts: Counts | None = None,
        clock: Clock = time.monotonic,
        stop_action: Sequence[float] | None = None,
    ) -> None:
        """Raises RuntimeFault for an age or a stop that cannot be."""
        if not 0.0 < max_age_s < float("inf"):
            raise RuntimeFault(f"max_age {max_age_s:g}: expected seconds above 0 after which an observation is too old")
        self.agent, self.max_age_s, self.counts = agent, max_age_s, Counts() if counts is None else counts
        self.stop_action = None if stop_action is None else checked_stop(agent, stop_action)
        self.kind = self.trouble = ""
        """Why the last round stopped: missing, stale or refused, and one line; both empty when it decided."""
        self._clock = clock
        self._seen: tuple[Any, float] | None = None
        self._decided = False

    def observe(self, obs: Any, age_s: float = 0.0) -> None:
        """The newest observation [O], already age_s old: see Agent.act."""
        self._seen = obs, self._clock() - age_s

    def decide(self, avail_actions: Any = None) -> Any:
        """The action among the available [A] (None: all), or STOP with `trouble` saying why.

        A continuous action is an array [A] in its units, and its stop the `stop_action` where there is one. What is
        refused leaves the policy's memory as it was.
        """
        if self._seen is None:
            return self._stop("missing", "no observation yet")
        obs, seen_s = self._seen
        age_s = self._clock() - seen_s
        if age_s > self.max_age_s:
            return self._stop("stale", f"the last observation is {age_s:.2f} s old, the limit is {self.max_age_s:g} s")
        start = time.perf_counter()
        try:
            action = self.agent.act(obs, avail_actions)
        except ObservationError as error:
            return self._stop("refused", str(error))
        self.counts.decision_us.append((time.perf_counter() - start) * 1e6)
        self.counts.decisions += 1
        self._decided = True
        self.kind = self.trouble = ""
        return action

    def _stop(self, kind: str, trouble: str) -> Any:
        setattr(self.counts, kind, getattr(self.counts, kind) + 1)
        self.kind, self.trouble = kind, trouble
        self.was_stopped()
        return STOP if self.stop_action is None else self.stop_action

    def was_stopped(self) -> None:
        """Tell the policy that the robot was stopped, by whomever: `stop_action` is then its last action."""
        if self._decided and self.stop_action is not None:
            self.agent.executed(self.stop_action)  # type: ignore[arg-type]

    def reset(self) -> None:
        """An episode begins: the policy's memory is empty, and nothing was seen."""
        self.agent.reset()
        self._seen, self._decided = None, False


def checked_stop(agent: Agent, given: Sequence[float]) -> tuple[float, ...]:
    """A stop as an action of this agent. Raises RuntimeFault."""
    head = agent.contract.head
    if head is None:
        raise RuntimeFault("stop_action: this policy chooses among actions, whose stop is -1; leave it out")
    low, high = head.bounds(agent.index)
    bounds = " ".join(f"[{a:g}, {b:g}]" for a, b in zip(low, high, strict=True))
    try:
        stop = tuple(map(float, given))
    except (TypeError, ValueError) as error:
        raise RuntimeFault(f"stop_action {given!r:.80}: expected a list of {len(low)} numbers ({error})") from error
    if len(stop) != len(low) or not all(a <= x <= b for x, a, b in zip(stop, low, high, strict=True)):
        raise RuntimeFault(f"stop_action {list(stop)}: expected {len(low)} components, one within each of {bounds}")
    return stop


class Robot(Protocol):
    """What a ControlLoop drives."""

    def sense(self) -> tuple[Any, Any] | None:
        """A new observation [O] and its available actions [A] (None: all, and where actions are continuous); None where
        there is no new one."""

    def drive(self, action: Any) -> None:
        """Begin an action and return at once: its number, or a continuous one [A] in the units of its bounds."""

    def stop(self) -> None:
        """Do what is safe. May be called twice, and from another thread while `sense` or `drive` hangs."""


class Interrupted(BaseException):
    """A signal ended the loop."""


class ControlLoop:
    """One robot's episodes: sense, decide, drive at rate_hz, and stop on whatever goes wrong.

    The robot is stopped where the Supervisor says so, when a round hangs for longer than max_age_s (by a thread of its
    own), at the end, on an exception, and on SIGINT and SIGTERM. Only SIGKILL and a power cut go unnoticed: they are a
    hardware watchdog's. Under systemd each round is a sign of life (mast_runtime.notify).

    stop_action: of continuous actions, what `robot.stop()` amounts to (Supervisor); the robot is stopped by `stop`,
    with or without it.
    """

    def __init__(
        self,
        agent: Agent,
        robot: Robot,
        rate_hz: float,
        max_age_s: float = 0.5,
        report: Callable[[str], None] = print,
        notifier: Notifier | None = None,
        stop_action: Sequence[float] | None = None,
    ) -> None:
        self.counts, self.robot = Counts(), robot
        self.supervisor = Supervisor(agent, max_age_s, self.counts, stop_action=stop_action)
        self._rounds = Rounds(rate_hz, self.counts)
        self._report, self._notifier = report, notifier or Notifier()
        self._available: Any = None
        self._busy_since_s: float | None = None
        self._halting = self._halted = self._given_up = False

    def run(self, rounds: int | None = None) -> Counts:
        """One episode of so many rounds, or until a signal. The robot stands when this returns or raises."""
        self.supervisor.reset()
        self._given_up = False
        self._rounds.restart()
        self.counts.ended_by = ""
        self._halting = self._halted = False
        over = threading.Event()
        watchdog = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watchdog.start()
        try:
            with self._signals():
                try:  # twice: a signal between an exception and _halt ends the inner one, and there is but one
                    try:
                        self._episode(rounds, over)
                    finally:
                        self._halt()
                finally:
                    self._halt()
        except Interrupted as signalled:
            self.counts.ended_by = str(signalled)
        finally:
            over.set()
            watchdog.join()
        return self.counts

    def _episode(self, rounds: int | None, over: threading.Event) -> None:
        kind, done = "", 0
        while rounds is None or done < rounds:
            self._rounds.begin()
            self._busy_since_s = time.monotonic()
            action = self._decide()
            self.robot.stop() if self.supervisor.kind else self.robot.drive(action)
            self._busy_since_s = None
            if self.supervisor.kind not in ("", kind):
                self._report(f"stopped: {self.supervisor.trouble}")
            kind, done = self.supervisor.kind, done + 1
            if done == 1:
                self._notifier.send("READY=1")
            self._notifier.beat()
            over.wait(self._rounds.end())

    def _decide(self) -> Any:
        seen = self.robot.sense()
        if self._given_up:  # the watchdog has stopped the robot, which the policy does not know
            self._given_up = False
            self.supervisor.was_stopped()
        if seen is not None:
            obs, self._available = seen
            self.supervisor.observe(obs)
        return self.supervisor.decide(self._available)

    def _halt(self) -> None:
        self._halting = True  # from here on a signal is only noted
        self._busy_since_s = None
        if not self._halted:
            self.robot.stop()
            self._halted = True
            self._notifier.send("STOPPING=1")

    def _watch(self, over: threading.Event) -> None:
        """Stop the robot once in each round that hangs."""
        limit_s, given_up = self.supervisor.max_age_s, None
        while not over.wait(limit_s / 4):
            since_s = self._busy_since_s
            if since_s is not None and since_s != given_up and time.monotonic() - since_s > limit_s:
                given_up = since_s
                self.counts.stalled += 1
                self.robot.stop()
                self._given_up = True
                self._report(f"stopped: a round hangs for more than {limit_s:g} s")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM raise Interrupted, once, until the robot is being stopped."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return

        def handle(number: int, frame: object) -> None:
            first = not self.counts.ended_by
            self.counts.ended_by = signal.Signals(number).name
            if first and not self._halting:
                raise Interrupted(self.counts.ended_by)

        before = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, handle)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
