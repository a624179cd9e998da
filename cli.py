"""The `mast` command line: parse, import what a command needs, print. Nothing heavy is imported before it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mast_export.formats import FORMATS
from mast_runtime import shell
from mast_runtime.shell import BackendOption, JsonOption, PolicyArgument, RunsOption, answer, console, fail

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def options(version: shell.VersionOption = False) -> None:
    """Ultra-sparse multi-agent Q-learning: train, export, run, measure and serve."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command whose user mistakes end in one line and exit code 2, never in a traceback."""
    name = function.__name__.rstrip("_")
    return app.command(name=name)(shell.guarded(function, name, user_errors))


def user_errors() -> tuple[type[Exception], ...]:
    """What is the user's to mend."""
    from mast_export.errors import ExportError
    from mast_runtime.errors import RuntimeFault
    from mast_train.settings.errors import UserError

    return UserError, RuntimeFault, ExportError


@command
def train(
    map_: Annotated[str | None, typer.Option("--map", help="Map, for example 3m or 8m.")] = None,
    env: Annotated[
        str | None, typer.Option(help="smax, smac, vmas, mamujoco, matrix or pettingzoo:module:factory.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="A row of docs/methods.md (default: mast-active).")] = None,
    algorithm: Annotated[str | None, typer.Option(help="qmix, vdn, iql, owqmix, cwqmix, res, facmac or comix.")] = None,
    recipe: Annotated[str | None, typer.Option(help="modern, or paper for the paper's exact set-up.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Share of absent weights, agents and mixer.")] = None,
    block: Annotated[str | None, typer.Option(help="Block of the recurrent layer: 1x1, 8x1 or 16x1.")] = None,
    masks: Annotated[str | None, typer.Option(help="Finished run whose masks to train: ticket-winning.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Run whose networks and settings to start from.")] = None,
    steps: Annotated[int | None, typer.Option(parser=shell.whole, metavar="<int>", help="Environment steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random stream.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train that many seeds at once, from --seed on.")] = 1,
    shared: Annotated[bool, typer.Option("--shared", help="One network for all agents.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of the settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any setting: --set train.lr=1e-3")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    runs: RunsOption = shell.RUNS,
    resume: Annotated[bool, typer.Option("--resume", help="Continue --name, or the newest unfinished run.")] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the resolved settings and stop.")] = False,
) -> None:
    """Train a team of sparse agents; Ctrl-C saves."""
    from mast_train.runs.folders import find_run, find_unfinished
    from mast_train.settings.config import to_toml
    from mast_train.settings.limits import validate
    from mast_train.settings.methods import resolve

    flags = {
        "env.map": map_, "env.name": env, "method": method, "algorithm": algorithm, "recipe": recipe,
        "sparsity": sparsity, "block": block, "train.total_steps": steps, "seed": seed,
        "net.shared": shared or None, "device": device,
        "sparse.masks_from": None if masks is None else str(find_run(masks, runs)),
    }  # fmt: skip
    flags = {key: value for key, value in flags.items() if value is not None}
    if resume:
        from mast_train.commands.session import resume as resume_run

        if flags or set_ or config or from_ or seeds > 1:
            raise fail("--resume continues a run as it was started; it takes --name and --runs only")
        resume_run(find_unfinished(name, runs), console)
        return
    source = None if from_ is None else find_run(from_, runs)
    resolved = validate(resolve(config, flags, set_ or [], source))
    if show_config:
        print(to_toml(resolved), end="")
        return
    from mast_train.commands.session import start

    start(resolved, runs, name, console, seeds)


@command
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of runs, or a sweep's.")] = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """List runs: what they train, how far they are, how they score."""
    from mast_train.commands.listing import list_runs, print_runs

    found = list_runs(folder)
    answer(json_, [vars(run) for run in found], lambda: print_runs(found, console))


@command
def eval_(
    target: shell.TargetArgument = None,
    map_: shell.MapOption = None,
    env: shell.EnvOption = None,
    episodes: Annotated[int, typer.Option(min=1, help="Greedy episodes.")] = 128,
    num_envs: Annotated[int, typer.Option(min=1, help="Environments stepped together.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the episodes.")] = 0,
    backend: BackendOption = "auto",
    at: shell.AtOption = "last",
    random: shell.RandomOption = False,
    set_: shell.EnvSetOption = None,
    runs: RunsOption = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """Measure win rate and return over greedy episodes.

    Of a run's networks, or of an exported policy through its runtime.
    """
    from mast_train.commands.evaluate import evaluate, resolve_target

    if random and target is not None:
        raise fail(f"--random plays a random team; leave out {target}")
    chosen, where = resolve_target(target, runs, at, random, env, map_, set_ or [])
    result = evaluate(chosen, where, episodes, num_envs, seed, backend)
    answer(json_, result.as_dict(), result.sentence())


@command
def play(
    target: shell.TargetArgument = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="A .gif; of the real game a .SC2Replay.")] = Path(
        "battle.gif"
    ),
    map_: shell.MapOption = None,
    env: shell.EnvOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the episode.")] = 0,
    fps: Annotated[float, typer.Option(min=1, max=50, help="Steps shown per second.")] = 8.0,
    backend: BackendOption = "auto",
    at: shell.AtOption = "last",
    random: shell.RandomOption = False,
    set_: shell.EnvSetOption = None,
    runs: RunsOption = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """Record one greedy episode as a picture that moves."""
    from mast_train.commands.evaluate import resolve_target
    from mast_train.commands.play import record

    chosen, where = resolve_target(target, runs, at, random, env, map_, set_ or [])
    episode = record(chosen, where, seed, backend, output, fps)
    answer(json_, episode.as_dict(), episode.sentence())


@command
def maps(
    env: Annotated[str, typer.Option(help="smax, smac, vmas, mamujoco, matrix or points.")] = "smax",
    json_: JsonOption = False,
) -> None:
    """List the maps of an environment."""
    from mast_train.envs import available_maps

    names = available_maps(env)
    answer(json_, names, *names)


@command
def export(
    run: Annotated[str | None, typer.Argument(help="A run (default: the newest).")] = None,
    format_: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "mast",
    agent: Annotated[int | None, typer.Option(help="One agent only.")] = None,
    dtype: Annotated[str, typer.Option(help="Weights where the format has a choice: f32, f16 or i8.")] = "f32",
    target: Annotated[str | None, typer.Option(help="Also build the C test for, say, aarch64-linux-musl.")] = None,
    no_compact: Annotated[bool, typer.Option("--no-compact", help="Keep units that cannot change an action.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to (default: into the run).")] = None,
    at: Annotated[str, typer.Option(help="Which evaluation's networks: last, best or a step.")] = "last",
    runs: RunsOption = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """Turn a run into files that need no torch.

    Each is verified against the trained network.
    """
    from mast_export.export import export_run
    from mast_train.runs.folders import find_run, find_snapshot

    folder = find_run(run, runs)
    snapshot = find_snapshot(folder, at)
    files = export_run(folder, snapshot, format_, agent, output, dtype, not no_compact, target)
    head = f"{folder}, step {int(snapshot.stem.removeprefix('step-')):,}"
    answer(json_, [file.as_dict() for file in files], head, *(line for file in files for line in file.lines()))


@command
def bench(
    policy: PolicyArgument = None,
    backend: Annotated[list[str] | None, typer.Option(help="Only this engine; may be repeated (default: all).")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 7,
    full: Annotated[bool, typer.Option("--full", help="Also every weight dtype and block shape.")] = False,
    runs: RunsOption = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """Measure a policy: latency, FLOPs, size, memory, start-up.

    Sparse beside dense, on every engine that is installed.
    """
    from mast_runtime.measure import bench as measuring

    bundle, others = shell.load_policy(policy, runs), {}
    if full:
        from mast_export.variants import variants

        others = variants(bundle)
    result = measuring.bench(bundle, backend, rounds=rounds, variants=others)
    answer(json_, result.as_dict(), lambda: measuring.print_bench(console, result))


@command
def inspect(
    policy: PolicyArgument = None,
    png: Annotated[Path | None, typer.Option(help="Draw the masks to this file.")] = None,
    runs: RunsOption = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """Show what a policy kept.

    Sparsity by layer and agent, connections per input and output, and the masks as a picture.
    """
    from mast_runtime.measure.inspect import describe, print_description

    bundle = shell.load_policy(policy, runs)
    description = describe(bundle)
    answer(json_, description.as_dict(), lambda: print_description(console, description))
    if png is not None:
        from mast_runtime.measure.pictures import masks_png

        masks_png(bundle, png)
        typer.echo(f"masks drawn to {png}", err=True)


@command
def serve(
    policy: PolicyArgument = None,
    agent: Annotated[int | None, typer.Option(help="Serve this agent only.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    backend: BackendOption = "auto",
    idle_limit: Annotated[float, typer.Option(help="Seconds after which an idle sequence is forgotten.")] = 60.0,
    max_sequences: Annotated[int, typer.Option(min=1, help="Sequences kept at once.")] = 1024,
    runs: RunsOption = shell.RUNS,
) -> None:
    """Serve a policy over HTTP by the Open Inference Protocol V2."""
    from mast_runtime.serve import serve as run_server

    run_server(shell.load_policy(policy, runs), host, port, agent, backend, idle_limit, max_sequences)


@command
def doctor(
    train: Annotated[bool, typer.Option("--train", help="Of training too, which is looked at where torch is.")] = False,
    json_: JsonOption = False,
) -> None:
    """Say what is installed, what is missing, and what to do."""
    from mast_train.commands.doctor import diagnose, print_checks

    checks = diagnose(train)
    answer(json_, [vars(check) for check in checks], lambda: print_checks(checks, console))


@command
def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file (docs/sweeps.md).")],
    jobs: Annotated[int | None, typer.Option(min=1, help="Cells at once (default: a core each).")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to run the cells on.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and what they would cost.")] = False,
    runs: RunsOption = shell.RUNS,
) -> None:
    """Train every unfinished run of a sweep file; Ctrl-C saves.

    The same command goes on with what is left.
    """
    from mast_train.sweeps.run import LocalWorker, default_jobs, print_outcome, run_sweep
    from mast_train.sweeps.sweep import load_sweep

    plan = load_sweep(file)
    if dry_run:
        from mast_train.sweeps.plan import print_plan

        print_plan(plan, runs, jobs or default_jobs(plan), console)
        return
    if ray is not None:
        from mast_train.sweeps.on_ray import cluster

        with cluster(ray, plan) as (launch, cluster_jobs):
            outcome = run_sweep(plan, runs, jobs or cluster_jobs, launch, console)
    else:
        outcome = run_sweep(plan, runs, jobs or default_jobs(plan), LocalWorker, console)
    print_outcome(outcome, runs / plan.name, console)
    raise typer.Exit(outcome.exit_code)


@command
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, sweep folders, or an earlier results.json.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the page and the data.")] = Path("report"),
    bench: Annotated[bool, typer.Option("--bench", help="First export and measure a run of each row.")] = False,
) -> None:
    """Compare finished runs on one HTML page and in a Markdown table, with the numbers behind both."""
    from mast_train.report.command import write_report

    if bench:
        from mast_train.report.bench import bench_runs

        bench_runs(runs, console.print)
    for path in write_report(runs, output):
        console.print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    """Entry point of the `mast` script."""
    shell.run_app(app)


if __name__ == "__main__":
    main()
