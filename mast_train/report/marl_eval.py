"""The raw results in marl-eval's layout: environment -> task -> algorithm -> run -> step_k, and absolute_metrics.

marl-eval (Gorsane et al. 2022, github.com/instadeepai/marl-eval) reads it as it is where rows have equally many seeds
and evaluations. Its algorithm is our algorithm and row together.
"""

from __future__ import annotations

from typing import Any

from mast_train.report.collect import Results
from mast_train.report.statistics import RETURN, WIN_RATE, last_count, measure_of

METRICS = {"win_rate": WIN_RATE, "return": RETURN, "episode_length": "length_mean"}


def marl_eval(results: Results) -> dict[str, Any]:
    """Every final run. absolute_metrics: the mean of the evaluations that our score averages, the paper's statistic.

    A task has the same metrics in every run: no win rate where one of its runs has none.
    """
    tree: dict[str, Any] = {}
    rates: dict[tuple[str, str], list[float | None]] = {}
    for run in results["runs"]:
        rates.setdefault(_task(results, run), []).extend(run["curve"][WIN_RATE])
    for run in results["runs"]:
        if run["phase"] != "final":
            continue
        config = results["configs"][run["config"]]
        name = f"{config['algorithm']} {run['row']}".replace(",", ";")
        env, map_ = _task(results, run)
        measure = measure_of(rates[env, map_])
        metrics = {key: column for key, column in METRICS.items() if column != WIN_RATE or measure == WIN_RATE}
        task = tree.setdefault(env, {}).setdefault(map_, {})
        task.setdefault(name, {})[f"seed_{run['seed']}"] = _run(run["curve"], metrics)
    return tree


def _task(results: Results, run: dict[str, Any]) -> tuple[str, str]:
    return run["env"], results["configs"][run["config"]]["env.map"]


def _run(curve: dict[str, list[Any]], metrics: dict[str, str]) -> dict[str, Any]:
    steps: dict[str, Any] = {
        f"step_{k}": {"step_count": step} | {name: [curve[column][k]] for name, column in metrics.items()}
        for k, step in enumerate(curve["step"])
    }
    last = last_count(len(curve["step"]))
    absolute = {name: [sum(curve[column][-last:]) / last] for name, column in metrics.items()}
    return steps | {"absolute_metrics": absolute}
