"""The raw results in marl-eval's layout: environment -> task -> algorithm -> run -> step_k, and absolute_metrics.

marl-eval (Gorsane et al. 2022, github.com/instadeepai/marl-eval) reads it as it is where rows have equally many seeds
and evaluations. Its algorithm is our algorithm and row together.
"""

from __future__ import annotations

from typing import Any

from mast_train.report.collect import Results
from mast_train.report.statistics import last_count

METRICS = {"win_rate": "win_rate", "return": "return_mean", "episode_length": "length_mean"}


def marl_eval(results: Results) -> dict[str, Any]:
    """Every final run. absolute_metrics: the mean of the evaluations that our score averages, the paper's statistic."""
    tree: dict[str, Any] = {}
    for run in results["runs"]:
        if run["phase"] != "final":
            continue
        config = results["configs"][run["config"]]
        name = f"{config['algorithm']} {run['row']}".replace(",", ";")
        task = tree.setdefault(run["env"], {}).setdefault(config["env.map"], {})
        task.setdefault(name, {})[f"seed_{run['seed']}"] = _run(run["curve"])
    return tree


def _run(curve: dict[str, list[Any]]) -> dict[str, Any]:
    steps: dict[str, Any] = {
        f"step_{k}": {"step_count": step} | {name: [curve[column][k]] for name, column in METRICS.items()}
        for k, step in enumerate(curve["step"])
    }
    last = last_count(len(curve["step"]))
    absolute = {name: [sum(curve[column][-last:]) / last] for name, column in METRICS.items()}
    return steps | {"absolute_metrics": absolute}
