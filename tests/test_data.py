"""The data: splits, the fixed bits, dynamic binarization, broken files, networks that are not there."""
import gzip
import hashlib
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import utils


def images_of(data, split):
    return {image.numpy().tobytes() for image in getattr(data, split)}


def test_small_set_is_split_disjointly_and_balanced():
    data = utils.load_mnist()
    assert data.name == "mnist_5k"
    for split, each in (("train", 400), ("val", 50), ("test", 50)):
        assert getattr(data, split).shape == (10 * each, 1, 28, 28) and getattr(data, split).dtype == torch.uint8
        assert torch.bincount(getattr(data, f"{split}_labels")).tolist() == [each] * 10
        assert len(getattr(data, f"{split}_labels")[:20].unique()) > 3  # shuffled: not one digit after the other
    train, val, test = (images_of(data, split) for split in ("train", "val", "test"))
    assert len(train) + len(val) + len(test) == 5000 == len(train | val | test)


def test_labels_belong_to_their_images():
    """Nearest class mean is right for about 80 % of the digits: a shuffled label would give 10 %."""
    data = utils.load_mnist()
    means = torch.stack([data.train[data.train_labels == k].float().mean(0) for k in range(10)])
    nearest = torch.cdist(data.test.float().flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == data.test_labels).float().mean() > 0.7


def test_fixed_bits_are_the_same_everywhere():
    data = utils.load_mnist()
    for split, expected in zip(("val", "test"), utils.FIXED_BITS["mnist_5k"]):
        bits = getattr(data, f"x_{split}").numpy()
        assert set(np.unique(bits)) == {0, 1}
        assert hashlib.sha256(np.packbits(bits)).hexdigest() == expected
        # A draw from the right probabilities: 5 standard errors.
        p = getattr(data, split).numpy() / 255
        assert abs((bits - p).sum()) < 5 * np.sqrt((p * (1 - p)).sum())
    assert data.x_train.shape == data.x_val.shape
    # Control: another seed gives other bits.
    assert hashlib.sha256(np.packbits(utils.fixed_bits(data.val, 7))).hexdigest() != utils.FIXED_BITS["mnist_5k"][0]


def test_the_stream_of_the_fixed_bits_has_not_moved():
    """The full set need not be here: what its 10,000 × 784 uniform numbers are does not depend on it."""
    grey = torch.full((10000, 1, 28, 28), 128, dtype=torch.uint8)
    found = [hashlib.sha256(np.packbits(utils.fixed_bits(grey, seed))).hexdigest() for seed in (0, 1)]
    assert found == STREAM


STREAM = ["6f98d66f33821a86cd148b7856591bd2aa5f2719646cb14595e3a115babc84a7", "df652c5ed7b55d0f270eaa6c887d4ddd1b01f8ee6ac14ebdd1c6bfdd6c22f14f"]


def test_a_change_of_the_fixed_bits_is_refused(monkeypatch):
    monkeypatch.setitem(utils.FIXED_BITS, "mnist_5k", ("0" * 64, "0" * 64))
    with pytest.raises(AssertionError, match="fixed bits"):
        utils.load_mnist()


