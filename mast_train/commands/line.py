"""The commands of `mast` that train, compare and show. Nothing heavy is imported before one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mast_runtime import shell
from mast_runtime.shell import BackendOption, JsonOption, RunsOption, answer, console, fail, typer
from mast_runtime.streams import stdout


def train(
    map_: Annotated[str | None, typer.Option("--map", help="Map, for example 3m or 8m.")] = None,
    env: Annotated[
        str | None,
        typer.Option(help="smax, smac, vmas, mamujoco, matrix, points, pettingzoo:module:factory, aec:module:factory."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="A row of docs/methods.md (default: mast-active).")] = None,
    algorithm: Annotated[str | None, typer.Option(help="qmix, vdn, iql, owqmix, cwqmix, res, facmac or comix.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="modern, shared (one wide network for all) or paper (the paper's exact set-up).")
    ] = None,
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

        if set_ or config or from_ or flags.keys() - {"seed"} or (seeds == 1 and seed is not None):
            raise fail(
                "--resume continues a run as it was started; it takes --name, --runs, and --seeds from --seed on"
            )
        resume_run(find_unfinished(name, runs, seeds, seed or 0), console)
        return
    source = None if from_ is None else find_run(from_, runs)
    resolved = validate(resolve(config, flags, set_ or [], source))
    if show_config:
        print(to_toml(resolved), end="", file=stdout())
        return
    from mast_train.commands.session import start

    start(resolved, runs, name, console, seeds)


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of runs, or a sweep's.")] = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """List runs: what they train, how far they are, how they score."""
    from mast_train.commands.listing import list_runs, print_runs

    found = list_runs(folder)
    answer(json_, [vars(run) for run in found], lambda: print_runs(found, console))


def eval_(
    target: shell.TargetArgument = None,
    map_: shell.MapOption = None,
    env: shell.EnvOption = None,
    episodes: Annotated[int, typer.Option(min=1, help="Greedy episodes.")] = 128,
    num_envs: Annotated[int, typer.Option(min=1, help="Environments stepped together.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episodes.")] = 0,
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


def play(
    target: shell.TargetArgument = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A .gif; real game: a .SC2Replay.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="A page to explore it in, with the policies.")] = None,
    map_: shell.MapOption = None,
    env: shell.EnvOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episode.")] = 0,
    fps: Annotated[float, typer.Option(min=1, max=50, help="Steps shown per second.")] = 8.0,
    backend: BackendOption = "auto",
    at: shell.AtOption = "last",
    random: shell.RandomOption = False,
    set_: shell.EnvSetOption = None,
    runs: RunsOption = shell.RUNS,
    json_: JsonOption = False,
) -> None:
    """Record one greedy episode as a picture that moves, or as a page to explore it in."""
    from mast_train.commands.evaluate import resolve_target
    from mast_train.commands.explore import watch

    chosen, where = resolve_target(target, runs, at, random, env, map_, set_ or [])
    episode = watch(chosen, where, seed, backend, output, html, fps)
    answer(json_, episode.as_dict(), episode.sentence())


def maps(
    env: Annotated[str, typer.Option(help="smax, smac, vmas, mamujoco, matrix or points.")] = "smax",
    json_: JsonOption = False,
) -> None:
    """List the maps of an environment."""
    from mast_train.envs import available_maps

    names = available_maps(env)
    answer(json_, names, *names)


def doctor(
    train: Annotated[bool, typer.Option("--train", help="Of training too, which is looked at where torch is.")] = False,
    json_: JsonOption = False,
) -> None:
    """Say what is installed, what is missing, and what to do."""
    from importlib.util import find_spec

    from mast_runtime.measure.doctor import diagnose, print_checks

    checks, last = diagnose(), "This machine runs policies. What training needs: mast doctor --train"
    if train or find_spec("torch"):
        from mast_train.commands.doctor import diagnose_training

        checks, last = checks + diagnose_training(), ""
    answer(json_, [vars(check) for check in checks], lambda: print_checks(checks, console, last))


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
