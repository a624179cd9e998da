"""`mast import`: its arguments, for the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mast_export.formats import FORMATS
from mast_runtime.shell import JsonOption, answer, typer


def import_(
    model: Annotated[list[Path], typer.Argument(help=".onnx, .safetensors, .npz, .pt; several: an agent each.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to (default: the model's name).")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Prune by magnitude to this share of absent weights.")] = None,
    block: Annotated[str, typer.Option(help="Of the recurrent layer when pruned: 1x1, 8x1 or 16x1.")] = "1x1",
    agents: Annotated[int, typer.Option(help="Agents that share the policy.")] = 1,
    last_action: Annotated[
        bool, typer.Option("--last-action", help="Its input goes on with the last action, one-hot.")
    ] = False,
    agent_id: Annotated[
        bool, typer.Option("--agent-id", help="Its input ends with the agent's number, one-hot.")
    ] = False,
    observations: Annotated[
        Path | None, typer.Option(help="Recorded ones to compare on: .npy, .npz or a run's trace.safetensors.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="What the policy's names start with, where a file holds more.")] = "",
    tensor: Annotated[str, typer.Option(help="The tensor of the action values, where an ONNX model has more.")] = "",
    format_: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "mast",
    dtype: Annotated[str, typer.Option(help="Weights where the format has a choice: f32, f16 or i8.")] = "f32",
    no_compact: Annotated[bool, typer.Option("--no-compact", help="Keep units that cannot change an action.")] = False,
    json_: JsonOption = False,
) -> None:
    """Turn a policy trained elsewhere, linear -> GRU -> linear, into a bundle.

    Compared step by step with the original; with --sparsity also pruned.
    """
    from mast_export.importing.model import Options, import_model

    options = Options(agents, last_action, agent_id, sparsity, block, prefix, tensor, observations)
    found = import_model(model, output, options, format_, dtype, not no_compact)
    answer(json_, found.as_dict(), *found.lines())
