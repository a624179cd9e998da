"""A policy at a fixed rate, as on a robot: sense, decide, drive, and stop where the policy refuses. No torch, no numpy.

python examples/robot_loop.py policy.mast --rate 50 --seconds 5
"""

import argparse
import gc
import random
import time
from array import array
from dataclasses import dataclass

import mast_runtime


class Robot:
    """Noise for sensors and no motors: put your own in its place."""

    def __init__(self, contract: mast_runtime.Contract) -> None:
        self.contract = contract

    def sense(self) -> tuple[array, bytes]:
        """Observation and available actions, as they were in training: the same order, the same scale."""
        observation = array("f", (random.uniform(-1.0, 1.0) for _ in range(self.contract.obs_dim)))
        return observation, bytes([1] * self.contract.n_actions)

    def drive(self, action: int) -> None:
        """Begin an action and return at once."""

    def stop(self) -> None:
        """What is safe."""


@dataclass
class Timing:
    """decisions_us: what each `act` took. late: rounds that ended after the next was due. refused: stops."""

    decisions_us: list[float]
    late: int = 0
    refused: int = 0


def control(agent, robot: Robot, rate_hz: float, rounds: int) -> Timing:
    """One episode of `rounds` decisions at `rate_hz`. A late round is not made up for."""
    timing, period = Timing([]), 1.0 / rate_hz
    agent.reset()
    due = time.monotonic()
    for _ in range(rounds):
        observation, available = robot.sense()
        before = time.perf_counter()
        try:
            action = agent.act(observation, available)
        except mast_runtime.ObservationError as error:  # a NaN, a wrong length, no action; the memory is as it was
            robot.stop()
            timing.refused += 1
            print(f"stopped: {error}")
        else:
            timing.decisions_us.append((time.perf_counter() - before) * 1e6)
            robot.drive(action)
        due += period
        left = due - time.monotonic()
        if left < 0.0:
            timing.late, due = timing.late + 1, due - left
        else:
            time.sleep(left)
    return timing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", help="a .mast file")
    parser.add_argument("--agent", type=int, default=0, help="which robot of the team this is")
    parser.add_argument("--rate", type=float, default=50.0, help="decisions a second: the environment's steps a second")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    agent = mast_runtime.load(options.policy).agent(options.agent)
    gc.freeze()  # what was loaded lives as long as the process: the collector need not look at it in mid-round
    robot = Robot(agent.contract)
    try:
        timing = control(agent, robot, options.rate, round(options.rate * options.seconds))
    finally:
        robot.stop()
    ordered = sorted(timing.decisions_us) or [float("nan")]
    print(
        f"{len(timing.decisions_us)} decisions on {agent.backend} at {options.rate:g} a second: "
        f"median {ordered[len(ordered) // 2]:.1f} us, longest {ordered[-1]:.1f} us; "
        f"{timing.late} late, {timing.refused} refused"
    )


if __name__ == "__main__":
    main()