def off_by(binarize):
    """How far, in standard errors, the frequency of "on" is from g/255, at the worst grey level."""
    n = 4000000
    grey = torch.arange(256, dtype=torch.uint8).repeat_interleave(n // 256).view(256, -1)
    p = torch.arange(256) / 255
    frequency = binarize(grey).mean(1)
    assert frequency[0] == 0 and frequency[255] == 1  # black is never on, white always
    return ((frequency - p).abs()[1:-1] / (p * (1 - p) / grey.shape[1]).sqrt()[1:-1]).max().item(), \
        ((frequency - p).sum() / ((p * (1 - p)).sum() / grey.shape[1]).sqrt()).abs().item()


def test_binarize_turns_a_pixel_on_with_probability_grey_over_255():
    torch.manual_seed(0)
    worst, together = off_by(utils.binarize)
    assert worst < 5 and together < 5
    # Control: bytes from 0..255 instead of 0..254 are off by a 256th, and the sum over levels sees it.
    torch.manual_seed(0)
    wrong = lambda grey: (torch.randint(256, grey.shape) * (grey < 255) < grey).float()  # noqa: E731
    assert off_by(lambda grey: wrong(grey) * (grey > 0))[1] > 5


def test_a_batch_pairs_images_with_their_labels():
    labels = torch.arange(10).repeat(20)
    train = torch.zeros(200, 1, 4, 4, dtype=torch.uint8)
    train.view(200, 16)[torch.arange(200), labels] = 255  # pixel y is white, the rest black: no noise
    data = SimpleNamespace(train=train, train_labels=labels)
    torch.manual_seed(0)
    x, y = utils.random_batch(data, 500)
    assert x.shape == (500, 1, 4, 4) and x.dtype == torch.float32
    assert torch.equal(x.flatten(1).argmax(1), y) and torch.equal(x.sum(dim=(1, 2, 3)), torch.ones(500))
    assert len(y.unique()) == 10


# ------------------------------------------------------------------------- a full set made for the test


@pytest.fixture
def full_set(tmp_path, monkeypatch):
    """60,000 + 10,000 images that carry their own number in their first pixels, as MNIST's four files."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    files = {}
    for name in utils.MNIST_FILES:
        n = 60000 if "train" in name else 10000
        if "images" in name:
            array = np.zeros((n, 784), np.uint8)
            array[:, 0], array[:, 1] = np.arange(n) // 250, np.arange(n) % 250
            content = bytes(16) + array.tobytes()
        else:
            content = bytes(8) + (np.arange(n) % 10).astype(np.uint8).tobytes()
        (raw / name).write_bytes(content)
        files[name] = (len(content), hashlib.sha256(content).hexdigest())
    assert {k: v[0] for k, v in files.items()} == {k: v[0] for k, v in utils.MNIST_FILES.items()}
    monkeypatch.setattr(utils, "MNIST_FILES", files)
    return raw


def test_full_set_is_split_in_order(full_set, monkeypatch):
    monkeypatch.setattr(utils, "fixed_bits", lambda grey, seed: np.zeros(grey.shape, np.uint8))
    zeros = hashlib.sha256(bytes(10000 * 98)).hexdigest()
    monkeypatch.setitem(utils.FIXED_BITS, "mnist", (zeros, zeros))
    name = "t10k-labels-idx1-ubyte"  # one file as the .gz that one downloads by hand
    (full_set / f"{name}.gz").write_bytes(gzip.compress((full_set / name).read_bytes()))
    (full_set / name).unlink()
    data = utils.load_mnist("data")
    assert data.name == "mnist"
    for split, first, n in (("train", 0, 50000), ("val", 50000, 10000), ("test", 0, 10000)):
        x = getattr(data, split).flatten(1)
        number = x[:, 0].long() * 250 + x[:, 1]
        assert torch.equal(number, torch.arange(first, first + n))
        assert torch.equal(getattr(data, f"{split}_labels"), number % 10)


@pytest.mark.parametrize("damage, words", [
    (lambda raw: cut(raw / "train-images-idx3-ubyte"), ("train-images-idx3-ubyte", "truncated", "47040016")),
    (lambda raw: swap(raw), ("train-images-idx3-ubyte", "swapped", "7840016 bytes", "47040016")),
    (lambda raw: flip(raw / "t10k-images-idx3-ubyte"), ("t10k-images-idx3-ubyte", "corrupt", "SHA-256")),
    (lambda raw: broken_gz(raw / "train-labels-idx1-ubyte"), ("train-labels-idx1-ubyte.gz", "cannot be read")),
    (lambda raw: make_folder(raw / "train-labels-idx1-ubyte"), ("train-labels-idx1-ubyte", "cannot be read")),
], ids=["truncated", "swapped", "flipped", "broken gz", "a folder"])
def test_a_bad_file_is_named(full_set, fails, damage, words):
    damage(full_set)
    fails(lambda: utils.load_mnist("data"), "elete it", *words)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def swap(raw):
    a, b = raw / "train-images-idx3-ubyte", raw / "t10k-images-idx3-ubyte"
    a.rename(raw / "x"), b.rename(a), (raw / "x").rename(b)


def flip(path):
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)


def broken_gz(path):
    (path.parent / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-50])
    path.unlink()


def make_folder(path):
    path.unlink(), path.mkdir()


def test_a_broken_small_set_is_named(tmp_path, monkeypatch, fails):
    (tmp_path / "mnist_5k.npz").write_bytes(utils.MNIST_5K.read_bytes()[:5000])
    monkeypatch.setattr(utils, "MNIST_5K", tmp_path / "mnist_5k.npz")
    fails(utils.load_mnist, "mnist_5k.npz", "git checkout")


# ------------------------------------------------------------------------------------------- no network


@pytest.mark.real_download
def test_no_network_means_the_small_set_and_one_clear_line(tmp_path, capsys):
    data = utils.load_mnist("data")
    assert data.name == "mnist_5k"
    line, = [line for line in capsys.readouterr().out.splitlines() if line.startswith("!!!")]
    for word in ("5,000", "data/MNIST/raw".replace("/", line[line.index("MNIST/raw") - 1] if "MNIST/raw" in line else "/"),
                 "train-images-idx3-ubyte", "cannot be compared"):
        assert word in line
    assert not list((tmp_path / "data").glob(".download-*"))


@pytest.mark.real_download
def test_a_network_that_hangs_counts_as_none(tmp_path, monkeypatch):
    with socket.socket() as silent:  # takes the connection and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(utils, "DOWNLOAD_PATIENCE", 3)
        start = time.monotonic()
        assert "silent for 3 s" in utils.download_mnist(tmp_path / "data")
        assert time.monotonic() - start < 120
        silent.settimeout(1)
        silent.accept()  # it did come: the silence was the network's, not ours
    assert not list((tmp_path / "data").glob(".download-*"))


@pytest.mark.real_download
def test_a_data_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert "failed" in utils.download_mnist(tmp_path / "file" / "data")
    assert utils.load_mnist(tmp_path / "file" / "data").name == "mnist_5k"
