"""A robot's loop: deadlines and ages by a clock of the test's own, stops by real processes and real signals."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import pytest
from bounded import bounded_bundle
from networks import random_bundle

from mast_runtime import RuntimeFault, save
from mast_runtime.control import STOP, ControlLoop, Counts, Rounds, Supervisor
from mast_runtime.notify import Notifier

ROOT = Path(__file__).resolve().parent.parent
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
PROGRAM = """
import sys, threading, time
from array import array
import mast_runtime
from mast_runtime.control import ControlLoop

class Robot:
    def __init__(self, kind): self.kind, self.rounds = kind, 0
    def say(self, text): print(text, round(time.time()), flush=True)
    def sense(self):
        self.rounds += 1
        if self.rounds > 3:
            if self.kind == "raises": raise OSError("the sensor is gone")
            if self.kind == "silent": return None
            if self.kind == "hangs": threading.Event().wait(60)
        return array("f", [0.1, 0.2, 0.3, 0.4]), None
    def drive(self, action): self.say(f"drive {action}")
    def stop(self):
        self.say("stopping")
        threading.Event().wait(0.1)  # libfaketime fails clock_nanosleep
        self.say("stopped")

agent = mast_runtime.load(sys.argv[1]).agent(0)
print(ControlLoop(agent, Robot(sys.argv[2]), 50.0, max_age_s=0.5, report=lambda line: None).run())
"""


class Clock:
    """Seconds that pass where the test says."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def bundle():
    return random_bundle(0, 2, obs_dim=4, n_actions=3, hidden=8)


def test_rounds_keep_their_rate_and_never_hurry_after_a_late_one():
    clock, counts = Clock(), Counts()
    rounds, left = Rounds(10.0, counts, clock), []
    for took in (0.02, 0.25, 0.03, 0.0):
        rounds.begin()
        clock.spend(took)
        left.append(round(rounds.end(), 6))
        clock.spend(left[-1])
    assert left == [0.08, 0.0, 0.07, 0.1], "the round of 0.25 s is late; the next ends a whole period after it"
    assert counts.late == 1 and counts.longest_gap_s == pytest.approx(0.25)
    clock.spend(0.2)  # a timer that came two periods late
    rounds.begin()
    assert rounds.end() == pytest.approx(0.1) and counts.late == 2
    clock.spend(100.0)
    rounds.restart()
    rounds.begin()
    assert counts.late == 2 and counts.longest_gap_s == pytest.approx(0.3), "a pause that was meant is not late"


def test_what_is_missing_old_or_refused_is_a_stop_and_leaves_the_memory(bundle):
    clock = Clock()
    agent, other = bundle.agent(0), bundle.agent(0)
    supervisor, good = Supervisor(agent, 0.5, clock=clock), array("f", [0.5, 0.1, 0.2, 0.3])
    assert supervisor.decide() == STOP and supervisor.trouble == "no observation yet"
    supervisor.observe(good, age_s=0.2)
    clock.spend(0.3)
    assert supervisor.decide(bytes([1, 0, 1])) == other.act(good, bytes([1, 0, 1])) and not supervisor.trouble
    clock.spend(0.01)
    assert supervisor.decide() == STOP and "0.51 s old, the limit is 0.5 s" in supervisor.trouble
    supervisor.observe(array("f", [math.nan, 0.1, 0.2, 0.3]))
    assert supervisor.decide() == STOP and "obs[0]" in supervisor.trouble
    supervisor.observe(good)
    assert supervisor.decide(bytes(3)) == STOP and "no available action" in supervisor.trouble
    assert supervisor.decide() == other.act(good), "the memory is that of one decision"
    counts = supervisor.counts
    assert (counts.decisions, counts.missing, counts.stale, counts.refused, counts.stopped) == (2, 1, 1, 2, 4)
    supervisor.reset()
    assert supervisor.decide() == STOP and agent.last_action == -1


