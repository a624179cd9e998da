"""`mast sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mast_runtime import shell
from mast_runtime.shell import RunsOption, console, typer


def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file (docs/sweeps.md).")],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes at once (default: a core each; with SMAX on a GPU 1).")
    ] = None,
    together: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most cells of a process: they differ in seed and rate alone (default: 1; with SMAX on a GPU 64).",
        ),
    ] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to run the cells on.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and what they would cost.")] = False,
    runs: RunsOption = shell.RUNS,
) -> None:
    """Train every unfinished run of a sweep file; Ctrl-C saves.

    The same command goes on with what is left.
    """
    from mast_train.sweeps.run import LocalWorker, print_outcome, run_sweep
    from mast_train.sweeps.sweep import load_sweep
    from mast_train.sweeps.width import Width, width_of

    plan = load_sweep(file)
    if ray is not None:
        together = together or plan.together or 1
    if dry_run:
        from mast_train.sweeps.plan import print_plan

        print_plan(plan, runs, width_of(plan, jobs, together), console)
        return
    if ray is not None:
        from mast_train.sweeps.on_ray import cluster

        with cluster(ray, plan) as (launch, cluster_jobs):
            outcome = run_sweep(plan, runs, Width(jobs or cluster_jobs, together or 1), launch, console)
    else:
        outcome = run_sweep(plan, runs, width_of(plan, jobs, together), LocalWorker, console)
    print_outcome(outcome, runs / plan.name, console)
    raise typer.Exit(outcome.exit_code)
