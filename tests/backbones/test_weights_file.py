"""Weights are read from files of which nothing is run, and are those of the network or refused."""

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from backbones import Tiny

from metalearn_cli.backbones.weights_file import filled, read_weights, sha256_of
from metalearn_cli.errors import UserError


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_read_as_tensors_and_runs_nothing(tmp_path: Path) -> None:
    path, made = tmp_path / "net.pth", tmp_path / "made"
    torch.save({"conv.weight": torch.ones(1), "other": Malicious(made)}, path)
    with pytest.raises(UserError, match=r"net\.pth cannot be read as tensors alone, and nothing else in it is run"):
        read_weights(path)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # it would have


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".SafeTensors"])
def test_weights_are_read_from_each_kind_of_file(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    weights, path = Tiny().state_dict(), tmp_path / f"net{suffix}"
    if suffix.lower() == ".safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save({"state_dict": weights, "epoch": 3} if wrapped else weights, path)
    net = Tiny()
    for value in net.state_dict().values():
        value.zero_()
    filled(net, read_weights(path), "model.name=net", ())
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert not net.training


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm.weight": None}, "holds another network's weights, norm.weight is missing in it"),
        ({"more": torch.ones(1)}, "holds another network's weights, more is not of this network"),
        ({"conv.weight": torch.ones(5, 3, 1, 1)}, "its conv.weight is [5, 3, 1, 1], and this network's [5, 3, 3, 3]"),
        ({"norm.bias": torch.full((5,), torch.nan)}, "norm.bias is not finite: take another file"),
    ],
)
def test_what_is_not_this_networks_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    weights = {name: value for name, value in {**Tiny().state_dict(), **change}.items() if value is not None}
    safetensors.torch.save_file(weights, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=re.escape(said)):
        filled(Tiny(), read_weights(tmp_path / "net.safetensors"), "model.name=net", ("_fc.",))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (1, torch.ones(1), "holds no tensors by their names"),
        ("a", torch.ones(2).to_sparse(), "a is no plain tensor of whole or real numbers"),
        ("a", torch.ones(2, dtype=torch.complex64), "a is no plain tensor of whole or real numbers"),
        ("a", torch.ones(2, dtype=torch.float8_e4m3fn), "a is no plain tensor of whole or real numbers"),
        ("a", torch.ones(2, device="meta"), "a is no plain tensor of whole or real numbers"),
    ],
)
def test_what_torch_reads_and_no_network_has_is_refused(tmp_path: Path, name: Any, value: Any, said: str) -> None:
    torch.save({name: value}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=said):
        read_weights(tmp_path / "net.pth")


def test_a_file_takes_no_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    """A compressed archive, whose parts torch would unpack; and a number that is repeated without end."""
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "net.pth")
    with zipfile.ZipFile(tmp_path / "net.pth") as archive, zipfile.ZipFile(tmp_path / "small.pth", "w", 8) as small:
        for part in archive.infolist():
            small.writestr(part.filename, archive.read(part))
    assert torch.load(tmp_path / "small.pth")["a"].shape == (1 << 20,)
    with pytest.raises(UserError, match=r"cannot be read as tensors alone, and nothing else in it is run \(ValueError"):
        read_weights(tmp_path / "small.pth")
    weights = Tiny().state_dict() | {"_fc.bias": torch.zeros(1).expand(1 << 30, 1 << 30)}
    torch.save(weights, tmp_path / "net.pth")
    filled(Tiny(), read_weights(tmp_path / "net.pth"), "model.name=net", ("_fc.",))
    torch.save(weights | {"conv.weight": weights["_fc.bias"]}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"its conv.weight is \[1073741824, 1073741824\], and this network's"):
        filled(Tiny(), read_weights(tmp_path / "net.pth"), "model.name=net", ("_fc.",))


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("net.safetensors", b"no header", "cannot be read as .safetensors"),
        ("net.pth", b"no pickle", "cannot be read as tensors alone"),
        ("net.pt", None, "cannot be read as tensors alone"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, name: str, data: bytes | None, said: str) -> None:
    path = tmp_path / name
    torch.save([1, 2], path) if data is None else path.write_bytes(data)
    with pytest.raises(UserError, match=said if data else "holds no tensors by their names: save net.state_dict()"):
        read_weights(path)
    os.mkfifo(tmp_path / "pipe.pth")
    for other in (tmp_path / "nowhere.pth", tmp_path / "pipe.pth"):
        with pytest.raises(UserError, match=rf"^model.name={other} cannot be read "):
            sha256_of(other)