def test_a_rate_or_an_age_that_cannot_be_is_one_line(bundle):
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(RuntimeFault, match=r"rate .* expected decisions a second"):
            Rounds(wrong, Counts())
        with pytest.raises(RuntimeFault, match=r"max_age .* expected seconds"):
            Supervisor(bundle.agent(0), wrong)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_stop_of_continuous_actions_is_the_users_and_the_policy_knows_of_it(backend):
    """Of the rate limit, which counts from what was executed: 0.1 of the range of 7 around the stop's 4.5."""
    bundle, stop = bounded_bundle(rate_limit=0.1), (0.0, 4.5, 0.0)
    obs = [0.3] * bundle.contract.obs_dim
    agent: Any = bundle.agent(0, backend)
    other: Any = bundle.agent(0, backend)
    supervisor = Supervisor(agent, stop_action=stop)
    assert supervisor.decide() == stop and supervisor.kind == "missing"
    supervisor.observe(obs)
    assert supervisor.decide().tolist() == other.act(obs).tolist() and not supervisor.kind
    supervisor.observe([math.nan] * len(obs))
    assert supervisor.decide() == stop and supervisor.kind == "refused"
    assert agent.last_action.tolist() == pytest.approx(stop)
    supervisor.observe(obs)
    decided = supervisor.decide()
    assert 4.5 - decided[1] == pytest.approx(0.7, abs=1e-5)
    other.executed(stop)
    assert decided.tolist() == other.act(obs).tolist(), "the memory is that of two decisions"
    supervisor.reset()
    assert supervisor.decide() == stop, "before the first decision there is no last action to replace"
    assert Supervisor(bundle.agent(0)).decide() == STOP


@pytest.mark.parametrize(
    "wrong", [(0.0,), (0.0, 0.0, 0.0, 0.0), (9.0, 0.0, 0.0), (math.nan, 0.0, 0.0), ("fast", 0.0, 0.0), 0.0]
)
def test_a_stop_that_is_no_action_is_one_line(bundle, wrong):
    with pytest.raises(RuntimeFault, match=r"stop_action .*: expected (a list of )?3 (components|numbers)"):
        Supervisor(bounded_bundle().agent(0), stop_action=wrong)
    with pytest.raises(RuntimeFault, match="this policy chooses among actions, whose stop is -1"):
        Supervisor(bundle.agent(0), stop_action=wrong)


def test_a_loop_drives_continuous_actions_and_stops_the_robot_by_its_own_stop():
    agent, told = bounded_bundle().agent(2), []

    class Robot:
        def sense(self):
            return [0.3 if len(told) < 2 else math.nan] * agent.contract.obs_dim, None

        def drive(self, action):
            told.append(action.tolist())

        def stop(self):
            told.append("stop")

    counts = ControlLoop(agent, Robot(), 1000.0, report=lambda line: None, stop_action=[3.5, 0.0]).run(4)
    assert [len(action) for action in told[:2]] == [2, 2] and told[2:] == ["stop"] * 3
    assert counts.decisions == 2 and counts.refused == 2


def test_a_stop_by_the_watchdog_is_told_to_the_policy():
    agent, stop, told = bounded_bundle(rate_limit=0.05).agent(2), [3.5, 0.0], []
    assert agent.contract.head is not None
    reach = [
        0.05 * (high - low) for low, high in zip(agent.contract.head.low[2], agent.contract.head.high[2], strict=True)
    ]

    class Robot:
        def sense(self):
            if len(told) == 12:
                time.sleep(0.4)
            return [0.9] * agent.contract.obs_dim, None

        def drive(self, action):
            told.append(action.tolist())

        def stop(self):
            told.append("stop")

    loop = ControlLoop(agent, Robot(), 1000.0, max_age_s=0.1, report=lambda line: None, stop_action=stop)
    assert loop.run(16).stalled == 1
    before, _, after = told[11:14]
    assert told[12] == "stop" and any(abs(x - s) > 2 * r for x, s, r in zip(before, stop, reach, strict=True))
    assert all(abs(x - s) <= r + 1e-5 for x, s, r in zip(after, stop, reach, strict=True))


