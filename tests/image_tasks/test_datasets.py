"""Image datasets against torchvision's readers."""

import gzip
import shutil
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_files import damaged, read_or_refuse
from PIL import Image
from torchvision import datasets

from sfplus.errors import DatasetError
from sfplus.image_tasks import datasets as image_datasets
from sfplus.image_tasks.datasets import SmallImages, accuracy_by_class, imbalance, list_image_files, load_small_images
from sfplus.image_tasks.random_crop import centre_crop
from sfplus.networks.normalize import normalize_images


def write_folders(root: Path, classes: int = 3, count: int = 4, size: tuple[int, int] = (8, 8)) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return root


def pixels(count: int, channels: int = 3, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, channels), dtype=torch.uint8, generator=generator)


def test_folders_match_torchvision(tmp_path: Path) -> None:
    write_folders(tmp_path / "set")
    ours = load_small_images("folder", tmp_path / "set", "train", cache=tmp_path / "cache")
    theirs = datasets.ImageFolder(str(tmp_path / "set" / "train"))
    assert list(ours.names) == theirs.classes and ours.labels.tolist() == theirs.targets
    assert all(np.array_equal(ours.images[i].numpy(), np.asarray(theirs[i][0])) for i in range(len(theirs)))


def test_decoded_images_are_cached(tmp_path: Path) -> None:
    write_folders(tmp_path / "set")
    first = load_small_images("cifar10", tmp_path / "set", "test", cache=tmp_path / "cache")
    for path in (tmp_path / "set" / "test").rglob("*.png"):
        path.write_bytes(b"")
    again = load_small_images("cifar10", tmp_path / "set", "test", cache=tmp_path / "cache")
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx_files_match_torchvision(suffix: str, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for name in ("train", "t10k"):
        for what, values in (("images-idx3", images), ("labels-idx1", np.arange(5, dtype=np.uint8))):
            header = bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape)
            data = header + values.tobytes()
            (raw / f"{name}-{what}-ubyte{suffix}").write_bytes(gzip.compress(data) if suffix else data)
            (raw / f"{name}-{what}-ubyte").write_bytes(data)  # torchvision reads these
    for split in ("train", "test"):
        ours = load_small_images("mnist", tmp_path, split)  # type: ignore[arg-type]
        theirs = datasets.MNIST(str(tmp_path), train=split == "train")
        assert torch.equal(ours.images[..., 0], theirs.data) and torch.equal(ours.labels, theirs.targets)


def test_mnist_has_the_published_class_counts(shared_data: Path) -> None:
    mnist = load_small_images("mnist", shared_data / "mnist", "test")
    # The published counts of the digits in MNIST's test set.
    assert mnist.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize(
    ("name", "break_it", "message"),
    [
        ("folder", lambda root: shutil.rmtree(root / "train"), "train"),
        ("folder", lambda root: shutil.rmtree(root / "test" / "class1"), "'class1' is in one split only"),
        ("cifar10", lambda root: shutil.rmtree(root), "data.download=true"),
        ("mnist", lambda root: shutil.rmtree(root), "train-images-idx3-ubyte.gz"),
        (
            "folder",
            lambda root: Image.new("RGB", (9, 8)).save(root / "train" / "class0" / "0002.png"),
            "is 8x9 pixels",
        ),
    ],
)
def test_missing_files_are_named(name: str, break_it, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = write_folders(tmp_path / "set")
    break_it(root)
    with pytest.raises(DatasetError, match=message):
        load_small_images(name, root, "train")  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", [b"\0\0\x08\x02", b"", b"\0\0\x08\x03" + b"\0\0\0\x01" * 3])
def test_damaged_idx_file_is_refused(damage: bytes, tmp_path: Path) -> None:
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(damage)
    with pytest.raises(DatasetError, match="idx"):
        load_small_images("mnist", tmp_path, "train")


def test_input_is_channels_last() -> None:
    images = pixels(2)
    inputs = normalize_images(images)
    assert inputs.is_contiguous(memory_format=torch.channels_last) and inputs.dtype == torch.float32
    assert torch.equal(inputs, (images.permute(0, 3, 1, 2).double() - 127.5).div(128).float())


def test_files_are_resized_and_cropped_to_a_square(tmp_path: Path) -> None:
    write_folders(tmp_path / "set", size=(24, 12))
    files = list_image_files(tmp_path / "set", "train", size=6)
    batch = files.batch(np.array([3, 0]))
    assert batch.shape == (2, 6, 6, 3) and batch.dtype == torch.uint8 and len(files) == 12
    resized = Image.open(files.paths[3]).resize((12, 6), Image.Resampling.BILINEAR)
    assert np.array_equal(batch[0].numpy(), np.asarray(resized)[:, 3:9])
    assert torch.equal(centre_crop(batch, 4), batch[:, 1:5, 1:5])


def test_imbalance_thins_out_one_class() -> None:
    labels = torch.arange(1000) % 10
    full = SmallImages(pixels(1, 1, 2).expand(1000, -1, -1, -1), labels, tuple("0123456789"))
    thin = imbalance(full, 0, 0.02, 1)
    assert thin.labels.bincount().tolist() == [2] + [100] * 9
    assert not torch.equal(thin.labels.cumsum(0), imbalance(full, 0, 0.02, 2).labels.cumsum(0))


@pytest.mark.parametrize("label", [-1, 10])
def test_unknown_scarce_class_is_refused(label: int) -> None:
    names = tuple(map(str, range(10)))
    images = SmallImages(torch.zeros(10, 2, 2, 1, dtype=torch.uint8), torch.arange(10), names)
    with pytest.raises(DatasetError, match=f"there is no class {label}; use a number from 0 to 9"):
        imbalance(images, label, 0.02, 0)


def test_accuracy_by_class() -> None:
    labels, predicted = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 0])
    accuracies = accuracy_by_class(predicted, labels, 3)
    assert accuracies[:2] == pytest.approx([1 / 2, 2 / 3]) and accuracies[2] != accuracies[2]


