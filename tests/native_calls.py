"""Every call of the training extension without torch: on odd sizes, in arrays of exactly the size it may touch; then
with every argument wrong in every way.

    python native_calls.py EXTENSION.so

A program for the sanitizers: what the calls compute is tested elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from itertools import product
from typing import Any

import numpy as np

rng = np.random.default_rng(0)
Call = tuple[str, dict[str, Any]]
MIXER = ("w1_in", "w1_out", "w2_in", "w2_out", "b1", "b2_in", "b2_out")


def load(path):
    loader = ExtensionFileLoader("_train", path)
    module = module_from_spec(spec_from_loader("_train", loader))
    loader.exec_module(module)
    return module


def floats(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def some(*shape, density=0.3):
    return rng.random(shape) < density


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def run(train, call: Call) -> Any:
    name, arguments = call
    return getattr(train, name)(**arguments)


def agents(train, level, threads, groups, hidden, t, b, n, full) -> list[Call]:
    """A pass of several networks, its backward pass with and without q's gradient, and one decision."""
    observed, actions = 5, 3
    inputs = observed + actions + (n if groups == 1 else 0)
    shapes = {"fc1": (hidden, inputs), "ih": (3 * hidden, hidden), "hh": (3 * hidden, hidden), "fc2": (actions, hidden)}
    names = {"fc1": "fc1_{}", "ih": "{}_ih", "hh": "{}_hh", "fc2": "fc2_{}"}
    parameters = {names[key].format("weight"): floats(groups, *shape) for key, shape in shapes.items()}
    masks = {name: some(*weight.shape) for name, weight in parameters.items()}
    parameters |= {names[key].format("bias"): floats(groups, shape[0]) for key, shape in shapes.items()}
    sizes = {"groups": groups, "inputs": inputs, "hidden": hidden, "actions": actions}
    builds = [("agents_build", sizes | {"masks": worn}) for worn in (masks, {})]
    network, whole = (run(train, build) for build in builds)
    x, filled = floats(t, b, n, observed), np.arange(t - 1) < rng.integers(0, t, (b, 1))
    order = zeros(3, b, dtype=np.int32)
    episodes = {"seeds": 1, "filled": filled, "places": zeros(3, b * (t - 1), dtype=np.int64), "order": order}
    count = train.episodes(**episodes)
    assert count == filled.sum() and sorted(order[0]) == list(range(b)) and (np.diff(order[1]) <= 0).all()
    size = {"network": network, "groups": groups, "steps": t, "batch": b, "agents": n, "seeds": 1}
    head = {"level": level, "threads": threads, "seeds": 1, "one_hot": True, "x": x, "order": order}
    head["actions"] = rng.integers(-1, actions, (t - 1, b, n))
    values = {name: zeros(count, n, actions) for name in ("now", "after")} | {"taken": zeros(count, n)}
    values |= {"network": network, "parameters": parameters, "saved": zeros(train.agents_saved(**size))}
    beside = {"network": whole, "parameters": parameters, "now": zeros(count, n, actions)}
    back = head | {"network": network, "wanted": whole if full else network, "parameters": parameters}
    back |= {"grad_taken": floats(count, n), "saved": values["saved"], "gradients": {}}
    back["gradients"] = {name: np.zeros_like(parameter) for name, parameter in parameters.items()}
    rows, one = b * n // groups, floats(1, b, n, inputs)
    acting = {"network": network, "parameters": parameters, "q": zeros(1, b, n, actions)}
    acting |= {"hidden": floats(groups, rows, hidden), "next_hidden": zeros(groups, rows, hidden)}
    decide = {"level": level, "threads": threads, "seeds": 1, "one_hot": False, "x": one, "passes": [acting]}
    return [
        *builds,
        ("episodes", episodes),
        ("agents_saved", size),
        ("agents_forward", head | {"passes": [values | {"q": zeros(t, b, n, actions)}, beside, beside]}),
        ("agents_backward", back | {"grad_q": floats(t, b, n, actions)}),
        ("agents_backward", back),
        ("agents_forward", decide),
        *steps(train, level, [(parameters[name], back["gradients"][name], masks.get(name)) for name in parameters]),
    ]


