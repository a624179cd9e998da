"""The `mast` command line: parse, import what a command needs, print. Nothing heavy is imported before it runs."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())

EXTRAS = {
    "train": ("torch", "jax", "jaxmarl", "six", "tensorboard", "tomli_w", "matplotlib", "PIL", "smac"),
    "vmas": ("vmas", "gym"),
    "pettingzoo": ("pettingzoo", "gymnasium"),
    "export": ("onnx", "onnxruntime"),
    "serve": ("starlette", "uvicorn", "prometheus_client"),
    "ray": ("ray",),
    "report": ("rliable", "scipy"),
}
RUNS = Path("runs")

RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
PolicyArgument = Annotated[str | None, typer.Argument(help="A .mast file, or a run that has one (default: newest).")]
EnvOption = Annotated[str | None, typer.Option(help="Environment (default: the one it was trained in).")]
EnvSetOption = Annotated[list[str] | None, typer.Option("--set", help="An environment setting: env.options.x=1")]
BackendOption = Annotated[str, typer.Option(help="auto, native, reference or onnx.")]


_USAGE_ERROR: Any = typer.BadParameter.__base__


def whole(text: str) -> int:
    """500000, 500_000 or 5e5."""
    try:
        value = float(text)
        if value.is_integer():
            return int(value)
    except ValueError:
        pass
    raise typer.BadParameter(f"{text!r}: expected a whole number, for example 500000 or 5e5")


def show_version(wanted: bool) -> None:
    if wanted:
        from mast_runtime import __version__

        print(f"mast {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Ultra-sparse multi-agent Q-learning: train, export, run, measure and serve."""


