"""The ROS 2 node for twenty minutes beside busy processes: what arrived, how late, and what it cost.

    PYTHONPATH=. .venv/ros/bin/python benchmarks/ros2.py POLICY.mast [--minutes 20] [--rate 50] [--busy 2]

Runs in the environment that `make ros` builds. This process is the robot's sensors and motors, the node another one,
and --busy more compute all the time at low priority. Once a minute the sensors fall silent for two seconds, and then
say NaN for one: the node has to say stop, and go on. Prints one line of JSON.
"""

import argparse
import json
import math
import random
import signal
import statistics
import subprocess
import sys
import time
from array import array
from itertools import pairwise
from pathlib import Path

import mast_runtime

PACKAGE = Path(__file__).resolve().parent.parent / "examples" / "ros2" / "mast_policy"
MAX_AGE_S, SILENCE_S = 0.5, 2.0


def status(pid: int) -> dict[str, float]:
    """Resident memory in MB, threads and processor seconds of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    times = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu_s = sum(map(int, times[11:13])) / 100
    return {"rss_mb": int(lines["VmRSS"].split()[0]) / 1024, "threads": int(lines["Threads"]), "cpu_s": cpu_s}


class Robot:
    """Sensors at the node's rate by a steady clock, and a record of what the motors were told, second by second."""

    def __init__(self, obs_dim: int, rate: float) -> None:
        import rclpy
        from rclpy.qos import qos_profile_sensor_data
        from std_msgs.msg import Float32MultiArray, Int32

        rclpy.init()
        self.node, self.period_s, self.obs_dim = rclpy.create_node("robot"), 1.0 / rate, obs_dim
        self._spin_once, self._message = rclpy.spin_once, Float32MultiArray
        self.heard: list[tuple[float, int]] = []
        self.node.create_subscription(Int32, "action", self.hear, 100)
        self.sensors = self.node.create_publisher(Float32MultiArray, "observation", qos_profile_sensor_data)

    def hear(self, message) -> None:
        self.heard.append((time.monotonic(), message.data))

    def sense(self, until_s: float, silent: bool = False, value: float | None = None) -> None:
        """Publish, or not, until then, and listen."""
        due_s = time.monotonic()
        while due_s < until_s:
            if not silent:
                values = [random.uniform(-1, 1) if value is None else value for _ in range(self.obs_dim)]
                self.sensors.publish(self._message(data=array("f", values)))
            due_s = max(due_s + self.period_s, time.monotonic())
            while time.monotonic() < due_s:
                self._spin_once(self.node, timeout_sec=max(0.0, due_s - time.monotonic()))


def minute(robot: Robot) -> dict[str, int]:
    """Observations for 56 seconds, silence, a second of NaN, a second of observations: the stops that came when due."""
    start = time.monotonic()
    robot.sense(start + 56.0)
    silent_s = time.monotonic()
    robot.sense(silent_s + SILENCE_S, silent=True)
    nan_s = time.monotonic()
    robot.sense(nan_s + 1.0, value=math.nan)
    again_s = time.monotonic()
    robot.sense(again_s + 1.0)
    slack = 0.4
    phases = {"good": (start + slack, silent_s), "silent": (silent_s + MAX_AGE_S + slack, nan_s)}
    phases |= {"nan": (nan_s + slack, again_s), "again": (again_s + slack, again_s + 1.0)}
    found = {}
    for name, (begin, end) in phases.items():
        said = [action for when, action in robot.heard if begin <= when < end]
        right = [(action == -1) == (name in ("silent", "nan")) for action in said]
        found |= {f"{name}_right": sum(right), f"{name}_wrong": len(right) - sum(right)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy")
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--busy", type=int, default=2)
    options = parser.parse_args()
    robot = Robot(mast_runtime.load(options.policy).contract.obs_dim, options.rate)
    settings = {"policy": options.policy, "rate": options.rate, "max_age": MAX_AGE_S}
    arguments = [part for name, value in settings.items() for part in ("-p", f"{name}:={value}")]
    busy = [
        subprocess.Popen([sys.executable, "-c", "import os; os.nice(10)\nwhile True: pass"])
        for _ in range(options.busy)
    ]
    node = subprocess.Popen(
        [sys.executable, PACKAGE / "mast_policy" / "node.py", "--ros-args", *arguments], stderr=subprocess.DEVNULL
    )
    try:
        while not robot.heard:
            robot.sense(time.monotonic() + 0.1)
        first, counts = status(node.pid), dict.fromkeys((), 0)
        gaps: list[float] = []
        for _ in range(options.minutes):
            robot.heard.clear()
            for name, value in minute(robot).items():
                counts[name] = counts.get(name, 0) + value
            times = [when for when, _ in robot.heard]
            gaps += [after - before for before, after in pairwise(times)]
        last = status(node.pid)
        robot.heard.clear()
        node.send_signal(signal.SIGTERM)
        robot.sense(time.monotonic() + 1.0)
        ended = {"exit_code": node.wait(5), "last_action": robot.heard[-1][1] if robot.heard else None}
    finally:
        for process in (*busy, node):
            process.kill()
    gaps.sort()
    row = {"minutes": options.minutes, "rate": options.rate, "busy": options.busy, "messages": len(gaps), **counts}
    row |= {"gap_median_ms": 1e3 * statistics.median(gaps), "gap_p999_ms": 1e3 * gaps[int(0.999 * len(gaps))]}
    row |= {"gap_longest_ms": 1e3 * gaps[-1], **{f"{name}_first": value for name, value in first.items()}}
    print(json.dumps(row | {f"{name}_last": value for name, value in last.items()} | ended))


if __name__ == "__main__":
    main()
