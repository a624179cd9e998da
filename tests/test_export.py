"""The table of export formats, and requests that no format can meet: one line that says what can."""

from __future__ import annotations

from pathlib import Path

import pytest

from mast_export.errors import ExportError
from mast_export.export import export_run
from mast_export.formats import FORMATS, find_format

ABSENT = Path("absent")


@pytest.mark.parametrize("name", FORMATS)
def test_every_row_is_a_format(name):
    found = find_format(name)
    assert found.description and found.dtypes[0] == "f32"


def test_default_names_tell_formats_agents_and_types_apart():
    requests = [
        (name, agent, dtype) for name in FORMATS for agent in (None, 0, 1) for dtype in find_format(name).dtypes
    ]
    names = [find_format(name).file_name(agent, dtype) for name, agent, dtype in requests]
    assert len(set(names)) == len(names)
    assert find_format("mast").file_name(None, "f32") == "policy.mast"
    assert find_format("mast").file_name(1, "i8") == "policy-agent1-i8.mast"
    assert find_format("onnx-sparse").file_name(0, "f32") == "policy-agent0-sparse.onnx"
    assert find_format("c").file_name(None, "f16") == "policy-f16-c"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"format_": "tflite"}, ("'tflite'", "mast, onnx, onnx-sparse, c")),
        ({"format_": "onnx", "dtype": "i8"}, ("--dtype i8", "--format onnx", "f32", "use --format mast or c")),
        ({"dtype": "i4"}, ("'i4'", "f32, f16, i8")),
        ({"ranges": True}, ("--ranges", "--format mast", "use --format c")),
        ({"target": "wasm32-wasi"}, ("--target wasm32-wasi", "--format mast", "use --format c")),
    ],
)
def test_what_a_format_cannot_do_is_refused_before_anything_is_read(request_, words):
    with pytest.raises(ExportError) as caught:
        export_run(ABSENT, ABSENT / "step-1.safetensors", **request_)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
