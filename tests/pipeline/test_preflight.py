"""What is checked of a recipe before any work: networks of libraries, and code of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from slow_cases import slow

from sfplus.errors import UsageError
from sfplus.networks import create
from sfplus.pipeline.plan import plan
from sfplus.pipeline.preflight import check_plan
from sfplus.recipes.load import load_recipe
from sfplus.weights.model_folder import save_model

FACES = """
sample: {people: 8, photos: 2, verify_people: 4, folds: 2, pairs_per_fold: 2}
train: {network: sphereface4, feature_size: 16, max_iter: 2, steps: []}
verify: {}
"""
TUNED = """
finetune: {model: m, photos: photos, max_iter: 2, steps: []}
verify: {photos: photos, pairs: pairs.txt}
"""
IMAGES = "classify: {network: cnn6, width: 2, data: {name: cifar10}}\n"

PARTS = r'''
import torch
import torch.nn.functional as F
from torch import nn
from sfplus.hypersphere import Head

def small(feature_size, crop_size, channels: int = 2):
    layers = nn.Conv2d(3, channels, 3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, feature_size)
    return nn.Sequential(*layers)

def lazy(feature_size):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(feature_size))

def no_arguments(): return small(16, None)
def no_network(feature_size): return 3
def wrong_length(feature_size): return small(feature_size + 1, None)
def a_map(feature_size): return nn.Conv2d(3, feature_size, 3)
def integers(feature_size): return Wrapped(lambda x: torch.zeros(len(x), feature_size, dtype=torch.int64))
def several(feature_size): return Wrapped(lambda x: (x, x))
def raises(feature_size): raise RuntimeError("no\nnumbers")
def fails_on_crops(feature_size): return nn.Linear(3, feature_size)

class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.layer = function, nn.Linear(1, 1)
    def forward(self, x):
        return self.function(x)

class TrainsTwo(nn.Module):
    def __init__(self, feature_size):
        super().__init__()
        self.layer = small(feature_size, None)
    def forward(self, x):
        return (self.layer(x), 1) if self.training else self.layer(x)

class Cosine(Head):
    """Cosines."""
    def __init__(self, features, classes, scale: float = 8.0):
        super().__init__(features, classes)
        self.check_options(scale=scale)
        self.scale = scale
    limits = "scale > 0"
    def _with_margin(self, features, labels): return self._without_margin(features)
    def _without_margin(self, features): return self.scale * F.normalize(features) @ F.normalize(self.weight).T

class Best(Cosine):
    def __init__(self, features, classes, k: int = 1):
        super().__init__(features, classes)
        self.k = k
    def _with_margin(self, features, labels):
        logits = self._without_margin(features)
        return logits - logits.topk(self.k).values.mean(1, keepdim=True)

class Parts(Cosine):
    def __init__(self, features, classes):
        super().__init__(features, classes)
        assert features == 48

class NoLogits(Head): pass
class Nan(Cosine):
    def entropy(self, logits, labels): return logits.sum() * float("nan")
class NoScalar(Cosine):
    def entropy(self, logits, labels): return logits.sum(1)
class Transposed(Cosine):
    def __init__(self, features, classes):
        super().__init__(features, classes)
        self.weight = nn.Parameter(torch.zeros(features, classes))
    def _without_margin(self, features): return features @ self.weight
class OneSize(Head):
    def __init__(self): super().__init__(3, 3)
class NotAHead(nn.Module): pass

class Spread(nn.Module):
    def __init__(self, model, power: float = 2.0):
        super().__init__()
        self.model, self.power = model, power
    def forward(self):
        return sum((p.abs() ** self.power).sum() for p in self.model.parameters())

class OfNetwork(Spread):
    def __init__(self, model):
        super().__init__(model.network)

def anything(feature_size, path: str = "", **options): return small(feature_size, None)
def logits(classes, size, **options):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def constant(model): return lambda: torch.tensor(1.0)
def not_finite(model): return lambda: sum(p.sum() for p in model.parameters()) * float("inf")
def vector(model): return lambda: next(model.parameters())
def not_callable(model): return 3
def energy_raises(model): return lambda: 1 / 0
def no_model(): return constant(None)

class Faces:
    def __init__(self, min_face, device): raise RuntimeError("is created when it is used")
    def detect(self, photos): return []
def without_device(min_face): return Faces

def images(train, count: int = 4): return []
class Pictures:
    def __init__(self, root, train): pass
def images_without_train(): return []
'''


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Check a recipe with overrides, in a folder with the module `parts_of_this_test`."""
    (tmp_path / "parts_of_this_test.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)

    save_model(tmp_path / "m", create("sphereface4", feature_size=48, width=0.1), {
        "network": "sphereface4", "feature_size": 48, "width": 0.1, "template": "sphereface-112x96"})  # fmt: skip

    def run(text: str, *overrides: str) -> None:
        (tmp_path / "r.yaml").write_text(text)
        check_plan(plan(load_recipe(tmp_path / "r.yaml", [o.replace("P:", "parts_of_this_test:") for o in overrides])))

    yield run
    sys.modules.pop("parts_of_this_test", None)


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (FACES, []),
        (FACES, ["train.network=timm:resnet18"]),
        (FACES, ["train.network=torchvision:squeezenet1_1"]),
        (FACES, ["train.network=P:small"]),
        (FACES, ["train.network=P:small", "train.network_options={channels: 3}"]),
        (FACES, ["train.network=P:lazy"]),
        (FACES, ["train.head.name=P:Cosine", "train.head.scale=3"]),
        (FACES, ["train.network=P:small", "train.head.name=P:Cosine", "train.energy={mode: P:Spread, power: 1}"]),
        (FACES, ["train.network=P:anything", "train.network_options={path: x, input: 3, size: 1}"]),
        (FACES, ["train.head.name=P:Best", "train.head.k=10"]),
        (TUNED, ["finetune.head.name=P:Parts"]),
        (TUNED, ["finetune.energy.mode=P:OfNetwork", "finetune.energy.weight=0.1"]),
        (FACES, ["train.energy.mode=sfplus.hypersphere:HypersphericalEnergy", "train.energy.half_space=true"]),
        (FACES, ["finetune.energy.mode=P:Spread", "finetune.energy.weight=0.1", "train.network=P:small"]),
        (FACES, ["detect.detector=P:Faces"]),
        (IMAGES, ["network=timm:resnet18", "width=0"]),
        (IMAGES, ["energy={mode: P:Spread}"]),
        (IMAGES, ["data.name=P:images", "data.options={count: 2}"]),
        (IMAGES, ["data.name=P:Pictures"]),
        (IMAGES, ["data.name=P:images", "network=P:logits", "width=0", "network_options={name: x, operator: y}"]),
    ],
)
def test_what_works_passes_and_draws_no_random_numbers(check, text: str, overrides: list[str]) -> None:
    before = torch.get_rng_state()
    check(text, *overrides)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (FACES, ["train.network=timm:resnet18", "train.width=0.5"], "timm:resnet18: does not support width"),
        (FACES, ["train.network=timm:resnet1"], "timm has no network 'resnet1'; did you mean 'resnet18'?"),
        (FACES, ["train.network=torchvision:resnt18"], "has no network 'resnt18'; did you mean 'resnet18'?"),
        slow(FACES, ["train.network=torchvision:googlenet"], "returns GoogLeNetOutputs in training, not a tensor"),
        slow(FACES, ["train.network=torchvision:inception_v3"], "cannot be trained on crops of 112x96"),
        slow(FACES, ["train.network=torchvision:vit_b_16"], "does not accept crops of 112x96"),
        (FACES, ["train.network=no_such_module:f"], "no_such_module:f: there is no such module"),
        (FACES, ["train.network=P:smal"], "parts_of_this_test has no 'smal'; did you mean 'small'?"),
        (FACES, ["train.network=P:no_arguments"], "does not take 'feature_size'; it is called with feature_size=..."),
        (FACES, ["train.network=P:no_network"], "returns int, not a network; return a torch.nn.Module"),
        (FACES, ["train.network=P:wrong_length"], "turns 2 images into (2, 17) float32; return (N, 16)"),
        (FACES, ["train.network=P:a_map"], "turns 2 images into (2, 16, 110, 94) float32; return (N, 16)"),
        (FACES, ["train.network=P:integers"], "turns 2 images into (2, 16) int64; return (N, 16)"),
        (FACES, ["train.network=P:several"], "turns images into tuple, not into a tensor; return (N, 16)"),
        (FACES, ["train.network=P:TrainsTwo"], "returns tuple in training, not a tensor of features"),
        (FACES, ["train.network=P:raises"], "failed (RuntimeError: no); mend this function"),
        (FACES, ["train.network=P:fails_on_crops"], "does not accept images of 3x112x96 (RuntimeError: mat1 and mat2"),
        (FACES, ["train.network=P:small", "train.network_options={chanels: 3}"], "no option 'chanels'; did you mean"),
        (FACES, ["train.network=P:small", "train.network_options={channels: many}"], "channels: Input should be"),
        (FACES, ["train.network=P:small", "train.width=0.5"], "has no option 'width'; leave width out"),
        (FACES, ["train.head.name=P:Cosin"], "parts_of_this_test has no 'Cosin'; did you mean 'Cosine'?"),
        (FACES, ["train.head.name=P:NotAHead"], "is not a class of heads; derive it from sfplus.hypersphere.Head"),
        (FACES, ["train.head.name=P:small"], "is not a class of heads"),
        (FACES, ["train.head.name=P:OneSize"], "does not take features, classes as first arguments"),
        (FACES, ["train.head.name=P:NoLogits"], "failed (NotImplementedError: )"),
        (FACES, ["train.head.name=P:Nan"], "does not give a finite scalar loss with a gradient"),
        (FACES, ["train.head.name=P:NoScalar"], "failed (RuntimeError: grad can be implicitly created only for scalar"),
        (FACES, ["train.head.name=P:Transposed"], "has no parameter weight of shape (classes, features)"),
        (FACES, ["train.head.name=P:Cosine", "train.head.scal=3"], "has no option 'scal'; did you mean 'scale'?"),
        (FACES, ["train.head.name=P:Cosine", "train.head.scale=-3"], "failed (ValueError: scale of Cosine must be > 0"),
        (FACES, ["train.energy={mode: P:Spred}"], "parts_of_this_test has no 'Spred'; did you mean 'Spread'?"),
        (FACES, ["train.energy={mode: P:Spread, powr: 1}"], "has no option 'powr'; did you mean 'power'?"),
        (FACES, ["train.energy={mode: P:constant}"], "computes a number that does not depend on the weights"),
        (FACES, ["train.energy={mode: P:not_finite}"], "; return a finite number"),
        (FACES, ["train.energy={mode: P:vector}"], "float32, not a scalar; return a tensor of shape ()"),
        (FACES, ["train.energy={mode: P:not_callable}"], "returns int, which cannot be called"),
        (FACES, ["train.energy={mode: P:energy_raises}"], "failed (ZeroDivisionError: division by zero)"),
        (FACES, ["train.energy={mode: P:no_model}"], "does not take the model as first arguments"),
        (FACES, ["detect.detector=P:Face"], "parts_of_this_test has no 'Face'; did you mean 'Faces'?"),
        (FACES, ["detect.detector=P:without_device"], "does not take 'device'; it is called with min_face=..."),
        (FACES, ["detect.detector=no_such_module:F"], "no_such_module:F: there is no such module"),
        (IMAGES, ["network=timm:resnet18"], "width and weight_norm are for the networks of sfplus"),
        (IMAGES, ["network=P:small", "width=0"], "does not take 'classes'"),
        (IMAGES, ["network=P:logits", "width=0", "network_options={classes: 3}"], "is given 'classes' by sfplus"),
        (IMAGES, ["network=P:logits", "width=0", "network_options={size: 3}"], "is given 'size' by sfplus"),
        (IMAGES, ["data.name=P:images", "network=P:small", "width=0"], "does not take 'classes'"),
        (IMAGES, ["data.name=P:images", "network=P:logit", "width=0"], "did you mean 'logits'?"),
        (IMAGES, ["data.name=P:images", "network=P:logits"], "has no option 'width'; leave width out"),
        (IMAGES, ["data.name=P:images", "energy={mode: P:Spread, powr: 1}"], "did you mean 'power'?"),
        (TUNED, ["finetune.energy={mode: P:OfNetwork, powr: 1}"], "has no option 'powr'"),
        (IMAGES, ["energy={mode: P:vector}"], "not a scalar"),
        (IMAGES, ["data.name=P:imges"], "did you mean 'images'?"),
        (IMAGES, ["data.name=P:images", "data.options={cont: 2}"], "has no option 'cont'; did you mean 'count'?"),
        (IMAGES, ["data.name=P:images_without_train"], "does not take 'train'; it is called with train=..."),
    ],
)  # fmt: skip
def test_what_would_fail_later_is_one_line(check, text: str, override: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(text, *override)
    assert message in str(caught.value) and "\n" not in str(caught.value)