class Process:
    """The program above, in a process of its own; what the robot is told comes line by line."""

    def __init__(self, policy, kind, **environment):
        command = [sys.executable, "-W", "error", "-c", PROGRAM, str(policy), kind]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)} | environment
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def until(self, start):
        """The first line that starts so."""
        assert self.process.stdout is not None
        return next(line for line in self.process.stdout if line.startswith(start))

    def end(self):
        """What it said after that, and its exit code."""
        out, self.errors = self.process.communicate(timeout=20)
        return out.splitlines(), self.process.returncode


@pytest.fixture
def policy(bundle, tmp_path):
    save(bundle, tmp_path / "p.mast")
    return tmp_path / "p.mast"


def last_told(lines):
    return [line.split()[0] for line in lines if re.match("drive|stopp", line)][-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_robot_and_a_second_one_does_not_disturb_it(policy, number):
    loop = Process(policy, "works")
    loop.until("drive")
    loop.process.send_signal(number)
    loop.until("stopping")
    loop.process.send_signal(number)
    lines, code = loop.end()
    assert code == 0 and not loop.errors and last_told(lines) == "stopped"
    assert "decisions" in lines[-1], "what happened is said"


def test_an_exception_stops_the_robot(policy):
    lines, code = (loop := Process(policy, "raises")).end()
    assert code == 1 and "the sensor is gone" in loop.errors and last_told(lines) == "stopped"


@pytest.mark.parametrize(("kind", "said"), [("silent", r"[1-9]\d* stale"), ("hangs", r"[1-9]\d* stalled")])
def test_a_lost_observation_stops_the_robot_and_so_does_a_sensor_that_hangs(policy, kind, said):
    loop = Process(policy, kind)
    loop.until("drive")
    loop.until("stopped")
    loop.process.terminate()
    lines, code = loop.end()
    assert code == 0 and last_told(lines) == "stopped" and re.search(said, lines[-1])


def set_clock(file, offset):
    """Seconds by which libfaketime moves the wall clock of a process that reads this file."""
    file.with_suffix(".new").write_text(f"{offset}\n")
    file.with_suffix(".new").replace(file)


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (Debian: faketime)")
def test_the_wall_clock_may_be_set_back_and_forth(policy, tmp_path):
    """An hour back, then two on: by the wall clock the loop goes on at its rate."""
    file = tmp_path / "clock"
    set_clock(file, "+0")
    loop = Process(
        policy, "works", LD_PRELOAD=str(FAKETIME), FAKETIME_TIMESTAMP_FILE=str(file), FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )  # fmt: skip
    wall, began = [int(loop.until("drive").split()[-1])], time.monotonic()
    for offset in ("-3600", "+3600"):
        set_clock(file, offset)
        while abs(wall[-1] - time.time() - int(offset)) > 60:
            wall.append(int(loop.until("drive").split()[-1]))
        for _ in range(25):
            loop.until("drive")
    took = time.monotonic() - began
    loop.process.terminate()
    lines, code = loop.end()
    assert code == 0 and took < 5.0 and "0 missing, 0 stale, 0 refused, 0 stalled" in lines[-1]


def test_systemd_is_told_of_readiness_life_and_the_end(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5.0)
        clock = Clock()
        told = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}, clock)
        told.send("READY=1", "STATUS=serving")
        for _ in range(25):
            told.beat()
            clock.spend(0.1)
        told.reloading()
        received = [manager.recv(200).decode() for _ in range(5)]
        assert received[:4] == ["READY=1\nSTATUS=serving", *["WATCHDOG=1"] * 3], "every half of the limit"
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", received[4])
        for _ in range(500):
            told.send("READY=1")  # nobody reads
    told.send("READY=1")  # no manager any more
    other = {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}
    assert Notifier(other).interval_s is None and Notifier({"WATCHDOG_USEC": "5"}).interval_s is None
    Notifier({}).beat()
