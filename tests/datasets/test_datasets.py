"""Datasets: what is loaded, how it is divided, and what is refused."""

import hashlib
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from advbench.datasets import ArrayPixels, DatasetSpec, LabelledImages, load_dataset, stratified_order
from advbench.datasets.base import held_out
from advbench.datasets.folders import SUFFIXES, FilePixels
from advbench.errors import InvalidConfig, InvalidData, UnknownName

DATA = Path(__file__).parents[2] / "data"


def write_folder(root: Path, classes: int = 3, images: int = 12, size: int = 20) -> Path:
    generator = np.random.default_rng(0)
    for name in [f"class{position}" for position in range(classes)]:
        (root / name).mkdir(parents=True)
        for number in range(images):
            pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


class TestDigits:
    def test_what_is_embedded(self) -> None:
        loaded = load_dataset(DatasetSpec())
        assert (len(loaded.fit), len(loaded.validation), len(loaded.evaluation)) == (1294, 144, 359)
        images = loaded.evaluation.images(slice(0, 5))
        assert images.shape == (5, 3, 32, 32)
        assert images.dtype is torch.float32
        assert 0 <= images.min() <= images.max() <= 1
        assert loaded.classes == tuple("0123456789")

    def test_nothing_leaks(self) -> None:
        loaded = load_dataset(DatasetSpec())
        parts = [set(part.ids) for part in (loaded.fit, loaded.validation, loaded.evaluation)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]

    def test_ids_and_parts_are_stable(self) -> None:
        """Golden: other machines and later versions must find the same images in the same parts."""
        loaded = load_dataset(DatasetSpec())
        assert loaded.evaluation.ids[:2] == GOLDEN_IDS
        assert load_dataset(DatasetSpec()).digest == loaded.digest

    def test_a_limit_is_balanced_and_nested(self) -> None:
        small, large = (load_dataset(DatasetSpec(limit=count)).evaluation for count in (20, 50))
        assert torch.bincount(small.labels).tolist() == [2] * 10
        assert set(small.ids) <= set(large.ids)

    def test_another_size_is_another_dataset(self) -> None:
        resized = load_dataset(DatasetSpec(image_size=48))
        assert resized.evaluation.images(slice(0, 1)).shape == (1, 3, 48, 48)
        assert resized.digest != load_dataset(DatasetSpec()).digest
        assert resized.evaluation.ids == load_dataset(DatasetSpec()).evaluation.ids

    def test_the_same_ids_with_other_pixels_are_another_dataset(self) -> None:
        """What was trained on one rendering of the images must never be taken for the other's."""
        fit = load_dataset(DatasetSpec()).fit
        assert isinstance(fit.pixels, ArrayPixels)
        inverted = LabelledImages(ArrayPixels(255 - fit.pixels.array), fit.rows, fit.labels, fit.ids)
        assert inverted.digest != fit.digest

    @pytest.mark.parametrize("limit", [400, 2000])
    def test_more_than_there_is_is_refused(self, limit: int) -> None:
        with pytest.raises(InvalidConfig, match="between 1 and the 359 images"):
            load_dataset(DatasetSpec(limit=limit))


GOLDEN_IDS = ("cb9a5dfa7a878913f56c", "2433dc58ba2cd950376d")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.05, 0.5), st.integers(0, 99))
def test_no_class_is_held_out_whole(labels: list[int], share: float, seed: int) -> None:
    taken, kept = held_out(torch.tensor(labels), share, seed)
    assert sorted([*taken.tolist(), *kept.tolist()]) == list(range(len(labels)))
    assert len(taken) <= round(share * len(labels))
    for label in set(labels):
        gives = sum(labels[row] == label for row in taken.tolist())
        assert gives <= min(math.ceil(2 * share * labels.count(label)), labels.count(label) - 1)


@given(st.integers(2, 5), st.integers(4, 20), st.floats(0.1, 0.5), st.integers(0, 99))
def test_of_equal_classes_the_beginning_of_a_stratified_order_is_held_out(
    classes: int, each: int, share: float, seed: int
) -> None:
    labels = torch.arange(classes).repeat(each)
    order, count = stratified_order(labels, seed), round(share * len(labels))
    taken, kept = held_out(labels, share, seed)
    assert taken.tolist() == order[:count].tolist()
    assert kept.tolist() == order[count:].tolist()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 5))
