"""A policy at a fixed rate, as on a robot: sense, decide, drive, and stop on whatever goes wrong. No torch, no numpy.

python examples/robot_loop.py policy.mast --rate 50 --seconds 5
"""

import argparse
import gc
import random
from array import array

import mast_runtime
from mast_runtime.control import ControlLoop


class Robot:
    """Noise for sensors and no motors: put your own in its place."""

    def __init__(self, contract: mast_runtime.Contract) -> None:
        self.contract = contract

    def sense(self) -> tuple[array, bytes | None] | None:
        """Observation and available actions, as they were in training; None where there is nothing new."""
        observation = array("f", (random.uniform(-1.0, 1.0) for _ in range(self.contract.obs_dim)))
        continuous = self.contract.head is not None
        return observation, None if continuous else bytes([1] * self.contract.n_actions)

    def drive(self, action) -> None:
        """Begin an action and return at once: its number, or its components in the units of their bounds."""

    def stop(self) -> None:
        """What is safe. It may come twice, and from another thread while `sense` or `drive` hangs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", help="a .mast file")
    parser.add_argument("--agent", type=int, default=0, help="which robot of the team this is")
    parser.add_argument("--rate", type=float, default=50.0, help="decisions a second: the environment's steps a second")
    parser.add_argument("--max-age", type=float, default=0.5, help="seconds after which an observation is too old")
    parser.add_argument("--seconds", type=float, help="stop after so long (default: on SIGINT or SIGTERM)")
    parser.add_argument("--stop-action", type=float, nargs="+", help="what a stop is as a continuous action")
    options = parser.parse_args()
    agent = mast_runtime.load(options.policy).agent(options.agent)
    gc.freeze()  # what was loaded lives as long as the process: the collector need not look at it in mid-round
    loop = ControlLoop(agent, Robot(agent.contract), options.rate, options.max_age, stop_action=options.stop_action)
    counts = loop.run(None if options.seconds is None else round(options.rate * options.seconds))
    print(f"{agent.backend} at {options.rate:g} a second: {counts}")


if __name__ == "__main__":
    main()