def mixer(train, level, threads, n, states, embed, hidden, repeats, rows) -> list[Call]:
    shapes = [(hidden, states), (embed * n, hidden), (hidden, states), (embed, hidden)]
    shapes += [(embed, states), (embed, states), (1, embed)]
    parameters, masks = {}, {}
    for name, shape in zip(MIXER, shapes, strict=True):
        parameters |= {f"{name}.weight": floats(*shape), f"{name}.bias": floats(shape[0])}
        masks[f"{name}.weight"] = some(*shape)
    del masks["b2_out.weight"]
    sizes = {"agents": n, "states": states, "embed": embed, "hidden": hidden}
    builds = [("mixer_build", sizes | {"masks": worn}) for worn in (masks, {})]
    network, whole = (run(train, build) for build in builds)
    head = {"level": level, "threads": threads, "network": network, "parameters": parameters}
    head |= {"rows": rng.permutation(rows), "state": floats(rows, states), "q": floats(repeats, rows, n)}
    calls, gradients = builds, {name: np.zeros_like(parameter) for name, parameter in parameters.items()}
    calls.append(("mixer_forward", head | {"q_tot": zeros(repeats, rows)}))
    for wanted in (whole, network):
        back = head | {"wanted": wanted, "gradients": gradients}
        of_rows = {"grad_q_tot": floats(repeats, rows), "grad_q": zeros(repeats, rows, n)}
        fit = {"q": floats(rows, n), "target": floats(rows), "low": 0.5, "grad_q": zeros(rows, n), "means": zeros(5)}
        fits = [("mixer_fit", back | fit | {"weight": weight}) for weight in (None, floats(rows))]
        calls += [("mixer_backward", back | of_rows), *fits]
    return calls + steps(train, level, [(parameters[k], gradients[k], masks.get(k)) for k in parameters])


def steps(train, level, parameters) -> list[Call]:
    """Adam and RMSprop."""
    calls: list[Call] = [("positions", {"mask": parameters[0][2]})]
    for beta1 in (0.9, 0.0):
        fields = []
        for parameter, gradient, mask in parameters:
            own = {"parameter": parameter, "gradient": gradient, "second": np.zeros_like(parameter), "step": zeros()}
            own["first"] = np.zeros_like(parameter) if beta1 else None
            own["positions"] = None if mask is None else train.positions(mask=mask)
            fields.append(own)
        rule = {"lr": 1e-3, "beta1": beta1, "beta2": 0.99, "eps": 1e-5, "max_norm": 10.0, "norm": zeros()}
        calls.append(("step", {"level": level, "parameters": fields} | rule))
    return calls


def targets(level, threads, rows, actions, episodes, most) -> list[Call]:
    q, avail = floats(rows, actions), some(rows, actions) | (np.arange(actions) == 0)
    mellow = {"level": level, "threads": threads, "q": q, "avail": avail, "alpha": 10.0, "omega": 10.0}
    filled = np.arange(most) < rng.integers(1, most + 1, (episodes, 1))
    given = {"reward": floats(episodes, most), "terminated": some(episodes, most), "filled": filled, "gamma": 0.99}
    count = int(filled.sum())
    given |= {"next_value": floats(count), "lam": floats(episodes), "target": zeros(count)}
    selects = [("soft_mellowmax", mellow | {"select": by, "value": zeros(rows)}) for by in (q, floats(rows, actions))]
    return [*selects, ("td_lambda", given)]


FREE = {
    ("agents_build", "masks"),  # a layer without a mask is full
    ("mixer_build", "masks"),
    ("agents_forward", "actions", "steps"),  # any steps
    ("agents_backward", "actions", "steps"),
    ("agents_forward", "passes", "saved", "longer 0"),  # at least what is needed
    ("agents_backward", "saved", "longer 0"),
    ("agents_backward", "grad_taken", "longer 0"),  # alone it says how many transitions there are
    ("mixer_forward", "state", "longer 0"),  # rows say which are read
    ("mixer_backward", "state", "longer 0"),
    ("mixer_fit", "state", "longer 0"),
    ("agents_forward", "passes", "saved", "dimension more"),  # any shape
    ("agents_backward", "saved", "dimension more"),
    ("soft_mellowmax", "value", "dimension more"),
    *(("positions", "mask", f"{how} {at}") for how in ("shorter", "longer") for at in (0, 1, 2)),
    *(("positions", "mask", f"dimension {how}") for how in ("more", "less")),
    *(("step", "parameters", name, "dimension more") for name in ("parameter", "gradient", "first", "second")),
}
"""What is no mistake."""
OPTIONAL = {
    *(("agents_forward", "passes", name) for name in ("q", "taken", "now", "after", "hidden", "next_hidden", "saved")),
    ("agents_backward", "grad_q"),
    ("agents_backward", "grad_taken"),
    ("mixer_fit", "weight"),
    *((name, "rows") for name in ("mixer_forward", "mixer_backward", "mixer_fit")),
    ("step", "parameters", "first"),
    ("step", "parameters", "positions"),
}
"""What may be left out."""


