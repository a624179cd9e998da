"""A header that counts inputs outside the range that training saw, beside a policy in C (mast_runtime.inputs).

It stands alone: a firmware that does not include it pays nothing for it.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError
from mast_runtime.inputs import Inputs

HEADER = """\
/* Inputs outside the range that training saw, for @prefix@.h. After a decision that was not refused:
 *
 *     static uint32_t counts[@PREFIX@_OBS];
 *     if (@prefix@_out_of_range(obs, counts) > 0) ...
 *
 * Include it where it is called: each file that does has the limits, @SIZE@ bytes. */
#ifndef @PREFIX@_RANGES_H
#define @PREFIX@_RANGES_H

#include "@prefix@.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
"""

COUNT = """\

/* How many of the @PREFIX@_OBS inputs are out of range. Each adds one to its own of `counts`, which stop at their
 * largest value; NULL: it is not noted which. @HOW@ */
static inline int @prefix@_out_of_range@SUFFIX@(const @TYPE@ *obs, uint32_t *counts)
{
    /* lowest and highest */
    static const @NUMBER@ limits[@PREFIX@_OBS][2] = {
@ROWS@
    };
    int found = 0;
    for (int i = 0; i < @PREFIX@_OBS; i++) {
@READ@
        if (at >= limits[i][0] && at <= limits[i][1]) {
            continue;
        }
        found++;
        if (counts != NULL && counts[i] < UINT32_MAX) {
            counts[i]++;
        }
    }
    return found;
}
"""

END = """
#ifdef __cplusplus
}
#endif

#endif
"""

FLOATS = {
    "SUFFIX": "",
    "TYPE": "float",
    "NUMBER": "int32_t",
    "HOW": "Floats are compared by their bits, which\n * are made to be in the order of numbers.",
    "READ": """\
        union {
            float value;
            int32_t bits;
        } f;
        f.value = obs[i];
        const int32_t at = f.bits < 0 ? f.bits ^ INT32_MAX : f.bits;""",
}
INTEGERS = {
    "SUFFIX": "_i16",
    "TYPE": "int16_t",
    "NUMBER": "int16_t",
    "HOW": "The observation is what\n * @prefix@_act_i16 takes.",
    "READ": "        const int16_t at = obs[i];",
}


def ranges(inputs: Inputs | None, prefix: str, obs_bits: NDArray[np.int8] | None = None) -> str:
    """The text of PREFIX_ranges.h. obs_bits [O]: of a policy in fixed point (mast_export.fixed.Fixed).

    Raises ExportError where no range is known.
    """
    if inputs is None:
        raise ExportError("--ranges: the policy says nothing of the range of its inputs; export it from its run")
    low, high = (np.array(side, np.float32) for side in inputs.limits())
    parts: list[tuple[dict[str, str], NDArray]] = [(FLOATS, np.stack(_ordered(low, high), 1))]
    if obs_bits is not None:
        parts.append((INTEGERS, np.stack(_integers(low, high, obs_bits), 1)))
    names = [_comment(inputs.name(i)) for i in range(len(low))]
    size = sum(limits.size * (4 if words is FLOATS else 2) for words, limits in parts)
    filled = [_fill(COUNT, words | {"ROWS": _rows(limits, names)}) for words, limits in parts]
    named = {"prefix": prefix, "PREFIX": prefix.upper(), "SIZE": f"{size:,}"}
    return _fill("".join([HEADER, *filled, END]), named)


def _ordered(low: NDArray[np.float32], high: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The bits [O] in the order of numbers; below both zeros and above both, where a limit is one."""
    below, above = np.where(low == 0.0, np.float32(-0.0), low), np.where(high == 0.0, np.float32(0.0), high)
    bits = [side.astype(np.float32).view(np.int32) for side in (below, above)]
    down, up = (np.where(side < 0, side ^ np.int32(2**31 - 1), side).astype(np.int32) for side in bits)
    return down, up


def _integers(
    low: NDArray[np.float32], high: NDArray[np.float32], obs_bits: NDArray[np.int8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and the largest integers [O] that observations in range are rounded to, as to_fixed rounds."""
    unit = 2.0 ** obs_bits.astype(np.float64)
    below, above = np.rint(low * unit), np.rint(high * unit)
    return np.clip(below, -32768, 32767).astype(np.int64), np.clip(above, -32768, 32767).astype(np.int64)


def _rows(limits: NDArray, names: list[str]) -> str:
    rows = limits.tolist()
    return "\n".join(
        f"        {{{a}, {b}}}{',' * (i + 1 < len(rows))} /* {names[i]} */" for i, (a, b) in enumerate(rows)
    )


def _comment(words: str) -> str:
    """`words` that cannot end a comment, break its line or need another encoding."""
    return re.sub(r"[^\w .,()-]", "?", words, flags=re.ASCII)


def _fill(template: str, words: dict[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda match: words.get(match[1], match[0]), template)
