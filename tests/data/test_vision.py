from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.server
import pickle
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedguard import registry
from fedguard.data import vision
from fedguard.data.vision import Cifar10, Cifar100, FashionMnist, Mnist
from fedguard.errors import ConfigurationError

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data" / "torchvision"
needs_files = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no MNIST files in {SHARED}")


def idx_bytes(array: np.ndarray) -> bytes:
    header = [0x0800 + array.ndim, *array.shape]
    return np.array(header, dtype=">u4").tobytes() + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, *, gz: bool, train: int = 40, test: int = 20) -> dict[str, np.ndarray]:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (train, 28, 28)),
        "train-labels-idx1-ubyte": np.arange(train) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (test, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(test) % 10,
    }
    for name, array in arrays.items():
        packed = gzip.compress(idx_bytes(array)) if gz else idx_bytes(array)
        (raw / (f"{name}.gz" if gz else name)).write_bytes(packed)
    return arrays


@pytest.mark.parametrize("gz", [True, False])
def test_idx_files_become_scaled_tensors(tmp_path: Path, gz: bool) -> None:
    arrays = write_mnist(tmp_path, gz=gz)
    data = Mnist(download=False).load(tmp_path)
    assert data.x_train.shape == (40, 1, 28, 28)
    assert data.x_train.dtype == torch.float32
    assert data.x_train.is_contiguous()
    expected = torch.tensor(arrays["train-images-idx3-ubyte"][:, None]) / 255
    assert torch.allclose(data.x_train, expected.float())
    assert data.y_test.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()
    assert data.num_classes == 10
    assert len(data.class_names) == 10


def test_a_sample_is_stratified_and_its_rows_belong_together(tmp_path: Path) -> None:
    write_mnist(tmp_path, gz=True)
    whole = Mnist().load(tmp_path)
    part = Mnist(train_samples=20, test_samples=10).load(tmp_path)
    assert part.y_train.bincount().tolist() == [2] * 10
    assert part.y_test.bincount().tolist() == [1] * 10
    for image, label in zip(part.x_train, part.y_train, strict=True):
        (row,) = (whole.x_train == image).all(dim=(1, 2, 3)).nonzero().flatten()
        assert whole.y_train[row] == label
    with pytest.raises(ConfigurationError, match=r"dataset\.train_samples: 41 .* 1 to 40"):
        Mnist(train_samples=41).load(tmp_path)
    with pytest.raises(ConfigurationError, match=r"dataset\.test_samples"):
        registry.create("dataset", "mnist", test_samples=0)


@needs_files
@pytest.mark.parametrize("source", [Mnist, FashionMnist])
def test_the_published_files_have_the_published_statistics(source: type[Mnist]) -> None:
    data = source(download=False).load(SHARED)
    assert data.x_train.shape == (60_000, 1, 28, 28)
    assert data.x_test.shape == (10_000, 1, 28, 28)
    assert data.x_train.mean().item() == pytest.approx(data.mean[0], abs=1e-4)
    assert data.x_train.std().item() == pytest.approx(data.std[0], abs=1e-4)
    assert data.y_test.bincount(minlength=10).min() > 800


def damage(path: Path, how: str) -> None:
    raw = gzip.decompress(path.read_bytes())
    damaged = {
        "cut short": path.read_bytes()[:50],
        "no gzip": b"<html>not found</html>",
        "bad checksum": path.read_bytes()[:-8] + b"\0" * 8,
        "bad deflate": path.read_bytes()[:12] + b"\xff" * 30 + path.read_bytes()[42:],
        "magic": gzip.compress(b"\0\0\x08\x09" + raw[4:]),
        "short body": gzip.compress(raw[:-5]),
        "long body": gzip.compress(raw + b"\0"),
        "empty": gzip.compress(b""),
        "huge header": gzip.compress(raw[:4] + b"\xff" * 12 + raw[16:]),
    }
    path.write_bytes(damaged[how])


@pytest.mark.parametrize(
    "how",
    [
        "cut short",
        "no gzip",
        "bad checksum",
        "bad deflate",
        "magic",
        "short body",
        "long body",
        "empty",
        "huge header",
    ],
)
def test_a_damaged_file_ends_in_one_line_that_names_it(tmp_path: Path, how: str) -> None:
    write_mnist(tmp_path, gz=True)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    damage(path, how)
    with pytest.raises(ConfigurationError, match="undamaged") as caught:
        Mnist().load(tmp_path)
    assert caught.value.field == "data_dir"
    assert caught.value.value == str(path)
    assert "\n" not in str(caught.value)