def fail(message: object) -> typer.Exit:
    """Print one line on standard error; the caller raises the returned exit with code 2."""
    print(f"error: {message}", file=sys.stderr)
    return typer.Exit(2)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command whose user mistakes end in one line and exit code 2, never in a traceback."""

    name_ = function.__name__.rstrip("_")

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        from mast_export.errors import ExportError
        from mast_runtime.errors import RuntimeFault
        from mast_train.settings.errors import UserError

        try:
            function(*args, **kwargs)
        except (UserError, RuntimeFault, ExportError) as error:
            raise fail(error) from None
        except ModuleNotFoundError as error:
            name = (error.name or "").partition(".")[0]
            extra = next((extra for extra, modules in EXTRAS.items() if name in modules), None)
            if extra is None:
                raise
            raise fail(f'mast {name_} needs {name}; pip install "mast-marl[{extra}]"') from None
        except BrokenPipeError:
            raise typer.Exit(1) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise fail(f"{where}{error.strerror or error}") from None

    return app.command(name=name_)(run)


@command
def train(
    map_: Annotated[str | None, typer.Option("--map", help="Map, for example 3m or 8m.")] = None,
    env: Annotated[str | None, typer.Option(help="smax, smac, vmas, matrix or pettingzoo:module:factory.")] = None,
    method: Annotated[
        str | None, typer.Option(help="A row: mast-active (the default), mast, rigl, dense, ...; see docs/methods.md.")
    ] = None,
    algorithm: Annotated[str | None, typer.Option(help="qmix, vdn, owqmix, cwqmix or res.")] = None,
    recipe: Annotated[str | None, typer.Option(help="modern, or paper for the paper's exact set-up.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Share of absent weights, agents and mixer.")] = None,
    block: Annotated[str | None, typer.Option(help="Block of the recurrent layer: 1x1, 8x1 or 16x1.")] = None,
    masks: Annotated[str | None, typer.Option(help="Finished run whose masks to train: ticket-winning.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Run whose networks, masks and settings to start from.")
    ] = None,
    steps: Annotated[int | None, typer.Option(parser=whole, metavar="<int>", help="Environment steps in all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random stream.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train that many seeds at once, from --seed on.")] = 1,
    shared: Annotated[bool, typer.Option("--shared", help="One network for all agents.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of the settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any setting: --set train.lr=1e-3")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    runs: RunsOption = RUNS,
    resume: Annotated[bool, typer.Option("--resume", help="Continue --name, or the newest unfinished run.")] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the resolved settings and stop.")] = False,
) -> None:
    """Train a team of sparse agents; Ctrl-C saves."""
    from mast_train.runs.folders import find_run
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
        from mast_train.runs.folders import find_unfinished

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
    folder: Annotated[Path, typer.Argument(help="Folder of runs, or a sweep's.")] = RUNS, json_: JsonOption = False
) -> None:
    """List runs: what they train, how far they are, how they score."""
    from mast_train.commands.listing import list_runs, print_runs

    found = list_runs(folder)
    if json_:
        print(json.dumps([vars(run) for run in found]))
    else:
        print_runs(found, console)


@command
def eval_(
    target: Annotated[str | None, typer.Argument(help="A run or a .mast file (default: the newest run).")] = None,
    map_: Annotated[str | None, typer.Option("--map", help="Map (default: the one it was trained on).")] = None,
    env: EnvOption = None,
    episodes: Annotated[int, typer.Option(min=1, help="Greedy episodes.")] = 128,
    num_envs: Annotated[int, typer.Option(min=1, help="Environments stepped together.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the episodes.")] = 0,
    backend: BackendOption = "auto",
    at: Annotated[str, typer.Option(help="Of a run: last, best or a step.")] = "last",
    random: Annotated[bool, typer.Option("--random", help="A team that acts at random, for comparison.")] = False,
    set_: EnvSetOption = None,
    runs: RunsOption = RUNS,
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
    if json_:
        print(json.dumps(result.as_dict()))
        return
    console.print(result.sentence())


@command
def play(
    target: Annotated[str | None, typer.Argument(help="A run or a .mast file (default: the newest run).")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="A .gif; of the real game a .SC2Replay.")] = Path(
        "battle.gif"
    ),
    map_: Annotated[str | None, typer.Option("--map", help="Map (default: the one it was trained on).")] = None,
    env: EnvOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the episode.")] = 0,
    fps: Annotated[float, typer.Option(min=1, max=50, help="Steps shown per second.")] = 8.0,
    backend: BackendOption = "auto",
    at: Annotated[str, typer.Option(help="Of a run: last, best or a step.")] = "last",
    random: Annotated[bool, typer.Option("--random", help="A team that acts at random, for comparison.")] = False,
    set_: EnvSetOption = None,
    runs: RunsOption = RUNS,
    json_: JsonOption = False,
) -> None:
    """Record one greedy episode as a picture that moves."""
    from mast_train.commands.evaluate import resolve_target
    from mast_train.commands.play import record

    chosen, where = resolve_target(target, runs, at, random, env, map_, set_ or [])
    episode = record(chosen, where, seed, backend, output, fps)
    if json_:
        print(json.dumps(episode.as_dict()))
        return
    console.print(episode.sentence())


@command
def maps(
    env: Annotated[str, typer.Option(help="smax, smac, vmas or matrix.")] = "smax", json_: JsonOption = False
) -> None:
    """List the maps of an environment."""
    from mast_train.envs import available_maps

    names = available_maps(env)
    print(json.dumps(names) if json_ else "\n".join(names))


@command
def export(
    run: Annotated[str | None, typer.Argument(help="A run (default: the newest).")] = None,
    format_: Annotated[str, typer.Option("--format", help="mast, onnx, onnx-sparse or c.")] = "mast",
    agent: Annotated[int | None, typer.Option(help="One agent only.")] = None,
    dtype: Annotated[str, typer.Option(help="Weights of mast and c: f32, f16 or i8.")] = "f32",
    target: Annotated[
        str | None, typer.Option(help="C only: also build its test for, say, aarch64-linux-musl.")
    ] = None,
    no_compact: Annotated[bool, typer.Option("--no-compact", help="Keep units that cannot change an action.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to (default: into the run).")] = None,
    at: Annotated[str, typer.Option(help="Which evaluation's networks: last, best or a step.")] = "last",
    runs: RunsOption = RUNS,
    json_: JsonOption = False,
) -> None:
    """Turn a run into files that need no torch.

    Each is verified against the trained network.
    """
    from mast_export.export import export_run
    from mast_train.runs.folders import find_run, find_snapshot

    if target and format_ != "c":
        raise fail("--target builds C exports; add --format c")
    folder = find_run(run, runs)
    snapshot = find_snapshot(folder, at)
    files = export_run(folder, snapshot, format_, agent, output, dtype, not no_compact)
    programs = []
    if target:
        from mast_export.cbuild import cross_compile

        programs = [cross_compile(file.path, target) for file in files]
    if json_:
        print(json.dumps([file.as_dict() for file in files]))
        return
    console.print(f"{folder}, step {int(snapshot.stem.removeprefix('step-')):,}")
    for file in files:
        console.print(file.sentence())
        for part in file.removed:
            console.print(f"  {part}")
    for program in programs:
        console.print(f"built {program}")


@command
def bench(
    policy: PolicyArgument = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Only these: backends, onnxruntime, litert, openvino (default: all installed)."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 7,
    full: Annotated[bool, typer.Option("--full", help="Also every weight dtype and block shape.")] = False,
    runs: RunsOption = RUNS,
    json_: JsonOption = False,
) -> None:
    """Measure a policy: latency, FLOPs, size, memory, start-up.

    Sparse beside dense, on every engine that is installed.
    """
    from mast_runtime import load
    from mast_runtime.bench import bench as measure
    from mast_runtime.bench import print_bench
    from mast_runtime.bundle import find_policy

    bundle, others = load(find_policy(policy, runs)), {}
    if full:
        from mast_export.variants import variants

        others = variants(bundle)
    result = measure(bundle, backend, rounds=rounds, variants=others)
    if json_:
        print(json.dumps(result.as_dict()))
    else:
        print_bench(console, result)


@command
def inspect(
    policy: PolicyArgument = None,
    png: Annotated[Path | None, typer.Option(help="Draw the masks to this file.")] = None,
    runs: RunsOption = RUNS,
    json_: JsonOption = False,
) -> None:
    """Show what a policy kept.

    Sparsity by layer and agent, connections per input and output, and the masks as a picture.
    """
    from mast_runtime import load
    from mast_runtime.bundle import find_policy
    from mast_runtime.inspect import describe, print_description

    bundle = load(find_policy(policy, runs))
    description = describe(bundle)
    if json_:
        print(json.dumps(description.as_dict()))
    else:
        print_description(console, description)
    if png is not None:
        from mast_runtime.pictures import masks_png

        masks_png(bundle, png)
        print(f"masks drawn to {png}", file=sys.stderr)


@command
def serve(
    policy: PolicyArgument = None,
    agent: Annotated[int | None, typer.Option(help="Serve this agent only.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    backend: BackendOption = "auto",
    idle_limit: Annotated[float, typer.Option(help="Seconds after which an idle sequence is forgotten.")] = 60.0,
    max_sequences: Annotated[int, typer.Option(min=1, help="Sequences kept at once.")] = 1024,
    runs: RunsOption = RUNS,
) -> None:
    """Serve a policy over HTTP by the Open Inference Protocol V2."""
    from mast_runtime import load
    from mast_runtime.bundle import find_policy
    from mast_runtime.serve import serve as run_server

    run_server(load(find_policy(policy, runs)), host, port, agent, backend, idle_limit, max_sequences)


@command
def doctor(json_: JsonOption = False) -> None:
    """Say what is installed, what is missing, and what to do."""
    from mast_train.commands.doctor import diagnose, print_checks

    checks = diagnose()
    if json_:
        print(json.dumps([vars(check) for check in checks]))
    else:
        print_checks(checks, console)


@command
def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file (docs/sweeps.md).")],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells at once (default: the cores here, or the cluster's).")
    ] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to run the cells on.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and what they would cost.")] = False,
    runs: RunsOption = RUNS,
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
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the page, the table and the data.")] = Path(
        "report"
    ),
    bench: Annotated[bool, typer.Option("--bench", help="First export and measure a run of each row.")] = False,
) -> None:
    """Compare finished runs on one HTML page.

    And in a Markdown table, with the numbers behind both.
    """
    from mast_train.report.command import write_report

    if bench:
        from mast_train.report.bench import bench_runs

        bench_runs(runs, console.print)
    for path in write_report(runs, output):
        console.print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    """Entry point of the `mast` script."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        sys.exit(typer.main.get_command(app).main(prog_name="mast", standalone_mode=False))
    except _USAGE_ERROR as error:
        where = error.ctx.command_path if error.ctx else "mast"
        print(f"error: {error.format_message().rstrip('.')}; see {where} --help", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


if __name__ == "__main__":
    main()
