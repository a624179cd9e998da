"""SMAX: the SMAC maps by name, simulated in JAX against JaxMARL's built-in heuristic enemy.

Source: Rutherford et al., JaxMARL: Multi-Agent RL Environments and Algorithms in JAX, NeurIPS 2024.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from mast_train.envs import smax_jax
from mast_train.envs.base import EnvSpec, Observation, Transition
from mast_train.errors import check_choice


class SmaxEnv:
    """E battles on one SMAX map. Observations are JaxMARL's "unit_list"; the state is its world state, normalised.

    The reward is JaxMARL's (the mean fraction of enemy health lost, and 1 for a win) times `reward_scale`: with the
    default of 10 a won episode returns about 20, as in SMAC.
    """

    def __init__(
        self, map_name: str, num_envs: int, seed: int, device: torch.device, reward_scale: float = 10.0
    ) -> None:
        """Raises UserError for an unknown map or a missing JaxMARL. Compiling waits for the first reset and step."""
        smax = smax_jax.import_jaxmarl()
        check_choice("smax map", map_name, self.maps())
        self.num_envs, self.device = num_envs, device
        self._jax_device = _jax_device(device)
        smax_jax.use_compilation_cache()
        scenario = smax.map_name_to_scenario(map_name)
        simulator = smax.HeuristicEnemySMAX(scenario=scenario)
        self.spec = _spec(map_name, scenario, simulator)
        self._programs = smax_jax.build_programs(simulator, num_envs, reward_scale)
        self._carry: smax_jax.Carry | None = None
        self._put_key([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF])

    @staticmethod
    def maps() -> tuple[str, ...]:
        """Every map the installed JaxMARL knows."""
        return tuple(smax_jax.import_jaxmarl().smax_env.MAP_NAME_TO_SCENARIO)

    def reset(self) -> Observation:
        """Start E fresh battles. The first call compiles."""
        self._key, self._carry = self._programs.reset(self._key)
        return self._transition().next

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64, each available. Raises ValueError for a wrong shape. The first call compiles."""
        expected = (self.num_envs, self.spec.n_agents)
        if actions.shape != expected:
            raise ValueError(f"actions have shape {tuple(actions.shape)}, expected {expected}")
        if self._carry is None:
            raise ValueError("step was called before reset")
        self._carry = self._programs.step(self._carry, self._to_jax(actions))
        return self._transition()

    def state_dict(self) -> dict[str, Any]:
        """The key from which the next reset draws whole episodes, as two integers."""
        return {"key": np.asarray(self._key).tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._put_key(state["key"])

    def close(self) -> None:
        """Nothing to release."""

    def _put_key(self, key: list[int]) -> None:
        import jax

        self._key = jax.device_put(np.array(key, dtype=np.uint32), self._jax_device)

    def _to_jax(self, actions: torch.Tensor) -> Any:
        if self._jax_device.platform == "cpu":
            return actions.cpu().numpy()
        import jax

        return jax.dlpack.from_dlpack(actions.to(torch.int32))

    def _transition(self) -> Transition:
        view = self._carry.view
        # DLPack shares memory, which JAX may still be writing.
        view.obs.block_until_ready()
        shown = smax_jax.View(*(torch.from_dlpack(array).to(self.device) for array in view))
        return Transition(
            Observation(shown.obs, shown.state, shown.avail_actions),
            shown.reward,
            shown.terminated,
            shown.truncated,
            shown.won,
        )


def _spec(map_name: str, scenario: Any, simulator: Any) -> EnvSpec:
    names = simulator.unit_type_names
    if scenario.smacv2_unit_type_generation:
        agent_types = ("random",) * simulator.num_allies
    else:
        agent_types = tuple(names[kind] for kind in np.asarray(scenario.unit_types)[: simulator.num_allies])
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


def _jax_device(device: torch.device) -> Any:
    """Where JAX simulates for tensors on `device`: the same GPU if JAX sees it, else the CPU (steps are copied)."""
    import jax

    if device.type == "cpu":
        smax_jax.use_cpu()
    if device.type == "cuda":
        try:
            return jax.devices("cuda")[device.index or 0]
        except RuntimeError:
            warnings.warn(
                "JAX sees no GPU, so SMAX runs on the CPU and every step is copied to the GPU: "
                'install the JAX that matches your driver, e.g. pip install "jax[cuda13]"',
                stacklevel=3,
            )
    return jax.devices("cpu")[0]