def test_labels_must_fit_the_images_and_the_classes(tmp_path: Path) -> None:
    write_mnist(tmp_path, gz=True)
    path = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros(39))))
    with pytest.raises(ConfigurationError, match="here 39 and 40"):
        Mnist().load(tmp_path)
    path.write_bytes(gzip.compress(idx_bytes(np.full(40, 10))))
    with pytest.raises(ConfigurationError, match="labels below 10; here 10"):
        Mnist().load(tmp_path)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("download", [True, False])
def test_without_files_and_network_one_line_says_what_to_do(
    tmp_path: Path, name: str, download: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(ConfigurationError, match=f"files for {name}") as caught:
        registry.create("dataset", name, download=download).load(missing)
    assert caught.value.field == "data_dir"
    assert ("network" in caught.value.allowed) is download
    assert not missing.exists()
    assert capsys.readouterr().out == "", "standard output is for the summary"


@pytest.mark.usefixtures("no_network")
def test_without_a_folder_the_cache_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision, "CACHE", tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        Mnist().load(None)
    assert caught.value.value == str(tmp_path)
    write_mnist(tmp_path, gz=True)
    assert len(Mnist().load(None).x_train) == 40


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_download_lands_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchvision's own download code runs, on files served from this machine."""
    import torchvision

    write_mnist(tmp_path / "server", gz=True)
    raw = tmp_path / "server" / "MNIST" / "raw"
    resources = [
        (path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(raw.iterdir())
    ]
    before = socket.getdefaulttimeout()
    with serve(raw) as address:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
        data = Mnist().load(tmp_path / "data")
    assert len(data.x_train) == 40
    assert (tmp_path / "data" / "MNIST" / "raw").is_dir()
    assert socket.getdefaulttimeout() == before
    assert capsys.readouterr().out == ""


def write_cifar(root: Path, source: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write random files in torchvision's format and have torchvision expect their MD5."""
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    classes = 100 if "100" in source.base_folder else 10
    label_key = "fine_labels" if classes == 100 else "labels"
    sums, contents = {}, {}
    for name, _ in [*source.train_list, *source.test_list]:
        entry = {
            "data": rng.integers(0, 256, (30, 3072), dtype=np.uint8),
            label_key: rng.integers(0, classes, 30).tolist(),
        }
        contents[name] = entry
        (folder / name).write_bytes(pickle.dumps(entry))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    names = [f"class {number}" for number in range(classes)]
    meta = folder / source.meta["filename"]
    meta.write_bytes(pickle.dumps({source.meta["key"]: names}))
    md5 = hashlib.md5(meta.read_bytes()).hexdigest()
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5})
    for listing in ("train_list", "test_list"):
        renewed = [[name, sums[name]] for name, _ in getattr(source, listing)]
        monkeypatch.setattr(source, listing, renewed)
    return contents


@pytest.mark.parametrize(("ours", "classes"), [(Cifar10, 10), (Cifar100, 100)])
def test_cifar_is_read_through_torchvision(
    tmp_path: Path, ours: type[Cifar10], classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    source = getattr(torchvision.datasets, f"CIFAR{classes}")
    contents = write_cifar(tmp_path, source, monkeypatch)
    data = ours(download=False).load(tmp_path)
    test_name = source.test_list[0][0]
    expected = torch.tensor(contents[test_name]["data"].reshape(-1, 3, 32, 32)) / 255
    assert torch.allclose(data.x_test, expected)
    assert data.x_train.shape == (30 * len(source.train_list), 3, 32, 32)
    assert data.x_train.is_contiguous()
    assert data.num_classes == classes
    assert data.class_names[3] == "class 3"
    assert len(data.mean) == len(data.std) == 3


def test_cifar_files_with_a_wrong_checksum_are_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    write_cifar(tmp_path, torchvision.datasets.CIFAR10, monkeypatch)
    bomb = b"cbuiltins\nexec\n(S'raise SystemExit(99)'\ntR."
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(bomb)
    with pytest.raises(ConfigurationError, match="complete and undamaged"):
        Cifar10(download=False).load(tmp_path)