def test_every_beginning_of_a_stratified_order_is_balanced(labels: list[int], seed: int) -> None:
    tensor = torch.tensor(labels)
    order = stratified_order(tensor, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    available = torch.bincount(tensor, minlength=5)
    for end in range(1, len(labels) + 1):
        taken = torch.bincount(tensor[order[:end]], minlength=5)
        unfinished = taken[taken < available]
        if len(unfinished):
            assert taken.max() <= unfinished.min() + 1


class TestFolders:
    def test_train_and_val_folders(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "train", images=20)
        write_folder(tmp_path / "val", images=4, size=24)
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=32))
        assert (len(loaded.fit), len(loaded.validation), len(loaded.evaluation)) == (54 + 0, 6, 12)
        assert loaded.evaluation.images(slice(0, 3)).shape == (3, 3, 32, 32)
        assert loaded.classes == ("class0", "class1", "class2")

    @pytest.mark.parametrize("names", [("Train", "Val"), ("TRAIN", "TEST"), ("train", "val", "test")])
    def test_parts_are_known_in_upper_and_lower_case(self, names: tuple[str, ...], tmp_path: Path) -> None:
        for name, images in zip(names, (20, 4, 7), strict=False):
            write_folder(tmp_path / name, images=images)
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=16))
        assert loaded.classes == ("class0", "class1", "class2")
        assert len(loaded.evaluation) == 12

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (("training", "validation"), "holds 'training', 'validation', which are no classes"),
            (("Testing", "VALID"), "holds 'Testing', 'VALID', which are no classes"),
            (("test", "val"), "holds 'test', 'val', which are no classes"),
            (("train", "valid"), "holds 'train', 'valid', and 'valid' is no known part"),
            (("train", "held-out"), "holds 'train', 'held-out', and 'held-out' is no known part"),
            (("train", "Train", "val"), "and 'Train' is no known part"),
            (("train", "test", "valid"), "holds 'train', 'test', 'valid', and 'valid' is no known part"),
        ],
    )
    def test_parts_under_other_names_are_refused(self, names: tuple[str, ...], words: str, tmp_path: Path) -> None:
        for name in names:
            write_folder(tmp_path / name)
        for dataset in ("imagefolder", "imagenet-2"):
            with pytest.raises(InvalidData, match=f"{words}.*: name them train and val, each with one sub-folder"):
                load_dataset(DatasetSpec(name=dataset, folder=tmp_path))

    def test_a_fifth_of_train_is_evaluated_where_nothing_else_is_there(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "train", images=20)
        (tmp_path / "documents").mkdir()
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=16))
        assert len(loaded.evaluation) == 12

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        write_folder(tmp_path, classes=2, images=20)
        (tmp_path / "class0").rename(tmp_path / "train")
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=16))
        assert loaded.classes == ("class1", "train")

    def test_classes_of_val_alone_are_refused_unless_they_are_drawn(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "train", classes=3, images=20)
        write_folder(tmp_path / "val", classes=5, images=4)
        with pytest.raises(InvalidData, match="val holds classes that .*train lacks: 'class3', 'class4'; put images"):
            load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path))
        drawn = load_dataset(DatasetSpec(name="imagenet-2", folder=tmp_path, image_size=16))
        assert len(drawn.evaluation) == 8

    def test_one_folder_is_divided(self, tmp_path: Path) -> None:
        write_folder(tmp_path, images=40)
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=16))
        assert len(loaded.evaluation) == 24
        assert not set(loaded.fit.ids) & set(loaded.evaluation.ids)

    def test_classes_are_numbered_as_torchvisions_are(self, tmp_path: Path) -> None:
        """A model that was trained elsewhere scores them in that order."""
        names = ["b", "A", "10", "9", "a-b", "a", "a b", "ä"]
        write_folder(tmp_path, classes=len(names), images=10)
        for number, name in enumerate(names):
            (tmp_path / f"class{number}").rename(tmp_path / name)
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=16))
        theirs = ImageFolder(str(tmp_path))
        assert list(loaded.classes) == theirs.classes
        classes = {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:20]: label for path, label in theirs.samples}
        for part in (loaded.fit, loaded.validation, loaded.evaluation):
            assert [classes[own] for own in part.ids] == part.labels.tolist()

    def test_imagenet_n_draws_classes_by_seed(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "train", classes=8, images=20)
        write_folder(tmp_path / "val", classes=8, images=3)
        drawn = {
            seed: load_dataset(DatasetSpec(name="imagenet-3", folder=tmp_path, image_size=16, class_seed=seed)).classes
            for seed in (0, 1, 2)
        }
        assert all(len(classes) == 3 for classes in drawn.values())
        assert len(set(drawn.values())) > 1
        with pytest.raises(InvalidConfig, match="between 2 and the 8 classes"):
            load_dataset(DatasetSpec(name="imagenet-9", folder=tmp_path))
        with pytest.raises(InvalidConfig, match="write imagenet-10"):
            load_dataset(DatasetSpec(name="imagenet-N", folder=tmp_path))

    def test_pixels_are_the_files(self, tmp_path: Path) -> None:
        write_folder(tmp_path, classes=2, images=20, size=16)
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=16))
        on_disk = {np.array(Image.open(path)).transpose(2, 0, 1).tobytes() for path in tmp_path.rglob("*.png")}
        images = loaded.fit.images().mul(255).round().byte().numpy()
        assert all(image.tobytes() in on_disk for image in images)

    def test_copies_of_an_image_lie_in_one_part_and_hidden_ones_in_none(self, tmp_path: Path) -> None:
        for folder in write_folder(tmp_path, classes=2, images=30).iterdir():
            for path in list(folder.iterdir()):
                shutil.copy(path, path.with_name(f"copy-{path.name}"))
            hidden = folder / ".ipynb_checkpoints"
            hidden.mkdir()
            Image.new("RGB", (20, 20)).save(hidden / "hidden.png")
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=16))
        parts = [set(part.ids) for part in (loaded.fit, loaded.validation, loaded.evaluation)]
        assert len(set.union(*parts)) == 60
        assert sum(map(len, parts)) == 60
        assert all(len(part) > 3 for part in parts)

    def test_what_was_copied_from_the_training_folder_is_evaluated_alone(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "train", classes=2, images=20)
        for number in range(4):
            for name in ("class0", "class1"):
                (tmp_path / "val" / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(tmp_path / "train" / name / f"{number:02}.png", tmp_path / "val" / name)
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=16))
        assert len(loaded.evaluation) == 8
        assert len(loaded.fit) + len(loaded.validation) == 32
        assert not set(loaded.evaluation.ids) & {*loaded.fit.ids, *loaded.validation.ids}

    @pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
    def test_16_bits_of_grey_are_scaled(self, suffix: str, tmp_path: Path) -> None:
        write_folder(tmp_path, classes=2, images=10)
        ramp = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
        Image.fromarray(ramp).save(tmp_path / "class0" / f"deep{suffix}")
        pixels = FilePixels((tmp_path / "class0" / f"deep{suffix}",), 16).fetch(torch.tensor([0]))[0, 0]
        assert np.array_equal(pixels.numpy(), np.round(ramp / 257).astype(np.uint8))

    def test_floating_point_images_are_refused_by_name(self, tmp_path: Path) -> None:
        Image.fromarray(np.random.default_rng(0).random((16, 16), dtype=np.float32)).save(tmp_path / "range.tiff")
        with pytest.raises(InvalidData, match="range.tiff: it holds floating-point numbers"):
            FilePixels((tmp_path / "range.tiff",), 16).fetch(torch.tensor([0]))

    def test_every_kind_of_image_is_read(self, tmp_path: Path) -> None:
        write_folder(tmp_path, classes=2, images=len(SUFFIXES))
        for folder in tmp_path.iterdir():
            for path, suffix in zip(sorted(folder.iterdir()), sorted(SUFFIXES), strict=True):
                image = Image.open(path).convert({".pbm": "1", ".pgm": "L"}.get(suffix, "RGB"))
                path.unlink()
                image.save(path.with_suffix(suffix.upper()))
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=16))
        parts = [part.images() for part in (loaded.fit, loaded.validation, loaded.evaluation)]
        assert sum(map(len, parts)) == 2 * len(SUFFIXES)

    def test_a_truncated_image_is_named(self, tmp_path: Path) -> None:
        write_folder(tmp_path, classes=2, images=20, size=64)
        broken = tmp_path / "class0" / "07.png"
        broken.write_bytes(broken.read_bytes()[:200])
        loaded = load_dataset(DatasetSpec(name="imagefolder", folder=tmp_path, image_size=32))
        with pytest.raises(InvalidData, match="class0/07.png"):
            for part in (loaded.fit, loaded.validation, loaded.evaluation):
                part.images()

    def test_empty_one_class_and_missing_folders_are_refused(self, tmp_path: Path) -> None:
        def load(folder: Path) -> None:
            load_dataset(DatasetSpec(name="imagefolder", folder=folder))

        with pytest.raises(InvalidData, match="no folder"):
            load(tmp_path / "missing")
        with pytest.raises(InvalidData, match="0 class folders"):
            load(tmp_path)
        write_folder(tmp_path / "one", classes=1)
        with pytest.raises(InvalidData, match="1 class folders"):
            load(tmp_path / "one")
        (tmp_path / "one" / "empty").mkdir()
        with pytest.raises(InvalidData, match="no images in"):
            load(tmp_path / "one")


