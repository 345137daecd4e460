"""Checkpoints: what is loaded, and what is refused."""

import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from advbench.errors import InvalidWeights
from advbench.targets import build_network, imagenet_state, load_into, pinned_weights, read_state


@pytest.fixture
def network() -> torch.nn.Module:
    return build_network("resnet18", 10, 32)


@pytest.mark.parametrize(
    ("architecture", "renamed"),
    [
        ("densenet121", [(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2")]),
        ("vit_b_32", [(r"mlp\.0\.", "mlp.linear_1."), (r"mlp\.3\.", "mlp.linear_2.")]),
    ],
)
def test_torchvisions_files_are_read_as_its_loaders_read_them(
    architecture: str, renamed: list[tuple[str, str]]
) -> None:
    """The published files hold names that their networks had once."""
    network, other = (build_network(architecture, 10, 32) for _ in range(2))
    state = network.state_dict()
    for pattern, once in renamed:
        state = {re.sub(pattern, once, name): value for name, value in state.items()}
    assert state.keys() != network.state_dict().keys()
    assert load_into(other, state, source="the file")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("half", [True, False])
def test_a_checkpoint_is_loaded_as_float32(suffix: str, half: bool, network: torch.nn.Module, tmp_path: Path) -> None:
    state = {name: value.half() if half and value.is_floating_point() else value.clone()
             for name, value in network.state_dict().items()}  # fmt: skip
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    other = build_network("resnet18", 10, 32)
    assert load_into(other, read_state(path), source="it")
    for name, value in other.state_dict().items():
        assert torch.allclose(value.double(), network.state_dict()[name].double(), atol=1e-3 if half else 0)
        assert not value.is_floating_point() or value.dtype is torch.float32


def test_another_number_of_classes_keeps_a_fresh_head(network: torch.nn.Module) -> None:
    other = build_network("resnet18", 7, 32)
    assert not load_into(other, network.state_dict(), source="it")
    assert torch.equal(other.get_parameter("conv1.weight"), network.get_parameter("conv1.weight"))
    assert other.get_parameter("fc.weight").shape == (7, 512)


def test_another_architecture_is_refused(network: torch.nn.Module) -> None:
    for other in ("resnet50", "vgg11", "resnet34"):
        with pytest.raises(InvalidWeights, match="another architecture"):
            load_into(build_network(other, 10, 32), network.state_dict(), source="it")


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(marker),)

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(InvalidWeights, match=r"could run code"):
        read_state(path)
    torch.save({"weight": Evil()}, path)
    with pytest.raises(InvalidWeights, match=r"could run code"):
        read_state(path)
    assert not marker.exists()


def test_broken_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04nothing")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, words in (
        ("missing.pth", "no checkpoint"),
        ("broken.safetensors", "cannot read"),
        ("broken.pth", "cannot read|could run code"),
        ("list.pth", "state dict"),
    ):
        with pytest.raises(InvalidWeights, match=words):
            read_state(tmp_path / name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(
    value: float, network: torch.nn.Module, tmp_path: Path
) -> None:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = value
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(InvalidWeights, match="NaN or infinite values in 'layer1.0.conv1.weight'"):
        read_state(tmp_path / "nan.safetensors")


class TestImageNet:
    def test_weights_are_pinned_by_name_and_never_default(self) -> None:
        for architecture in ("resnet50", "resnet101", "vgg16", "densenet169"):
            assert pinned_weights(architecture).name == "IMAGENET1K_V1"
        assert pinned_weights("regnet_y_128gf").name == "IMAGENET1K_SWAG_E2E_V1"

    def test_without_a_network_the_error_says_where_to_put_which_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def offline(*_: object, **__: object) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
        with pytest.raises(InvalidWeights, match=rf"put resnet50-0676ba61\.pth .*at {tmp_path}.*--backbone surrogate"):
            imagenet_state("resnet50")

    def test_a_file_that_is_not_the_pinned_one_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        (tmp_path / "checkpoints").mkdir()
        torch.save({}, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
        with pytest.raises(InvalidWeights, match="expected a sha256 that begins with f37072fd"):
            imagenet_state("resnet18")
