"""A stand-in for the package smac, with the API of smac.env.StarCraft2Env on map 3m, and an interpreter that has it.

For tests of the protocol: this file becomes smac/env/__init__.py there. Numpy only.
"""

import os
import sys
import time

import numpy as np

N_AGENTS, N_ACTIONS, OBS_DIM, STATE_DIM, LIMIT = 3, 9, 4, 5, 6
STOP, ATTACK = 1, 6
BUILD = 75689


class StarCraft2Env:
    """A battle that is won after 2 + seed % 3 steps; the option `script` makes it end otherwise.

    Scripts: win, limit (never ends by itself), crash (the game restarts), fresh (it restarts in the second reset),
    raise, exit (the process dies), hang, mute (no action is available once the episode has ended), wide (an observation
    is too long), nan, draw (its observations are the options).
    """

    n_enemies, reward_death_value, reward_win, max_reward = 1, 10, 200, 0.0

    def __init__(self, map_name, seed, continuing_episode, script="win", replay_dir="", replay_prefix="", **options):
        assert map_name == "3m" and continuing_episode
        self.script, self.options, self.replay = script, options, (replay_dir, replay_prefix)
        self.length = 2 + seed % 3
        self.seed, self.steps, self.ended, self.resets, self.force_restarts = seed, 0, False, 0, 0
        self.enemies = {0: type("Enemy", (), {"health_max": 45.0, "shield_max": 0.0})}
        print("the game chats", flush=True)

    def get_env_info(self):
        return {
            "state_shape": STATE_DIM,
            "obs_shape": OBS_DIM,
            "n_actions": N_ACTIONS,
            "n_agents": N_AGENTS,
            "episode_limit": LIMIT,
        }

    def reset(self):
        self.resets += 1
        self.steps, self.ended = 0, False
        self.max_reward += 245  # as SMAC does in every reset before the first end
        if self.script == "fresh" and self.resets == 2:
            self.steps, self.force_restarts = 99, 1

    def step(self, actions):
        for row, action in zip(self.get_avail_actions(), actions, strict=True):
            assert row[action] == 1, f"Agent cannot perform action {action}"
        self.steps += 1
        if self.script == "raise" and self.steps == 2:
            raise ConnectionError("the game\nwent away")
        if self.script == "exit" and self.steps == 2:
            print("out of memory", file=sys.stderr)
            os._exit(3)
        if self.script == "hang":
            time.sleep(60)
        if self.script == "crash" and self.steps == 2:
            self.steps = -100
            return 0, True, {}
        if self.script != "limit" and self.steps >= self.length:
            self.ended = True
            return 12.5, True, {"battle_won": True}
        if self.steps >= LIMIT:
            return 0.5, True, {"battle_won": False, "episode_limit": True}
        return 0.5, False, {"battle_won": False}

    def get_obs(self):
        width = OBS_DIM + (self.script == "wide")
        obs = [np.full(width, self.steps + agent / 10, dtype=np.float32) for agent in range(N_AGENTS)]
        if self.script == "nan":
            obs[1][2] = np.nan
        return obs

    def get_state(self):
        return np.array([self.steps, self.seed % 1000, self.resets, self.max_reward, len(self.options)], np.float32)

    def get_avail_actions(self):
        if self.ended and self.script == "mute":
            return [[0] * N_ACTIONS] * N_AGENTS
        return [[0, 1, 1, 1, 1, 1, 0, 0, int(self.steps > 0)]] * N_AGENTS

    def save_replay(self):
        folder, prefix = self.replay
        with open(os.path.join(folder, f"{prefix}_2026-01-01.SC2Replay"), "wb") as file:
            file.write(f"replay of {self.resets}".encode())

    def close(self):
        pass