def wrong_arrays(array) -> Iterator[tuple[str, Any]]:
    yield "dtype", array.astype(np.float64 if array.dtype != np.float64 else np.float32)
    yield "dimension more", array[..., None]
    if array.ndim:
        yield "dimension less", array[0] if len(array) else zeros()
    for axis, size in enumerate(array.shape):
        if size:
            yield f"shorter {axis}", np.ascontiguousarray(np.delete(array, 0, axis))
            yield f"longer {axis}", np.concatenate([array, np.take(array, [0], axis)], axis)
    if array.ndim and array.shape[-1] > 1:
        yield "steps", np.repeat(array, 2, -1)[..., ::2]
    if array.nbytes and array.itemsize > 1:
        at_odd = np.frombuffer(bytearray(array.nbytes + 1), np.uint8)[1:].view(array.dtype).reshape(array.shape)
        yield "odd address", at_odd


def wrong_values(value) -> Iterator[tuple[str, Any]]:
    """All of the kinds that `value` is not, and what is wrong of its kind."""
    others = {"text": "text", "list": [1.0], "array": zeros(1, 2, 3, 4, 5), "object": object()}
    if isinstance(value, np.ndarray):
        yield from wrong_arrays(value)
        del others["array"]
    elif isinstance(value, bool):
        yield from (("number", 1), ("other", 0.0))
    elif isinstance(value, int):
        yield from (("zero", 0), ("negative", -1), ("large", 2**31), ("huge", 2**80), ("fraction", 1.5))
    elif isinstance(value, dict):
        yield "unknown name", value | {"other": 1}
        yield "no name", value | {1: 1}
    elif isinstance(value, list):
        others |= {"empty": [], "many": value * 5, "inside": [1.0]}
    yield from others.items()


def leaves(value, path=()) -> Iterator[tuple[tuple, Any, Callable]]:
    """Every argument, nested ones too: where it is, its value, and the whole with another in its place."""
    for name, one in value.items():
        yield (*path, name), one, lambda new, name=name: value | {name: new}
        inside = one[0] if isinstance(one, list) else one
        for inner, leaf, put in leaves(inside, (*path, name)) if isinstance(inside, dict) else ():

            def placed(new, name=name, one=one, put=put):
                return value | {name: [put(new), *one[1:]] if isinstance(one, list) else put(new)}

            yield inner, leaf, placed


def refused(train, name, arguments) -> bool:
    try:
        getattr(train, name)(**arguments)
    except (TypeError, ValueError) as error:
        assert str(error).startswith(f"{name}: "), error
        return True
    return False


def left_out(arguments, path):
    kept = {key: value for key, value in arguments.items() if key != path[0]}
    if len(path) == 1:
        return kept
    inside = arguments[path[0]]
    if isinstance(inside, list):
        return kept | {path[0]: [left_out(inside[0], path[1:]), *inside[1:]]}
    return kept | {path[0]: left_out(inside, path[1:])}


def misuse(train, call: Call) -> int:
    """How many wrong calls were refused: all that should be."""
    (name, arguments), count = call, 0
    for path, value, put in leaves(arguments):
        at, may = (name, *path), (name, *path) in OPTIONAL or (name, *path[:-1]) in FREE
        for what, other in wrong_values(value) if value is not None else ():
            free = (*at, what) in FREE or (name == "step" and path == ("parameters",) and what in ("empty", "many"))
            assert refused(train, name, put(other)) or free, f"{at} {what} was taken"
            count += not free
        for arguments_less in (put(None), left_out(arguments, path)):
            assert refused(train, name, arguments_less) or may, f"{at} was not missed"
            count += not may
    assert refused(train, name, arguments | {"other": 1})
    return count


