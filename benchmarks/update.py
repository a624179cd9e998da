"""One learner update and its parts: MAST 95 % sparse in C, our C pass run dense, and dense torch, interleaved.

    python benchmarks/update.py [--rounds 7] [--threads 1] [--maps 3m 8m] [--hidden 64 256] [--clock wall] [--profile]
                                [--json FILE]

Every row is a whole learner at a map's sizes, one network an agent, on the same batches of 32 random episodes of 10 to
30 steps. An "evolving update" changes the topology as well: one in two hundred does. Rows take turns, round after
round: a time is the median over the rounds, a ratio the median of the rounds' ratios. `--clock cpu` counts processor
time instead, for a machine where something else runs; it means one thread.
`--profile` adds what the agents' pass computes and moves, against what this machine does at best.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import cast

import torch

from mast_runtime.measure.machine import describe_machine
from mast_train.engines import native
from mast_train.engines.base import Wanted
from mast_train.engines.native import SparseSequence
from mast_train.engines.native.inputs import plain
from mast_train.engines.native.mixer import SparseMixer
from mast_train.engines.torch_engine import TorchValues
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch, Rows, pick, taken
from mast_train.learning.learner import Learner
from mast_train.learning.losses import Goal
from mast_train.learning.update import Update
from mast_train.networks.agents import AgentNets
from mast_train.networks.build import agent_inputs
from mast_train.networks.mixers import MonotonicMixer
from mast_train.runs.malloc import keep_freed_memory
from mast_train.settings.config import override
from mast_train.settings.methods import preset

SPECS = {
    "3m": EnvSpec("smax", "3m", 3, 75, 72, 8, 101, ("marine",) * 3),
    "8m": EnvSpec("smax", "8m", 8, 205, 192, 13, 101, ("marine",) * 8),
}
ROWS = {"sparse native": ("mast", "native"), "dense native": ("dense", "native"), "dense torch": ("dense", "torch")}
"""Row -> method and kernel."""
BATCHES, EPISODES, LENGTHS = 4, 32, (10, 30)
PASSES = 3
"""How often a row runs the batches in its turn: caches are as in training, where updates follow each other."""
TARGETS = {
    ("update", "dense torch", 64): 8,
    ("update", "dense torch", 256): 10,
    ("agents", "dense torch", 64): 30,
    ("agents", "dense torch", 256): 12,
    ("agents", "dense native", 64): 12,
    ("agents", "dense native", 256): 12,
}
"""Part, baseline, hidden -> times slower than the sparse row."""
CLOCKS = {"wall": perf_counter, "cpu": process_time}


def random_batch(spec: EnvSpec, seed: int, length: torch.Tensor | None = None) -> EpisodeBatch:
    """Episodes of random contents; three of four end, the others are cut. length: of each [EPISODES,1]."""
    g = torch.Generator().manual_seed(seed)
    if length is None:
        length = torch.randint(LENGTHS[0], LENGTHS[1] + 1, (EPISODES, 1), generator=g)
    t, n, a = int(length.max()), spec.n_agents, spec.n_actions
    filled, last, padding = (f(torch.arange(t + 1), length) for f in (torch.lt, lambda s, k: s == k - 1, torch.gt))
    avail = (torch.rand(EPISODES, t + 1, n, a, generator=g) < 0.6) | padding[:, :, None, None]
    avail[..., 0] = True
    score = torch.rand(EPISODES, t, n, a, generator=g).masked_fill(~avail[:, :-1], -1.0)
    filled, last = filled[:, :-1], last[:, :-1]
    terminated = last & (torch.arange(EPISODES)[:, None] % 4 != 0)
    return EpisodeBatch(
        obs=torch.randn(EPISODES, t + 1, n, spec.obs_dim, generator=g) * ~padding[:, :, None, None],
        state=torch.randn(EPISODES, t + 1, spec.state_dim, generator=g) * ~padding[:, :, None],
        avail_actions=avail,
        actions=score.argmax(-1) * filled[..., None],
        reward=torch.randn(EPISODES, t, generator=g) * filled,
        terminated=terminated,
        truncated=last & ~terminated,
        filled=filled,
    )


Nets = SparseSequence | AgentNets


@dataclass(frozen=True)
class Subject:
    """A learner that is measured, what steps it, and its online and target agents, in C or torch."""

    learner: Learner
    step: Update
    agents: Nets
    target_agents: Nets


def make_subject(map_name: str, hidden: int, row: str) -> Subject:
    method, kernel = ROWS[row]
    settings = {"env.map": map_name, "net.hidden": hidden, "kernel": kernel, "target.start": 0.0}
    learner = Learner(override(preset(method), settings), SPECS[map_name], torch.device("cpu"))
    step, target = Update([learner]), cast(AgentNets, learner.targets["target_agents"])
    in_c = isinstance(step.engine.actor, SparseSequence)
    return Subject(learner, step, cast(Nets, step.engine.actor), SparseSequence(target, None) if in_c else target)


class Sequences:
    """The agents' passes over one batch, whose inputs were made before."""

    def __init__(self, learner: Learner, batch: EpisodeBatch, rows: Rows) -> None:
        self._batch, self._rows = batch, rows
        self._grad_taken = torch.randn(rows.now.numel(), learner.spec.n_agents)
        last_action = torch.cat([torch.full_like(batch.actions[:, :1], -1), batch.actions], 1)
        self._in_torch = agent_inputs(learner.config, learner.spec, batch.obs, last_action).transpose(0, 1)
        obs, actions = plain(batch.obs.transpose(0, 1)), batch.actions.transpose(0, 1)
        self._in_c = native.Inputs(obs, actions, rows.order, rows.now.numel(), one_hot=True)

    def learn(self, nets: Nets) -> None:
        """Forward, and back from the values of the actions taken."""
        if isinstance(nets, SparseSequence):
            (values,) = native.together(self._in_c, (nets, Wanted(learning=True)))
            values.backward(None, self._grad_taken)
        else:
            chosen = pick(self._batch.actions, self._rows.transition)
            taken(nets(self._in_torch)[0], self._rows, chosen).backward(self._grad_taken)

    @torch.no_grad()
    def look_ahead(self, nets: Nets) -> None:
        """Forward, for the values of all next actions."""
        if isinstance(nets, SparseSequence):
            native.together(self._in_c, (nets, Wanted(after=True)))
        else:
            pick(nets(self._in_torch)[0], self._rows.next_step_major)


