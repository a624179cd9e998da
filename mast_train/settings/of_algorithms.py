"""Settings that one algorithm has of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WqmixConfig:
    """owqmix and cwqmix (Rashid et al. 2020): loss weight of a transition that counts less; Q*'s mixer width."""

    weight: float = 0.1
    embed: int = 256


@dataclass(frozen=True)
class ResConfig:
    """res (Pan et al. 2021): the joint softmax's inverse temperature, and the share of the return's squared error."""

    beta: float = 5.0
    return_weight: float = 0.05


@dataclass(frozen=True)
class FacmacConfig:
    """facmac (Peng et al. 2021). `mixer`: of the critics' values, monotonic or unrestricted. `actor_rate`: the actors'
    learning rate as a share of `train.lr`. `action_penalty`: on the squares of the actors' outputs. `temperature`: of
    the Gumbel-softmax, where actions are choices. `twin`: a second set of critics and mixer, and targets of the lesser
    value. `smoothing`: deviation of the noise on targets' continuous actions (TD3, Fujimoto et al. 2018)."""

    mixer: str = "monotonic"
    actor_rate: float = 1.0
    action_penalty: float = 1e-3
    temperature: float = 1.0
    twin: bool = False
    smoothing: float = 0.0


@dataclass(frozen=True)
class ComixConfig:
    """comix: the cross-entropy method's joint work per decision: `iterations` of `candidates` actions, of which the
    best `elites` make the next ones' mean and spread. `twin`: a second set of networks and mixer, and targets of the
    lesser value."""

    candidates: int = 64
    elites: int = 6
    iterations: int = 3
    twin: bool = False