@pytest.mark.parametrize("keep", [15, 40, None])
def test_damaged_gz_file_is_refused(keep: int | None, tmp_path: Path) -> None:
    """The file is cut short, or its bytes are not a deflate stream."""
    compressed = gzip.compress(np.random.default_rng(0).bytes(500))
    data = compressed[:keep] if keep else compressed[:10] + b"\xff" * 400
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / f"{name}.gz").write_bytes(data)
    with pytest.raises(
        DatasetError,
        match=r"images-idx3-ubyte\.gz: (is damaged \(.*\)|is not an idx file.*); download the file again",
    ):
        load_small_images("mnist", tmp_path, "train")


def test_batches_of_files_share_their_threads(tmp_path: Path) -> None:
    write_folders(tmp_path, size=(8, 8))
    files = list_image_files(tmp_path, "train", size=6)
    files.batch(np.arange(2))
    before = {thread.ident for thread in threading.enumerate()}
    for _ in range(3):
        files.batch(np.arange(2))
    decoders = {thread.ident for thread in threading.enumerate() if thread.name.startswith("decode")}
    assert decoders and len(decoders - before) <= 1  # a pool adds threads one by one, up to its size


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (3, 3), (64, 16)])
def test_images_are_decoded_by_as_many_threads_as_the_process_has_cpus(
    cpus: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its container or launcher may allow fewer than the machine has."""
    monkeypatch.setattr(image_datasets, "count_cpus", lambda: cpus)
    with image_datasets._decoders.__wrapped__() as pool:
        assert pool._max_workers == threads


IMAGES = bytes((0, 0, 8, 3)) + struct.pack(">III", 5, 4, 4) + bytes(range(80))
DIGITS = bytes((0, 0, 8, 1)) + struct.pack(">I", 5) + bytes(range(5))


def write_idx(root: Path, images: bytes, labels: bytes = DIGITS, suffix: str = "") -> Path:
    root.mkdir(exist_ok=True)
    for name, data in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        (root / f"{name}{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    return root


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_idx_files_are_one_line(suffix: str, tmp_path: Path) -> None:
    root, refused = write_idx(tmp_path, IMAGES, DIGITS, suffix), 0
    for file in sorted(root.iterdir()):
        data = file.read_bytes()
        for case in damaged(data, 60, 30):
            file.write_bytes(case)
            refused += read_or_refuse(lambda: load_small_images("mnist", root, "train"))
        file.write_bytes(data)
    assert refused > 60 and len(load_small_images("mnist", root, "train")) == 5


@pytest.mark.parametrize(
    ("sides", "labels", "message"),
    [
        ((2**31, 2**31, 4), DIGITS, "more than the limit of 4,294,967,296"),
        ((2**32 - 1,) * 3, DIGITS, "more than the limit"),
        ((1000, 1000, 1000), DIGITS, r"bytes expand to 1,000,000,000"),
        ((0, 4, 4), DIGITS[:4] + bytes(4), "is empty"),
        ((5, 4, 4), DIGITS[:8] + b"\xff" * 5, "has the label 255, beyond 9"),
        ((5, 4, 4), DIGITS[:7] + b"\4" + bytes(4), "has 5 images and 4 labels"),
    ],
)
def test_idx_files_with_wrong_sizes_and_labels_are_refused(
    sides: tuple[int, int, int], labels: bytes, message: str, tmp_path: Path
) -> None:
    write_idx(tmp_path, IMAGES[:4] + struct.pack(">III", *sides) + IMAGES[16:] * bool(sides[0]), labels)
    with pytest.raises(DatasetError, match=message):
        load_small_images("mnist", tmp_path, "train")


def test_an_archive_of_gigabytes_is_read_as_far_as_it_is_announced(tmp_path: Path) -> None:
    """After the right header come zeros without end, 100 MB of them."""
    write_idx(tmp_path, IMAGES + bytes(100_000_000), DIGITS, ".gz")
    tracemalloc.start()
    with pytest.raises(DatasetError, match="is not an idx file of bytes"):
        load_small_images("mnist", tmp_path, "train")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_damaged_cache_is_decoded_again(tmp_path: Path) -> None:
    write_folders(tmp_path / "set", classes=2, count=2)
    expected = load_small_images("folder", tmp_path / "set", "train", cache=tmp_path / "cache").images
    cache = tmp_path / "cache" / "train.npy"
    np.save(tmp_path / "other.npy", np.zeros((4, 8, 8, 3)))
    cases = [
        *damaged(cache.read_bytes()[:300], 30, 20),
        (tmp_path / "other.npy").read_bytes(),
        b"cos\nsystem\n(S'x'\ntR.",
    ]
    for case in cases:
        cache.write_bytes(case)
        loaded = load_small_images("folder", tmp_path / "set", "train", cache=tmp_path / "cache")
        assert torch.equal(loaded.images, expected), case


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_pickles_with_another_digest_are_not_opened(name: str, tmp_path: Path) -> None:
    folder = tmp_path / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    folder.mkdir()
    for file in (
        *(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
        "train",
        "test",
        "meta",
    ):
        (folder / file).write_bytes(b"cos\nmkdir\n(S'" + str(tmp_path / "owned").encode() + b"'\ntR.")
    with pytest.raises(DatasetError, match="is missing or damaged"):
        load_small_images(name, tmp_path, "train")  # type: ignore[arg-type]
    assert not (tmp_path / "owned").exists()