def parts_of(subject: Subject, batch: EpisodeBatch) -> dict[str, Callable[[], object]]:
    """Part -> the piece of an update that it names, to run again and again; "update" is all of it. In C it carries the
    agents and the target agents through their inputs together, which takes less than the two parts."""
    learner, engine = subject.learner, subject.step.engine
    rows = engine.rows(batch)
    sequences = Sequences(learner, batch, rows)
    q_taken, y = torch.randn(rows.now.numel(), learner.spec.n_agents, requires_grad=True), torch.randn(rows.now.numel())
    sparse_mixer = None
    if isinstance(subject.agents, SparseSequence):
        assert isinstance(learner.mixer, MonotonicMixer)
        sparse_mixer = SparseMixer(learner.mixer, learner.masks["mixer"].state_dict())

    def agents() -> None:
        engine.clear_gradients()
        sequences.learn(subject.agents)

    def mixers() -> None:
        engine.clear_gradients()
        if sparse_mixer is None:
            engine.fit("mixer", TorchValues(q_taken, None, None), batch, rows, {"loss": Goal(y)}, False)
        else:
            sparse_mixer.fit(q_taken, batch.state.flatten(0, 1), rows.now, y, None, 1.0)
        with torch.no_grad():
            engine.mix("target_mixer", q_taken, batch.state, rows, rows.after)

    def update() -> None:
        learner.updates = 0  # neither evolves the topology nor copies the targets
        subject.step(batch, [1])

    def evolving_update() -> None:
        learner.updates = learner.config.sparse.update_interval - 1
        subject.step(batch, [1])

    return {
        "update": update,
        "agents": agents,
        "target agents": lambda: sequences.look_ahead(subject.target_agents),
        "mixers": mixers,
        "optimiser": lambda: engine.optimise(learner.config.train.grad_clip),
        "evolving update": evolving_update,
    }


def measure(map_name: str, hidden: int, rounds: int, clock: Callable[[], float]) -> dict[str, dict[str, list[float]]]:
    """Part -> row -> seconds, a round each, after one round to warm up."""
    batches = [random_batch(SPECS[map_name], seed) for seed in range(BATCHES)]
    subjects = {row: make_subject(map_name, hidden, row) for row in ROWS}
    seconds: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds + 1):
        for row, subject in subjects.items():
            parts = [parts_of(subject, batch) for batch in batches]
            for part in ("update", "agents", "target agents", "mixers", "update", "optimiser", "evolving update"):
                times = 1 if part == "evolving update" else PASSES
                started = clock()
                for _ in range(times):
                    for of_batch in parts[:times]:
                        of_batch[part]()
                if number:
                    per_run = (clock() - started) / (times * len(parts[:times]))
                    seconds.setdefault(part, {}).setdefault(row, []).append(per_run)
    return seconds


