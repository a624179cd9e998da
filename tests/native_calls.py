"""Every call of the training extension on odd sizes, with arrays of exactly the size it may touch and no torch.

    python native_calls.py EXTENSION.so

A program for the sanitizers: what the calls compute is tested elsewhere.
"""

from __future__ import annotations

import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from itertools import product

import numpy as np

rng = np.random.default_rng(0)


def load(path):
    loader = ExtensionFileLoader("_train", path)
    module = module_from_spec(spec_from_loader("_train", loader))
    loader.exec_module(module)
    return module


def floats(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def some(*shape, density=0.3):
    return rng.random(shape) < density


def at(*arrays):
    return tuple(0 if array is None else array.ctypes.data for array in arrays)


def strides(array):
    return tuple(step // array.itemsize for step in array.strides[:3])


def agents(train, level, threads, groups, hidden, t, b, n, full):
    observed, actions = 5, 3
    inputs = observed + actions + (n if groups == 1 else 0)
    shapes = [(hidden, inputs), (3 * hidden, hidden), (3 * hidden, hidden), (actions, hidden)]
    shapes += [(hidden,), (3 * hidden,), (3 * hidden,), (actions,)]
    parameters = [floats(groups, *shape) for shape in shapes]
    masks = [some(*parameter.shape) for parameter in parameters[:4]]
    network = train.build(groups, inputs, hidden, actions, at(*masks))
    wanted = train.build(1, inputs, hidden, actions, (0, 0, 0, 0)) if full else network
    x, taken = floats(t, b, n, observed), rng.integers(-1, actions, (t - 1, b, n))
    filled = np.arange(t - 1) < rng.integers(0, t, (b, 1))
    places, order = [np.empty(b * (t - 1), np.int64) for _ in range(3)], np.empty((3, b), np.int32)
    count = train.episodes((b, t - 1), 1, *at(filled, *places, order))
    assert count == filled.sum() and sorted(order[0]) == list(range(b)) and (np.diff(order[1]) <= 0).all()
    q_taken, now, after = (np.zeros((count, n, *size), np.float32) for size in ((), (actions,), (actions,)))
    q = np.zeros((t, b, n, actions), np.float32)
    rows = b * n // groups
    tiles = groups * -(-rows // 32)
    saved = np.empty(tiles * train.saved_size(network, t), np.float32)
    given = *at(x), strides(x), observed, *at(taken), strides(taken), 1, int(groups == 1)
    given = *given, *at(*order)
    head, size, sources = (level, threads), (groups, t, b, n, 1), at(*parameters)
    learned = network, sources, *at(q), strides(q), *at(q_taken, now, after, None, None, saved)
    beside = wanted, sources, 0, (0, 0, 0), *at(None, now, None, None, None, None)
    train.forward(*head, size, given, (learned, beside, beside))
    grads = [np.zeros_like(parameter) for parameter in parameters]
    grad_q = floats(*q.shape)
    for grad in ((*at(grad_q), strides(grad_q)), (0, (0, 0, 0))):
        train.backward(network, wanted, *head, size, sources, given, *grad, *at(q_taken, saved), at(*grads))
    one, hidden_in = floats(1, b, n, inputs), floats(groups, rows, hidden)
    hidden_out, q = np.empty_like(hidden_in), np.zeros((1, b, n, actions), np.float32)
    given = (*at(one), strides(one), inputs, 0, (0, 0, 0), 0, 0, 0, 0, 0)
    acting = network, sources, *at(q), strides(q), *at(None, None, None, hidden_in, hidden_out, None)
    train.forward(*head, (groups, 1, b, n, 1), given, (acting,))
    assert all(np.isfinite(array).all() for array in [q, hidden_out, *grads])
    step(train, level, [*zip(parameters, grads, [*masks, *[None] * 4], strict=True)])


def mixer(train, level, threads, n, states, embed, hidden, repeats, rows):
    sizes = [(hidden, states), (embed * n, hidden), (hidden, states), (embed, hidden)]
    sizes += [(embed, states), (embed, states), (1, embed)]
    weights, biases = [floats(*size) for size in sizes], [floats(size[0]) for size in sizes]
    masks = [some(*size) for size in sizes[:-1]] + [None]
    network = train.mixer_build(n, states, embed, hidden, at(*masks))
    full = train.mixer_build(n, states, embed, hidden, (0,) * 7)
    state, q, q_tot = floats(rows, states), floats(repeats, rows, n), np.empty((repeats, rows), np.float32)
    order = rng.permutation(rows)
    head = level, threads, (repeats, rows), at(*weights), at(*biases), *at(state, order, q)
    train.mixer_forward(network, *head, *at(q_tot))
    grad_q, grads = np.empty_like(q), [np.zeros_like(array) for array in [*weights, *biases]]
    none, means = (0, 0, 0.0, 0, 0), np.empty(5, np.float32)
    for wanted in (full, network):
        ends = at(*grads[:7]), at(*grads[7:])
        train.mixer_backward(network, wanted, *head, *at(floats(repeats, rows), grad_q), *none, *ends)
        for weight in (None, floats(rows)):
            goal = *at(floats(rows), weight), 0.5, *at(q_tot, means)
            one = level, threads, (1, rows), at(*weights), at(*biases), *at(state, order, q)
            train.mixer_backward(network, wanted, *one, *at(floats(rows), grad_q), *goal, *ends)
    assert np.isfinite(means).all()
    assert all(np.isfinite(array).all() for array in [q_tot, grad_q, *grads])
    step(train, level, [*zip([*weights, *biases], grads, [*masks, *[None] * 7], strict=True)])


def step(train, level, parameters):
    """Adam and RMSprop."""
    for beta1 in (0.9, 0.0):
        kept = []
        for parameter, grad, mask in parameters:
            index = None if mask is None else np.flatnonzero(mask).astype(np.int32)
            count = parameter.size if index is None else index.size
            first = np.zeros_like(parameter) if beta1 else None
            kept.append((count, [index, parameter, grad, first, np.zeros_like(parameter), np.zeros(1, np.float32)]))
        rows = [(count, *at(*arrays)) for count, arrays in kept]
        assert np.isfinite(train.step(level, (1e-3, beta1, 0.99, 1e-5), 10.0, rows))


def targets(train, level, threads, rows, actions, episodes, steps):
    q, select, value = floats(rows, actions), floats(rows, actions), np.empty(rows, np.float32)
    avail = some(rows, actions) | (np.arange(actions) == 0)
    for chosen in (q, select):
        train.soft_mellowmax(level, threads, (rows, actions), *at(q, chosen, avail), 10.0, 10.0, *at(value))
        assert np.isfinite(value).all()
    reward, filled = floats(episodes, steps), np.arange(steps) < rng.integers(1, steps + 1, (episodes, 1))
    following, y = floats(int(filled.sum())), np.empty(int(filled.sum()), np.float32)
    train.td_lambda((episodes, steps), *at(reward, following, some(episodes, steps), filled), 0.99, 0.6, *at(y))
    assert np.isfinite(y).all()


def main(path):
    train = load(path)
    for level, threads in product(train.levels(), (1, 3)):
        for hidden, t, b in ((1, 1, 1), (7, 9, 5), (17, 3, 33), (65, 2, 16)):
            for groups, full in product((1, 3), (False, True)):
                agents(train, level, threads, groups, hidden, t, b, 3, full)
        for n, states, embed, hidden, repeats, rows in (
            (1, 1, 1, 1, 1, 1),
            (3, 7, 5, 9, 2, 33),
            (8, 65, 17, 31, 3, 15),
        ):
            mixer(train, level, threads, n, states, embed, hidden, repeats, rows)
        for rows, actions in ((1, 1), (33, 7), (64, 17)):
            targets(train, level, threads, rows, actions, 3, rows % 10 + 1)


if __name__ == "__main__":
    main(sys.argv[1])
