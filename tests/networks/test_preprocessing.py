from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sfplus.alignment.templates import find_template
from sfplus.errors import UsageError
from sfplus.networks.normalize import normalize_crops
from sfplus.networks.preprocessing import PRESETS, Preprocessing, parse_preprocessing, read_preprocessing


@pytest.mark.parametrize("name", PRESETS)
def test_presets_normalise_as_their_formula_says_and_survive_json(name: str) -> None:
    preset = parse_preprocessing(name.upper())
    assert preset == PRESETS[name]
    template = find_template(preset.template)
    crops = np.random.default_rng(0).integers(0, 256, (2, template.height, template.width, 3), dtype=np.uint8)
    expected = crops[..., ::-1] if preset.channels == "bgr" else crops
    expected = (expected.astype(np.float64) - np.array(preset.mean)) / np.array(preset.scale)
    actual = normalize_crops(torch.from_numpy(crops), preset).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(actual, expected, atol=3e-5)
    config = json.loads(json.dumps({"template": preset.template, "preprocessing": preset.to_config()}))
    assert read_preprocessing(config) == preset


def test_the_default_is_the_input_of_sphereface_to_the_bit() -> None:
    crops = torch.randint(0, 256, (2, 112, 96, 3), dtype=torch.uint8)
    assert torch.equal(normalize_crops(crops), normalize_crops(crops, read_preprocessing({})))
    assert str(Preprocessing()) == "sphereface-112x96 crops, BGR, (x - 127.5) / 128, NCHW, with mirror image"


def test_values_after_a_preset_replace_its_values() -> None:
    changed = parse_preprocessing(" insightface, channels = bgr,mean=1,2,3 ,mirror=yes,output=fc1")
    expected = replace(PRESETS["insightface"], channels="bgr", mean=(1.0, 2.0, 3.0), mirror=True, output="fc1")
    assert changed == expected
    assert (
        parse_preprocessing("template=arcface-112x112,channels=rgb,mean=127.5,scale=127.5,mirror=false")
        == (PRESETS["insightface"])
    )
    assert parse_preprocessing("", expected) == expected
    assert parse_preprocessing("layout=NHWC", expected) == replace(expected, layout="nhwc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("insigtface", "did you mean 'insightface'"),
        ("1234", "use one of sphereface"),
        ("channels=rbg", "channels is 'rbg'; use rgb or bgr"),
        ("layout=chw", "use nchw or nhwc"),
        ("mean=a", "mean is 'a'"),
        ("mean=", "mean is ''"),
        ("mean=1,2", "one finite number, or three"),
        ("mean=nan", "one finite number, or three"),
        ("scale=0", "scale is 0; give positive numbers"),
        ("scale=1,-1,1", "give positive numbers"),
        ("scale=inf", "one finite number"),
        ("mirror=maybe", "use true or false"),
        ("foo=1", "there is no key 'foo'"),
        ("chanels=rgb", "did you mean 'channels'"),
        ("insightface,rgb", "'rgb' has no key"),
        ("mean=1,mean=2", "mean is given twice"),
    ],
)
def test_wrong_descriptions_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_preprocessing(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [[], {"foo": 1}, {"mean": 1}, {"mean": ["a"]}, {"mean": [True]}, {"scale": [0]}, {"mirror": 1}, {"output": 3},
     {"channels": []}, {"layout": None}, {"mean": [1e400]}],
    ids=str,
)  # fmt: skip
def test_wrong_values_in_a_config_are_refused(values: object) -> None:
    with pytest.raises(UsageError, match="input of the model"):
        read_preprocessing({"preprocessing": values})


def test_templates_of_presets_hold_a_face() -> None:
    for preset in PRESETS.values():
        template = find_template(preset.template)
        left, right, nose, *mouth = template.points
        assert left[0] < nose[0] < right[0] and left[1] < nose[1] < mouth[0][1] < template.height
        assert abs((left[0] + right[0]) / 2 - template.width / 2) < 0.03 * template.width
