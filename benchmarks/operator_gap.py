"""How far soft mellowmax lies below the maximum on a trained run's own action values, for alpha 1 and 10.

python benchmarks/operator_gap.py RUN       # a run folder; its last snapshot on its recorded observations
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from mast_export.extract import record_trace
from mast_train.learning.targets import greedy_value, soft_mellowmax
from mast_train.runs.folders import find_run, find_snapshot

OMEGA = 10.0


def main() -> None:
    run = find_run(sys.argv[1], Path("runs"))
    trace = record_trace(find_snapshot(run), run / "trace.safetensors")
    q, avail = torch.from_numpy(trace.q), torch.from_numpy(trace.avail_actions)
    choice = avail.sum(-1) > 1
    q, avail = q[choice], avail[choice]
    best = greedy_value(q, avail)
    spread = best - q.masked_fill(~avail, torch.inf).amin(-1)
    print(f"{run}: max - min of available actions: median {spread.median():.2f}, 90 % below {spread.quantile(0.9):.2f}")
    for alpha in (1.0, 10.0):
        gap = (best - soft_mellowmax(q, avail, alpha, OMEGA)).mean()
        print(f"alpha {alpha:g}, omega {OMEGA:g}: {gap:.3f} below the maximum on average")


if __name__ == "__main__":
    main()
