"""SMAX: the SMAC maps by name, simulated in JAX against JaxMARL's built-in heuristic enemy.

Source: Rutherford et al., JaxMARL: Multi-Agent RL Environments and Algorithms in JAX, NeurIPS 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from mast_train.envs import smax_jax, smax_scene
from mast_train.envs.base import EnvSpec, Observation, Transition, check_actions
from mast_train.envs.scene import Scene


class SmaxEnv:
    """E battles on one SMAX map. Observations are JaxMARL's "unit_list"; the state is its world state, normalised.

    The reward is JaxMARL's (the mean fraction of enemy health lost, and 1 for a win) times `reward_scale`: with the
    default of 10 a won episode returns about 20, as in SMAC.
    """

    def __init__(
        self, map_name: str, num_envs: int, seed: int, device: torch.device, reward_scale: float = 10.0
    ) -> None:
        """Raises UserError for an unknown map or a missing JaxMARL. Compiling waits for the first reset and step."""
        self.num_envs, self.device, self._reward_scale = num_envs, device, reward_scale
        self._jax_device = smax_jax.find_device(device.type, device.index or 0, torch.get_num_threads())
        self.spec = _spec(map_name)
        self._programs = smax_jax.programs(map_name, num_envs, reward_scale)
        self._carry: smax_jax.Carry | None = None
        self._put_key([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF])

    @staticmethod
    def maps() -> tuple[str, ...]:
        """Every map the installed JaxMARL knows."""
        return tuple(smax_jax.import_jaxmarl().smax_env.MAP_NAME_TO_SCENARIO)

    def reset(self) -> Observation:
        """Start E fresh battles. The first call compiles."""
        self._carry = self.begin()
        return self._seen(self._carry).next

    def begin(self) -> smax_jax.Carry:
        """Draw E fresh battles, for somebody else to step."""
        self._key, carry = self._programs.reset(self._key)
        return carry

    def joint_programs(self) -> smax_jax.JointPrograms:
        """For these battles beside those of other seeds."""
        in_lanes = self._jax_device.platform != "cpu"
        return smax_jax.joint_programs(self.spec.map, self.num_envs, self._reward_scale, in_lanes)

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64, each available. Raises ValueError for a wrong shape. The first call compiles."""
        check_actions(actions, self.num_envs, self.spec.n_agents)
        if self._carry is None:
            raise ValueError("step was called before reset")
        self._carry = self._programs.step(self._carry, self.to_jax(actions))
        return self._seen(self._carry)

    def state_dict(self) -> dict[str, Any]:
        """The key from which the next reset draws whole episodes, as two integers."""
        return {"key": np.asarray(self._key).tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._put_key(state["key"])

    def picture(self) -> Scene | None:
        """The first battle; None before the first reset."""
        if self._carry is None:
            return None
        units = self._carry.simulator.state
        return smax_scene.scene(
            smax_jax.simulator(self.spec.map),
            *(
                np.asarray(x[0])
                for x in (
                    units.unit_positions,
                    units.unit_alive,
                    units.unit_health,
                    units.unit_types,
                    units.prev_attack_actions,
                )
            ),
        )

    def close(self) -> None:
        """Nothing to release."""

    def _put_key(self, key: list[int]) -> None:
        import jax

        self._key = jax.device_put(np.array(key, dtype=np.uint32), self._jax_device)

    def to_jax(self, actions: torch.Tensor) -> Any:
        """Actions as the compiled step takes them, where it runs."""
        if self._jax_device.platform == "cpu":
            return actions.cpu().numpy()
        import jax

        return jax.dlpack.from_dlpack(actions.to(torch.int32).contiguous())

    def _seen(self, carry: smax_jax.Carry) -> Transition:
        return _transition(shared_with_torch(carry.view, self.device))


class SmaxTogether:
    """The battles of several SmaxEnv alike in one compiled step, each begun from the key of its own.

    places: for how many of them the step is compiled.
    """

    def __init__(self, envs: Sequence[SmaxEnv], places: int) -> None:
        first, self._envs, self._places = envs[0], list(envs), places
        self.spec, self.device, self.num_envs = first.spec, first.device, len(envs) * first.num_envs
        self._programs = first.joint_programs()
        self._carry: smax_jax.Carry | None = None

    def reset(self) -> Observation:
        """Start fresh battles everywhere. The first call compiles."""
        carries = [env.begin() for env in self._envs]
        spare = carries[:1] * (self._places - len(carries))
        self._carry = self._programs.join(len(carries), *carries, *spare)
        return self._seen(self._carry).next

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64 of all, each available. Raises ValueError for a wrong shape. The first call compiles."""
        check_actions(actions, self.num_envs, self.spec.n_agents)
        if self._carry is None:
            raise ValueError("step was called before reset")
        each = self._envs[0].num_envs
        placed = torch.nn.functional.pad(actions, (0, 0, 0, self._places * each - self.num_envs))
        placed = placed.view(self._places, each, self.spec.n_agents)
        self._carry = self._programs.step(self._carry, self._envs[0].to_jax(placed))
        return self._seen(self._carry)

    def _seen(self, carry: smax_jax.Carry) -> Transition:
        shown = shared_with_torch(carry.view, self.device)
        return _transition(smax_jax.View(*(tensor.flatten(0, 1)[: self.num_envs] for tensor in shown)))


def shared_with_torch(view: smax_jax.View, device: torch.device) -> smax_jax.View:
    """A view's arrays as tensors of the same memory, where JAX and torch are on one device.

    By DLPack's protocol the producer sees to it that the memory is written first: JAX holds back torch's stream on a
    GPU, and the caller on a CPU. JAX may use the memory again once the tensors are gone and it has taken new actions
    from torch's stream.
    """
    return smax_jax.View(*(torch.from_dlpack(array).to(device) for array in view))


def _transition(shown: smax_jax.View) -> Transition:
    return Transition(
        Observation(shown.obs, shown.state, shown.avail_actions),
        shown.reward,
        shown.terminated,
        shown.truncated,
        shown.won,
    )


def _spec(map_name: str) -> EnvSpec:
    simulator = smax_jax.simulator(map_name)
    if simulator.smacv2_unit_type_generation:
        agent_types = ("random",) * simulator.num_allies
    else:
        unit_types = np.asarray(simulator.scenario)[: simulator.num_allies]
        agent_types = tuple(simulator.unit_type_names[kind] for kind in unit_types)
    return EnvSpec(
        env="smax",
        map=map_name,
        n_agents=simulator.num_allies,
        obs_dim=simulator.obs_size,
        state_dim=simulator.state_size,
        n_actions=simulator.num_ally_actions,
        # The simulator compares its step counter with max_steps before it increments it.
        episode_limit=simulator.max_steps + 1,
        agent_types=agent_types,
        version=f"jaxmarl {version('jaxmarl')}",
    )