class TestStl10:
    def write(self, root: Path, train: int = 60, test: int = 20) -> Path:
        folder = root / "stl10_binary"
        folder.mkdir()
        generator = np.random.default_rng(0)
        for part, count in (("train", train), ("test", test)):
            generator.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{part}_X.bin")
            (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
        return folder

    def test_the_labelled_files_suffice(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path)
        loaded = load_dataset(DatasetSpec(name="stl10", folder=tmp_path))
        assert (len(loaded.fit), len(loaded.validation), len(loaded.evaluation)) == (54, 6, 20)
        raw = np.fromfile(folder / "test_X.bin", dtype=np.uint8).reshape(-1, 3, 96, 96)
        expected = raw[0].transpose(0, 2, 1) / 255  # the files hold columns before rows
        assert np.allclose(loaded.evaluation.images(slice(0, 1))[0].numpy(), expected, atol=1e-6)

    def test_a_truncated_file_is_named(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path)
        pixels = (folder / "train_X.bin").read_bytes()
        (folder / "train_X.bin").write_bytes(pixels[:-5])
        with pytest.raises(InvalidData, match="train_X.bin holds .* truncated"):
            load_dataset(DatasetSpec(name="stl10", folder=tmp_path))

    def test_missing_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidData, match=r"no file .*train_X\.bin.*--data"):
            load_dataset(DatasetSpec(name="stl10", folder=tmp_path))

    @pytest.mark.skipif(not (DATA / "stl10_binary").is_dir(), reason="STL-10 is not in data/")
    def test_the_real_one(self) -> None:
        loaded = load_dataset(DatasetSpec(name="stl10", folder=DATA))
        assert len(loaded.fit) + len(loaded.validation) == 5000
        assert loaded.classes[0] == "airplane"
        assert loaded.evaluation.images(slice(0, 2)).shape == (2, 3, 96, 96)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist", "svhn"])
def test_a_torchvision_dataset_that_is_missing_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=f"cannot load {name} from {tmp_path}.*--download"):
        load_dataset(DatasetSpec(name=name, folder=tmp_path))


def test_a_torchvision_dataset_is_read(tmp_path: Path) -> None:
    """MNIST's own file format, written by hand."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            np.array([0x801, count], dtype=">i4").tobytes() + labels.tobytes()
        )
    loaded = load_dataset(DatasetSpec(name="mnist", folder=tmp_path))
    assert loaded.image_size == 28
    assert loaded.evaluation.images(slice(0, 2)).shape == (2, 3, 28, 28)
    assert len(loaded.evaluation) == 20


def test_an_unknown_dataset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'digits'"):
        load_dataset(DatasetSpec(name="digit"))
