"""The loops around a policy on a robot: deadlines, refusals and stale observations, by a clock of the test's own.

ROS 2 is a stand-in with the names that the node uses; the real one was not at hand.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from array import array
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
from networks import random_bundle

from mast_runtime import save

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundle():
    return random_bundle(0, 2, obs_dim=4, n_actions=3, hidden=8)


class Clock:
    """Seconds that pass only in `sleep` and where the test says."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def monotonic(self):
        return self.now

    perf_counter = monotonic

    def sleep(self, seconds):
        self.slept.append(round(seconds, 6))
        self.now += seconds


class Scripted:
    """A robot whose sensors take and say what the script does; it notes what it is told."""

    def __init__(self, clock, script):
        self.clock, self.script, self.told = clock, iter(script), []

    def sense(self):
        seconds, first = next(self.script)
        self.clock.now += seconds
        return array("f", [first, 0.1, 0.2, 0.3]), bytes([1, 0, 1])

    def drive(self, action):
        self.told.append(action)

    def stop(self):
        self.told.append("stop")


def test_the_loop_keeps_its_rate_stops_on_refusals_and_never_hurries_after_a_late_round(bundle, monkeypatch, capsys):
    module, clock = example("robot_loop"), Clock()
    monkeypatch.setattr(module, "time", clock)
    robot = Scripted(clock, [(0.02, 0.5), (0.25, 0.5), (0.03, math.nan), (0.0, 0.5)])
    agent, other = bundle.agent(0), bundle.agent(0)
    timing = module.control(agent, robot, rate_hz=10.0, rounds=4)
    assert clock.slept == [0.08, 0.07, 0.1], "the round of 0.25 s is late; the next ends a whole period after it"
    assert (timing.late, timing.refused, len(timing.decisions_us)) == (1, 1, 3)
    expected = [other.act(array("f", [0.5, 0.1, 0.2, 0.3]), bytes([1, 0, 1])) for _ in range(3)]
    assert robot.told == [*expected[:2], "stop", expected[2]], "the refused observation left the memory as it was"
    assert "stopped: obs[0]" in capsys.readouterr().out
    module.control(agent, Scripted(clock, [(0.0, 0.5)]), 10.0, 1)
    assert agent.last_action == expected[0], "each call is an episode"


def test_the_loop_runs_as_a_command(bundle, tmp_path, monkeypatch, capsys):
    save(bundle, tmp_path / "p.mast")
    monkeypatch.setattr(sys, "argv", ["robot_loop.py", str(tmp_path / "p.mast"), "--rate", "200", "--seconds", "0.05"])
    example("robot_loop").main()
    assert "10 decisions on" in capsys.readouterr().out


class StandInNode:
    """What the node uses of rclpy.node.Node."""

    parameters: ClassVar[dict] = {}

    def __init__(self, name):
        self.subscribed, self.published, self.logged, self.now = {}, [], [], 0

    def declare_parameter(self, name, value):
        return SimpleNamespace(value=self.parameters.get(name, value))

    def create_subscription(self, kind, topic, callback, qos):
        self.subscribed[topic] = callback

    def create_publisher(self, kind, topic, depth):
        return SimpleNamespace(publish=lambda message: self.published.append(message.data))

    def create_service(self, kind, name, callback):
        self.service = callback

    def create_timer(self, period_s, callback):
        self.period_s, self.tick = period_s, callback

    def get_clock(self):
        return SimpleNamespace(now=lambda: Moment(self.now))

    def get_logger(self):
        return SimpleNamespace(warning=self.logged.append, error=self.logged.append)


class Moment(SimpleNamespace):
    def __init__(self, seconds):
        super().__init__(nanoseconds=round(seconds * 1e9))

    def __sub__(self, other):
        return Moment((self.nanoseconds - other.nanoseconds) / 1e9)


@pytest.fixture
def ros(monkeypatch):
    """The modules that the node imports."""
    message = type("Message", (SimpleNamespace,), {})
    modules = {
        "rclpy": {}, "rclpy.node": {"Node": StandInNode}, "rclpy.qos": {"qos_profile_sensor_data": object()},
        "std_msgs": {}, "std_msgs.msg": dict.fromkeys(("Float32MultiArray", "Int32", "UInt8MultiArray"), message),
        "std_srvs": {}, "std_srvs.srv": {"Trigger": object()},
    }  # fmt: skip
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)


def test_the_ros_node_decides_at_its_rate_and_stops_without_fresh_observations(ros, bundle, tmp_path, monkeypatch):
    save(bundle, tmp_path / "p.mast")
    monkeypatch.setattr(StandInNode, "parameters", {"policy": str(tmp_path / "p.mast"), "agent": 1, "rate": 20.0})
    node, other = example("ros2_node").PolicyNode(), bundle.agent(1)
    assert node.period_s == 0.05
    node.tick()
    assert node.published == [-1] and "no observation yet" in node.logged[-1]
    observation, allowed = array("f", [0.5, 0.1, 0.2, 0.3]), array("B", [0, 1, 1])
    node.now = 1.0
    node.subscribed["observation"](SimpleNamespace(data=observation))
    node.tick()
    node.subscribed["available_actions"](SimpleNamespace(data=allowed))
    node.now = 1.4
    node.tick()
    expected = [other.act(observation), other.act(observation, bytes(allowed))]
    assert node.published == [-1, *expected]
    node.now = 1.6
    node.tick()
    assert node.published[-1] == -1 and "0.60 s old" in node.logged[-1]
    node.subscribed["observation"](SimpleNamespace(data=array("f", [math.inf, 0.0, 0.0, 0.0])))
    node.tick()
    assert node.published[-1] == -1 and "must be finite" in node.logged[-1]
    response = SimpleNamespace(success=False)
    assert node.service(None, response) is response and response.success
    assert node.agent.last_action == -1
