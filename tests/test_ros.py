"""The ROS 2 node under real rclpy over Fast DDS, its peers in other processes (tests/ros_peer.py)."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from bounded import bounded_bundle
from networks import random_bundle
from test_control import FAKETIME, set_clock

from mast_runtime import save

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "examples" / "ros2" / "mast_policy"
ROS = Path(os.environ.get("MAST_ROS_PYTHON") or Path(sys.prefix) / "ros" / "bin" / "python")
pytestmark = pytest.mark.skipif(not ROS.exists(), reason=f"needs rclpy in {ROS.parents[1]}: make ros")
GOOD, STOP = [0.5, 0.1, 0.2, 0.3], -1
OK, WARN, ERROR = 0, 1, 2
CLEANUP, ACTIVATE, DEACTIVATE, CONFIGURE = 2, 3, 4, 1
"""Transitions' ids in lifecycle_msgs."""


def start(script, *arguments, **environment):
    alone = {"ROS_DOMAIN_ID": str(1 + os.getpid() % 100), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    alone |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{PACKAGE}", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [str(ROS), *script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, **alone, **environment},
    )  # fmt: skip


@pytest.fixture
def bundle():
    return random_bundle(0, 2, obs_dim=4, n_actions=3, hidden=8)


class Peer:
    """The sensors and motors, in a process of their own."""

    def __init__(self, *kind):
        self.process = start([str(ROOT / "tests" / "ros_peer.py"), *kind])

    def __call__(self, **command):
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line.startswith(("{", "null", "true", "false")), line + self.process.stdout.read()
        return json.loads(line)

    def actions(self, seconds):
        return [action for _, action in self(listen=seconds)["actions"]]

    def until(self, wanted, limit_s=10.0):
        """Listen until an action is heard that satisfies `wanted`."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if any(map(wanted, self.actions(0.1))):
                return
        raise AssertionError("not heard")


@pytest.fixture
def peer(request):
    peer = Peer(*request.param) if hasattr(request, "param") else Peer()
    yield peer
    peer.process.kill()
    peer.process.communicate()


@pytest.fixture
def launch(bundle, tmp_path):
    """Start a node with these parameters; what is left of them at the end is killed."""
    save(bundle, tmp_path / "p.mast")
    nodes = []

    def start_node(environment=None, **parameters):
        given = {"policy": tmp_path / "p.mast", "agent": 1, "rate": 20, "max_age": 0.5} | parameters
        arguments = [part for name, value in given.items() for part in ("-p", f"{name}:={value}")]
        nodes.append(start(["-m", "mast_policy.node"], "--ros-args", *arguments, **(environment or {})))
        return nodes[-1]

    yield start_node
    for node in nodes:
        node.kill()
        node.communicate()


def ended(node, number=signal.SIGTERM):
    node.send_signal(number)
    return node.communicate(timeout=20)[0], node.returncode


def test_it_decides_at_its_rate_stops_without_fresh_observations_and_last_of_all(launch, peer, bundle):
    """rate and max_age are whole numbers, as a person types them."""
    node, agent = launch(max_age=1), bundle.agent(1)
    peer.until(lambda action: action == STOP)
    peer(publish=GOOD)
    heard = peer.actions(0.5)
    decided = [action for action in heard if action != STOP]
    assert decided and decided == [agent.act(GOOD) for _ in decided], "the bits of the agent"
    heard = peer(listen=1.5)["actions"]
    assert heard[0][1] != STOP and heard[-1][1] == STOP, "older than a second"
    gaps = [after - before for (before, _), (after, _) in pairwise(heard)]
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(0.05, abs=0.02)
    peer(publish=[math.inf, 0.0, 0.0, 0.0])
    assert peer.actions(0.5)[-1] == STOP
    peer(publish=[0.0] * 5)
    heard = peer(listen=2.2)
    assert heard["actions"][-1][1] == STOP
    level, text, values = heard["diagnosed"][-1]
    assert level == ERROR and "stopped" in text and int(values["refused"]) > 5 and int(values["decisions"]) > 0
    assert peer(call="reset")
    peer(publish=[0, 1, 1], topic="available_actions")
    peer(publish=GOOD)
    agent.reset()
    decided = [action for action in peer.actions(0.5) if action != STOP]
    assert decided and decided == [agent.act(GOOD, bytes([0, 1, 1])) for _ in decided]
    peer(publish=GOOD)
    assert peer.actions(0.3)[-1] != STOP
    log, code = ended(node)
    assert code == 0 and "Traceback" not in log and log.count("stopped: ") < 12, "logs are throttled"
    assert peer.actions(0.3)[-1] == STOP, "the last message"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_decisions_is_a_stop_at_once(launch, peer, number):
    node = launch(rate=1, max_age=9)
    peer(publish=GOOD)
    peer.until(lambda action: action != STOP)
    assert ended(node, number)[1] == 0
    assert peer.actions(0.5) == [STOP]


def test_the_lifecycle_and_a_policy_replaced_by_it(launch, peer, tmp_path):
    node = launch(autostart=False)
    assert peer(transition=CONFIGURE) and peer.actions(0.4) == []
    peer(publish=GOOD)
    assert peer(transition=ACTIVATE)
    peer.until(lambda action: action == STOP)  # what was seen before is of another episode
    peer(publish=GOOD)
    peer.until(lambda action: action != STOP)
    assert peer(transition=DEACTIVATE)
    heard = peer(listen=1.3)
    assert heard["actions"] == [] and heard["diagnosed"][-1][:2] == [WARN, "inactive"]
    assert peer(transition=CLEANUP)
    (tmp_path / "p.mast").write_bytes(b"broken")
    assert not peer(transition=CONFIGURE)
    save(random_bundle(1, 2, obs_dim=3, n_actions=3, hidden=8), tmp_path / "p.mast")
    assert peer(transition=CONFIGURE) and peer(transition=ACTIVATE)
    peer(publish=GOOD[:3])
    peer.until(lambda action: action != STOP)
    log, code = ended(node)
    assert code == 0 and "cannot be configured" in log and "Traceback" not in log


@pytest.mark.parametrize("peer", [["continuous"]], indirect=True)
def test_continuous_actions_are_numbers_in_their_units_and_so_is_their_stop(launch, peer, tmp_path):
    bundle, stop = bounded_bundle(obs_dim=4, hidden=8), [3.5, 0.5]
    save(bundle, tmp_path / "arm.mast")
    node, agent = launch(policy=tmp_path / "arm.mast", agent=2, stop_action="[3.5, 0.5]"), cast(Any, bundle.agent(2))
    peer.until(lambda action: action == stop)
    peer(publish=GOOD)
    heard = peer.actions(0.4)
    decided = [action for action in heard if action != stop]
    assert decided and decided == [agent.act(GOOD).tolist() for _ in decided], "the bits of the agent"
    peer(publish=[math.nan, 0.0, 0.0, 0.0])
    assert peer.actions(0.4)[-1] == stop
    log, code = ended(node)
    assert code == 0 and "Traceback" not in log and peer.actions(0.3)[-1] == stop, "the last message"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "which action stops the robot is yours to say, one within [3, 4] [-1, 1]"),
        ("[3.5]", "expected 2 components, one within each of [3, 4] [-1, 1]"),
        ("[0.0, 0.0]", "expected 2 components, one within each of [3, 4] [-1, 1]"),
        ("rest", "expected a list of 2 numbers"),
    ],
)
def test_a_robot_of_continuous_actions_does_not_start_without_its_stop(launch, tmp_path, given, said):
    save(bounded_bundle(obs_dim=4, hidden=8), tmp_path / "arm.mast")
    parameters = {} if given is None else {"stop_action": given}
    log, _ = (node := launch(policy=tmp_path / "arm.mast", agent=2, **parameters)).communicate(timeout=20)
    assert node.returncode == 2 and said in log and log.count("\n") == 1, log


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"policy": "none.mast"}, "none.mast: no such policy file"),
        ({"rate": "fast"}, "parameter rate is 'fast', expected a number"),
        ({"observation_field": "layout"}, "has no such sequence"),
        ({"stop_action": "[0.0]"}, "this policy chooses among actions"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(launch, parameters, said):
    log, _ = (node := launch(**parameters)).communicate(timeout=20)
    assert node.returncode == 2 and said in log and log.count("\n") == 1, log


def test_the_age_is_the_stamps_where_there_is_one(launch, peer, bundle):
    node = launch(observation_type="sensor_msgs/msg/JointState", observation_field="position")
    stamped = {"type": ["sensor_msgs", "JointState"], "field": "position"}
    peer(publish=GOOD, **stamped, age=5.0)
    heard = peer(listen=1.1)
    assert {action for _, action in heard["actions"]} == {STOP} and "s old" in heard["diagnosed"][-1][1]
    peer(publish=GOOD, **stamped, age=0.3)
    heard = peer.actions(0.6)
    assert heard[-1] == STOP
    decided = [action for action in heard if action != STOP]
    agent = bundle.agent(1)
    assert 0 < len(decided) < 8 and decided == [agent.act(GOOD) for _ in decided], "half a second from the stamp on"
    peer(publish=GOOD, **stamped, age=-60.0)
    assert set(peer.actions(0.4)) == {STOP}, "of the future: its age is not known"
    assert "ahead of this clock" in ended(node)[0]


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (Debian: faketime)")
def test_the_wall_clock_may_be_set_back(launch, peer, tmp_path):
    file = tmp_path / "clock"
    set_clock(file, "+0")
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
    node = launch(faked | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    peer(publish=GOOD)
    peer.until(lambda action: action != STOP)
    for offset in ("-3600", "+3600"):
        set_clock(file, offset)
        peer(publish=GOOD)
        heard = peer.actions(0.3)
        assert len(heard) > 2 and set(heard) != {STOP}
        heard = peer.actions(0.6)
        assert len(heard) > 5 and heard[-1] == STOP, "silence is noticed as before"
    assert ended(node)[1] == 0
