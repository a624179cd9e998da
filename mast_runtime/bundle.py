"""The policy bundle: load and save `.mast`, a safetensors file whose metadata holds a JSON manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mast_runtime.digest import check_digest
from mast_runtime.errors import BundleError, RuntimeFault
from mast_runtime.format import AgentInfo, Decoded, Identity, decode, parse_manifest
from mast_runtime.network import Contract, Network
from mast_runtime.streams import pasted
from mast_runtime.tensors import read_tensors

if TYPE_CHECKING:
    from mast_runtime.agent import Agent, Team

MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Bundle:
    """A team's policies and all that running them needs. `info` is the free part of the manifest (map, method, ...).

    identity: which policy it is; its digest is that of the file it was loaded from.
    """

    contract: Contract
    agents: tuple[AgentInfo, ...]
    networks: tuple[Network, ...]
    info: dict[str, Any] = field(default_factory=dict)
    identity: Identity = field(default_factory=Identity)
    path: Path | None = None

    def agent(self, index: int = 0, backend: str = "auto") -> Agent:
        """A fresh agent running agent `index`'s network. Raises BackendError, IndexError.

        Where actions are continuous it is a mast_runtime.continuous.ContinuousAgent.
        """
        from mast_runtime.backends import make_agent

        if not 0 <= index < len(self.agents):
            raise IndexError(f"agent {index}: the bundle has agents 0 to {len(self.agents) - 1}")
        info = self.agents[index]
        return make_agent(self.contract, self.networks[info.network], info.index, backend)

    def team(self, n: int | None = None, backend: str = "auto") -> Team:
        """n agents stepped at once (default: the bundle's agents); agent i runs network i mod n_agents.

        Where actions are continuous it is a mast_runtime.continuous.ContinuousTeam.
        Raises ValueError when n is not a multiple of the number of agents in the bundle, BackendError.
        """
        from mast_runtime.backends import make_team

        n = len(self.agents) if n is None else n
        if n < 1 or n % len(self.agents):
            raise ValueError(f"a team of {n}: expected a multiple of the bundle's {len(self.agents)} agents")
        return make_team(self.contract, self.team_networks, [agent.index for agent in self.agents], n, backend)

    @property
    def team_networks(self) -> list[Network]:
        """The network of each agent."""
        return [self.networks[agent.network] for agent in self.agents]

    def __repr__(self) -> str:
        name = " ".join(str(self.info[key]) for key in ("map", "method") if key in self.info)
        return (
            f"<Bundle {name or 'policy'}: {len(self.agents)} of {self.contract.n_agents} agents, "
            f"obs {self.contract.obs_dim}, actions {self.contract.n_actions}, {self.nnz} connections, "
            f"sparsity {self.sparsity:.1%}>"
        )

    @property
    def nnz(self) -> int:
        return sum(network.nnz for network in self.networks)

    @property
    def sparsity(self) -> float:
        return 1.0 - self.nnz / sum(network.n_weights for network in self.networks)


def load(path: str | os.PathLike[str]) -> Bundle:
    """Read and validate a .mast file. Raises BundleError, FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such policy file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BundleError(f"{path} has {path.stat().st_size} bytes, a .mast file at most {MAX_FILE_BYTES}")
    try:
        with path.open("rb") as file:
            return Bundle(*_decoded(file, path.stat().st_size), path)
    except BundleError as error:
        error.args = (f"{path}: {error}",)
        raise
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is not a readable .mast file ({error}); export it again") from error


def _decoded(file: BinaryIO, size: int) -> Decoded:
    """Raises BundleError, ValueError for a file that is no safetensors file."""
    metadata, tensors = read_tensors(file, size)
    manifest = parse_manifest(metadata.get("mast"))
    check_digest(file, manifest.get("digest"))
    return decode(manifest, tensors)


def find_policy(given: str | None, runs: Path) -> Path:
    """The given file, or the newest whole-team .mast export of the given run or of any. Raises FileNotFoundError.

    given: a file, or a run's folder or its name under `runs`.
    """
    if given is None:
        found = runs.glob("*/*.mast")
        missing = f"no policy given and none under {runs}/; make one with: mast export"
    else:
        folder = next((folder for folder in (Path(given), runs / given) if folder.is_dir()), None)
        if folder is None or Path(given).is_file():
            return Path(given)
        found, missing = (
            folder.glob("*.mast"),
            f"{folder}: no policy in this folder; make one with: {pasted('mast', 'export', given)}",
        )
    exports = sorted((path for path in found if "-agent" not in path.name), key=lambda path: path.stat().st_mtime)
    if not exports:
        raise FileNotFoundError(missing)
    return exports[-1]


def save(bundle: Bundle, path: str | os.PathLike[str]) -> int:
    """Write the bundle beside `path` and rename it; returns its size in bytes. The old file stays if writing fails.

    Raises BundleError for a bundle that `load` would refuse, ValueError, OSError.
    """
    data = encoded(bundle)
    write_atomically(Path(path), data)
    return len(data)


def encoded(bundle: Bundle) -> bytes:
    """The bytes of the file that `save` writes. Raises BundleError for what `load` would refuse, ValueError.

    Needs numpy and safetensors, which loading does not: RuntimeFault says so.
    """
    try:
        from mast_runtime.encode import encode
    except ModuleNotFoundError as error:
        raise RuntimeFault(f"writing a policy needs {error.name}; pip install numpy safetensors") from None

    data = encode(bundle.contract, bundle.agents, bundle.networks, bundle.info, bundle.identity)
    _decoded(BytesIO(data), len(data))
    return data


def identity_of(bundle: Bundle) -> Identity:
    """That of the file that `save` would write. Raises as `encoded`."""
    data = encoded(bundle)
    return _decoded(BytesIO(data), len(data))[-1]


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, flush it to the disk, rename it over `path`.

    Raises OSError that names `path`, whatever file the system failed at.
    """
    import tempfile

    with errors_name(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """An OSError inside names `path`: not a temporary file that the user has never heard of, and not nothing."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