def ratio(by_row: dict[str, list[float]], slow: str) -> float:
    return median(a / b for a, b in zip(by_row[slow], by_row["sparse native"], strict=True))


def limits(clock: Callable[[], float]) -> dict[str, float]:
    """What the machine does at best with the given threads: multiply-adds of a matrix product, copies of two sizes."""

    def best(run: Callable[[], object], work: float) -> float:
        times = []
        for _ in range(9):
            started = clock()
            run()
            times.append(clock() - started)
        return round(work / min(times) / 1e9, 1)

    a, out = torch.randn(1024, 1024), torch.empty(1024, 1024)
    near, far = torch.empty(2, 2**20), torch.empty(2, 2**25)
    return {
        "product_gflops": best(lambda: torch.mm(a, a, out=out), 2.0 * 1024**3),
        "cache_gb_s": best(lambda: [near[0].copy_(near[1]) for _ in range(16)], 16 * 8.0 * 2**20),
        "memory_gb_s": best(lambda: far[0].copy_(far[1]), 8.0 * 2**25),
    }


def agents_work(learner: Learner, batch: EpisodeBatch) -> dict[str, float]:
    """What forward and backward of the agents compute and move: multiply-adds at the connections, three times; the six
    activations a unit that the forward pass keeps, written and read; observations, read twice."""
    steps = float((batch.lengths + 1).sum())
    parameters = [p for name, p in learner.agents.named_parameters() if "weight" in name]
    masks = learner.masks["agents"].state_dict()
    connections = sum(int(m.sum()) for m in masks.values()) if masks else sum(p.numel() for p in parameters)
    kept = 2 * 6 * learner.config.net.hidden + 2 * learner.spec.obs_dim
    return {"flops": 6.0 * connections * steps, "bytes": 4.0 * kept * steps * learner.spec.n_agents}


def profile(map_name: str, hidden: int, clock: Callable[[], float], agents_seconds: float) -> dict[str, float]:
    """The sparse row's agents against the machine."""
    learner = make_subject(map_name, hidden, "sparse native").learner
    work = [agents_work(learner, random_batch(SPECS[map_name], seed)) for seed in range(BATCHES)]
    mflop, megabytes = (sum(w[key] for w in work) / len(work) / 1e6 for key in ("flops", "bytes"))
    found = {"agents_mflop": round(mflop, 2), "agents_mb": round(megabytes, 2)}
    found |= {
        "agents_gflops": round(mflop / agents_seconds / 1e3, 1),
        "agents_gb_s": round(megabytes / agents_seconds / 1e3, 1),
    }
    return found | limits(clock)


def report(map_name: str, hidden: int, seconds: dict[str, dict[str, list[float]]]) -> dict:
    """Prints one setting; returns it for the file."""
    print(f"\n{map_name}, hidden {hidden}" + "".join(f"{row:>16}" for row in ROWS) + "   times faster than")
    times_faster: dict[str, dict[str, float]] = {}
    for part, by_row in seconds.items():
        times_faster[part] = {slow: round(ratio(by_row, slow), 2) for slow in list(ROWS)[1:]}
        columns = "".join(f"{median(by_row[row]) * 1e3:13.3f} ms" for row in ROWS)
        goals = {slow: TARGETS.get((part, slow, hidden)) for slow in times_faster[part]}
        said = [
            f"{slow} {x:.1f}" + (f" (target {goals[slow]})" if goals[slow] else "")
            for slow, x in times_faster[part].items()
        ]
        print(f"  {part:14}{columns}   {', '.join(said)}")
    medians = {part: {row: round(median(times) * 1e3, 4) for row, times in by.items()} for part, by in seconds.items()}
    return {"map": map_name, "hidden": hidden, "median_ms": medians, "times_faster": times_faster}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--maps", nargs="+", default=list(SPECS), choices=list(SPECS))
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    machine, clock = describe_machine(), CLOCKS[options.clock]
    print(
        f"{machine.cpu}, {options.threads} threads, {options.clock} clock, torch {torch.__version__}, {native.status()}"
    )
    print(machine.warning)
    results = []
    for map_name in options.maps:
        for hidden in options.hidden:
            seconds = measure(map_name, hidden, options.rounds, clock)
            result = report(map_name, hidden, seconds)
            if options.profile:
                result["profile"] = profile(map_name, hidden, clock, median(seconds["agents"]["sparse native"]))
                print("  " + ", ".join(f"{key} {value}" for key, value in result["profile"].items()))
            results.append(result)
    if options.json:
        found = {
            "machine": asdict(machine),
            "threads": options.threads,
            "clock": options.clock,
            "torch": torch.__version__,
        }
        options.json.write_text(json.dumps(found | {"rounds": options.rounds, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
