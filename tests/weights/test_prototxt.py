from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cpu_time import cpu_time_below
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow_cases import slow

from sfplus.errors import WeightsError
from sfplus.weights.prototxt import read_prototxt, write_prototxt

LAYER = 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 stride: 2 } }'
TEXT = f"""# SphereFace, with all features that its prototxts use
name: "net"
input: "data"
input_dim: 1 input_dim: 3 input_dim: 112 input_dim: 96
{LAYER}
layer {{
  name: 'fc6' type: "MarginInnerProduct" bottom: "c" bottom: "label" top: "fc6" top: "lambda"
  param {{ name: "fc6_w" lr_mult: 1 decay_mult: 1 }}
  include: {{ phase: TRAIN }}
  margin_inner_product_param {{ num_output: 10572 type: QUADRUPLE weight_filler {{ type: "xavier" }} list: [1, 2] }}
}}
"""


def read(folder: Path, text: str | bytes) -> object:
    path = folder / "x.prototxt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_prototxt(path)


def test_a_sphereface_prototxt_is_read(tmp_path: Path) -> None:
    net = read(tmp_path, TEXT)
    assert net.name == "net" and list(net.input) == ["data"] and list(net.input_dim) == [1, 3, 112, 96]  # type: ignore[attr-defined]
    conv, fc6 = net.layer  # type: ignore[attr-defined]
    assert conv.convolution_param.num_output == 4 and list(conv.convolution_param.stride) == [2]
    assert fc6.type == "MarginInnerProduct" and list(fc6.bottom) == ["c", "label"]
    assert fc6.param[0].name == "fc6_w" and fc6.include[0].phase == 0


@pytest.mark.parametrize(
    ("text", "read_three"),
    [
        ('input: "data" input_shape { dim: 1 dim: 3 }', lambda net: net.input_shape[0].dim[1]),
        (
            'layer { name: "data" type: "Input" top: "data" input_param { shape: { dim: 1 dim: 3 } } }',
            lambda net: net.layer[0].input_param.shape[0].dim[1],
        ),
        (
            'layers { name: "data" type: CONVOLUTION blobs_lr: 1 convolution_param { num_output: 3 } }',
            lambda net: net.layers[0].convolution_param.num_output,
        ),
    ],
)
def test_other_forms_of_input_and_layers(text: str, read_three: Callable[[object], int], tmp_path: Path) -> None:
    assert read_three(read(tmp_path, text)) == 3


def test_a_written_file_reads_the_same(tmp_path: Path) -> None:
    net = read(tmp_path, TEXT)
    write_prototxt(tmp_path / "y.prototxt", net)
    assert read_prototxt(tmp_path / "y.prototxt") == net
    assert "margin_inner_product_param" not in (tmp_path / "y.prototxt").read_text(), "unknown fields are left out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"layer {", "not a readable"),
        (b"layer }", "not a readable"),
        (b"name: 3", "not a readable"),
        (b"layer { phase: NEVER }", "no value named NEVER"),
        (b"\xff\xfe", "not a readable"),
        (b'name: "\\377"', "not a readable"),
        (b"input_dim: 99999999999999999999", "out of range"),
        (b"<html><body>Quota exceeded</body></html>", "not a readable"),
        (b"a {" * 100_000, "nested more than 32 levels deep"),
        (b"layer { x: [" * 33 + b"]}" * 33, "nested more than 32 levels deep"),
        (b" " * (2 << 20), "is 2 MiB large"),
        (b"a: 1\n" * 150_000, "150,000 fields, more than the limit of 50,000"),
        (b"input_dim: [1" + b",1" * 150_000 + b"]", "150,001 fields, more than the limit"),
        (b"name: " + b"''" * 150_000, "150,001 fields, more than the limit"),
        (b"name: '" + b"x" * 1000, "not a readable"),
    ],
)
def test_bad_files_get_one_clear_line(text: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_braces_in_strings_and_comments_are_not_nesting(tmp_path: Path) -> None:
    net = read(tmp_path, f'name: "{"{" * 99}" # {"<" * 99}\n{LAYER}')
    assert net.name == "{" * 99  # type: ignore[attr-defined]


def test_paths_that_are_not_prototxt_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(WeightsError, match="no such file"):
            read_prototxt(path)


@pytest.mark.parametrize("token", [slow("a: 1 "), "a {} ", "layer {} ", "input_dim: 1 ", "a: [[] ", "# \n", "\\", "''"])
def test_large_files_take_bounded_time(token: str, tmp_path: Path) -> None:
    with cpu_time_below(3), contextlib.suppress(WeightsError):
        read(tmp_path, token * ((1 << 17) // len(token)))  # an eighth of the limit


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, len(TEXT)), removed=st.integers(0, 5), inserted=st.text(max_size=8))
def test_changed_text_is_refused_or_read(offset: int, removed: int, inserted: str, tmp_path: Path) -> None:
    text = TEXT[:offset] + inserted + TEXT[offset + removed :]
    try:
        with cpu_time_below(2):
            net = read(tmp_path, text)
    except WeightsError as error:
        assert "\n" not in str(error)
        return
    assert text_format.Parse(text_format.MessageToString(net), type(net)()) == net