def wrong_contents(train, calls: dict[str, dict[str, Any]]) -> None:
    """Numbers that would lead outside of the arrays they number."""

    def changed(array, *at, to):
        array = array.copy()
        array[at] = to
        return array

    forward, fit, returns = calls["agents_forward"], calls["mixer_fit"], calls["td_lambda"]
    order, rows, states = forward["order"], fit["rows"], len(fit["state"])
    steps_, episodes = forward["x"].shape[:2]
    wrong = [(0, episodes), (0, -1), (1, 0), (1, steps_ + 1), (2, -1), (2, forward["passes"][0]["taken"].shape[0] + 1)]
    for row, to in wrong:
        for call in ("agents_forward", "agents_backward"):
            assert refused(train, call, calls[call] | {"order": changed(order, row, 0, to=to)}), (call, row, to)
    assert refused(train, "agents_forward", forward | {"order": order[:, ::-1].copy()})
    for to in (-1, states, 2**40):
        for call in ("mixer_forward", "mixer_backward", "mixer_fit"):
            assert refused(train, call, calls[call] | {"rows": changed(rows, 0, to=to)}), (call, to)
    assert refused(train, "td_lambda", returns | {"filled": np.ones_like(returns["filled"])})
    none = {name: array[..., :0, :] for name, array in fit.items() if name in ("q", "grad_q")}
    none |= {name: fit[name][:0] for name in ("rows", "target")}
    assert refused(train, "mixer_fit", fit | none)


def of_other_sizes(train, calls: dict[str, dict[str, Any]]) -> None:
    """Structures of other networks, and of another kind."""
    agents_of, mixer_of = calls["agents_build"], calls["mixer_build"]
    for size in ("groups", "inputs", "hidden", "actions"):
        other = train.agents_build(**agents_of | {size: agents_of[size] + 1, "masks": {}})
        masked = np.ones((agents_of["groups"] + 1, agents_of["hidden"], agents_of["inputs"]), bool)
        if size == "groups":
            other = train.agents_build(**agents_of | {size: agents_of[size] + 1, "masks": {"fc1_weight": masked}})
        for name in ("network", "wanted"):
            assert refused(train, "agents_backward", calls["agents_backward"] | {name: other}), (name, size)
    for size in ("agents", "states", "embed", "hidden"):
        other = train.mixer_build(**mixer_of | {size: mixer_of[size] + 1, "masks": {}})
        for name in ("network", "wanted"):
            assert refused(train, "mixer_fit", calls["mixer_fit"] | {name: other}), (name, size)
    assert refused(train, "mixer_fit", calls["mixer_fit"] | {"network": calls["agents_backward"]["network"]})
    fields = calls["step"]["parameters"]
    short = fields[0] | {"positions": train.positions(mask=np.ones(1, bool))}
    assert refused(train, "step", calls["step"] | {"parameters": [short, *fields[1:]]})
    for name in ("agents_build", "mixer_build"):
        assert refused(train, name, calls[name] | {"hidden": 2**29, "masks": {}})


def main(path):
    train = load(path)
    for level, threads in product(train.levels(), (1, 3)):
        calls = []
        for hidden, t, b in ((1, 1, 1), (7, 9, 5), (17, 3, 33), (65, 2, 16)):
            for groups, full in product((1, 3), (False, True)):
                calls += agents(train, level, threads, groups, hidden, t, b, 3, full)
        for sizes in ((1, 1, 1, 1, 1, 1), (3, 7, 5, 9, 2, 33), (8, 65, 17, 31, 3, 15)):
            calls += mixer(train, level, threads, *sizes)
        for rows, actions in ((1, 1), (33, 7), (64, 17)):
            calls += targets(level, threads, rows, actions, 3, rows % 10 + 1)
        for call in calls:
            run(train, call)
            assert all(np.isfinite(leaf).all() for _, leaf, _ in leaves(call[1]) if isinstance(leaf, np.ndarray)), call
    level = train.levels()[0]
    every = [*agents(train, level, 1, 3, 7, 9, 5, 3, False), *mixer(train, level, 1, 3, 7, 5, 9, 2, 33)]
    every += targets(level, 1, 33, 7, 3, 4)
    names = {name for name in dir(train) if not name.startswith("_")}
    assert names == {name for name, _ in every} | {"levels"}
    refusals = sum(misuse(train, call) for call in every)
    calls = dict(reversed(every))
    wrong_contents(train, calls)
    of_other_sizes(train, calls)
    print(f"{refusals} wrong calls refused")


if __name__ == "__main__":
    main(sys.argv[1])
