"""The data: splits, the fixed bits, dynamic binarization, batches, broken files, networks that are
not there."""
import functools
import gzip
import hashlib
import math
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import draws
import pictures
import utils


def images_of(data, split):
    return {image.numpy().tobytes() for image in getattr(data, split)}


def test_small_set_is_split_disjointly_and_balanced():
    data = utils.load_mnist()
    assert data.name == "mnist_5k"
    for split, each in (("train", 400), ("val", 50), ("test", 50)):
        images, labels = getattr(data, split), getattr(data, f"{split}_labels")
        assert images.shape == (10 * each, 1, 28, 28) and images.dtype == torch.uint8
        assert torch.bincount(labels).tolist() == [each] * 10
        assert len(labels[:20].unique()) > 3  # shuffled: not one digit after the other
        assert getattr(data, f"y_{split}") is None  # until a Run says that the model is told them
    train, val, test = (images_of(data, split) for split in ("train", "val", "test"))
    assert len(train) + len(val) + len(test) == 5000 == len(train | val | test)


def test_labels_belong_to_their_images():
    """Nearest class mean is right for about 80 % of the digits: shuffled labels would give 10 %."""
    data = utils.load_mnist()
    means = torch.stack([data.train[data.train_labels == k].float().mean(0) for k in range(10)])
    nearest = torch.cdist(data.test.float().flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == data.test_labels).float().mean() > 0.7


def test_fixed_bits_are_the_same_everywhere():
    data = utils.load_mnist()
    data.val, data.x_val = data.val.flip(0), data.x_val.flip(0)  # as they are (conftest.py)
    for split, expected in zip(("val", "test"), utils.FIXED_BITS["mnist_5k"]):
        bits = getattr(data, f"x_{split}").numpy()
        assert set(np.unique(bits)) == {0, 1}
        assert hashlib.sha256(np.packbits(bits)).hexdigest() == expected
        # A draw from the right probabilities: 5 standard errors.
        p = getattr(data, split).numpy() / 255
        assert abs((bits - p).sum()) < 5 * np.sqrt((p * (1 - p)).sum())
    # Those of as many training images, from the start, by a draw of their own.
    assert torch.equal(data.x_train, torch.from_numpy(utils.fixed_bits(data.train[:500], 2)))
    assert data.x_train.shape == data.x_val.shape and data.x_train.dtype == torch.uint8
    # Control: another seed gives other bits.
    other = hashlib.sha256(np.packbits(utils.fixed_bits(data.val, 7))).hexdigest()
    assert other != utils.FIXED_BITS["mnist_5k"][0]


def test_the_stream_of_the_fixed_bits_has_not_moved():
    """The full set need not be here: its 10,000 × 784 uniform numbers do not depend on it."""
    grey = torch.full((10000, 1, 28, 28), 128, dtype=torch.uint8)
    digests = [hashlib.sha256(np.packbits(utils.fixed_bits(grey, seed))).hexdigest()
               for seed in (0, 1)]
    assert digests == ["6f98d66f33821a86cd148b7856591bd2aa5f2719646cb14595e3a115babc84a7",
                       "df652c5ed7b55d0f270eaa6c887d4ddd1b01f8ee6ac14ebdd1c6bfdd6c22f14f"]


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
    n, error = grey.shape[1], frequency - p
    return ((error.abs()[1:-1] / (p * (1 - p) / n).sqrt()[1:-1]).max().item(),
            (error.sum() / ((p * (1 - p)).sum() / n).sqrt()).abs().item())


def test_binarize_turns_a_pixel_on_with_probability_grey_over_255():
    torch.manual_seed(0)
    worst, together = off_by(utils.binarize)
    assert worst < 5 and together < 5
    # Control: bytes from 0..255, not 0..254, are off by a 256th: the sum over levels sees it.
    torch.manual_seed(0)
    def wrong(grey):
        return (torch.randint(256, grey.shape) * (grey < 255) < grey).float()

    assert off_by(lambda grey: wrong(grey) * (grey > 0))[1] > 5


def test_a_batch_pairs_images_with_their_labels():
    labels = torch.arange(10).repeat(20)
    train = torch.zeros(200, 1, 4, 4, dtype=torch.uint8)
    train.view(200, 16)[torch.arange(200), labels] = 255  # pixel y is white: no noise
    data = SimpleNamespace(train=train, y_train=labels)
    torch.manual_seed(0)
    x, y = utils.random_batch(data, 500)
    assert x.shape == (500, 1, 4, 4) and x.dtype == torch.float32
    assert torch.equal(x.flatten(1).argmax(1), y)
    assert torch.equal(x.sum(dim=(1, 2, 3)), torch.ones(500)) and len(y.unique()) == 10
    data.y_train = None  # a model that is told no labels
    assert utils.random_batch(data, 5)[1] is None


def test_a_batch_is_binarized_anew_or_grey():
    data = SimpleNamespace(train=torch.full((3, 1, 4, 4), 128, dtype=torch.uint8), y_train=None)
    a, b = (utils.random_batch(data, 100)[0] for _ in range(2))
    assert not torch.equal(a, b) and set(a.unique().tolist()) == {0, 1}
    grey, _ = utils.random_batch(data, 100, grey=True)
    assert torch.equal(grey, torch.full((100, 1, 4, 4), 128 / 255))


def test_batches_cover_everything_once_and_in_order():
    x, y = torch.arange(23).view(23, 1, 1, 1).to(torch.uint8), torch.arange(23)
    parts = list(utils.batches(x, y, size=10))
    assert [len(part) for part, _ in parts] == [10, 10, 3]
    assert torch.equal(torch.cat([part for part, _ in parts]), x.float())
    assert all(part.dtype == torch.float32 for part, _ in parts)
    assert torch.equal(torch.cat([labels for _, labels in parts]), y)
    assert all(labels is None for _, labels in utils.batches(x))
    short, more = utils.first(5, x[:3], y)  # of as many images as there are labels
    assert len(short) == len(more) == 3 and torch.equal(more, y[:3])
    images, nothing, labels = utils.first(5, x, None, y)
    assert torch.equal(images, x[:5]) and nothing is None and labels.tolist() == [0, 1, 2, 3, 4]


def test_labels_for_a_row_each_and_for_models_that_take_none():
    conditional, plain = SimpleNamespace(classes=10), SimpleNamespace(classes=0)
    assert utils.row_labels(conditional, 12).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert utils.row_labels(conditional, 7, each=3).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert utils.row_labels(plain, 7) is None
    utils.check_label(conditional, torch.arange(3)), utils.check_label(plain, None)
    with pytest.raises(ValueError, match="needs y"):
        utils.check_label(conditional, None)
    with pytest.raises(ValueError, match="takes no y"):
        utils.check_label(plain, torch.arange(3))


def test_nats_of_784_coins_are_one_bit_a_pixel():
    assert utils.bits_per_dim(784 * math.log(2)) == pytest.approx(1)
    assert utils.bits_per_dim(None) is None


def test_a_timing_is_the_median_of_calls_that_are_warm(monkeypatch):
    """Of 2, 7, 5, 4 and 9 s; the mean is 5.4, and the first five have 4."""
    clock, naps = [0.0], iter([0, 2, 7, 5, 4, 9])
    monkeypatch.setattr(draws, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def nap():
        clock[0] += next(naps)

    assert draws.median_seconds(nap) == 5 and next(naps, None) is None


# --------------------------------------------------------------------- a full set made for the test


@functools.cache
def full_files():
    """MNIST's four files, of images that carry their own number in their first pixels: {name:
    (content, (bytes, SHA-256))}."""
    files = {}
    for name in utils.MNIST_FILES:
        n = 60000 if "train" in name else 10000
        if "images" in name:
            array = np.zeros((n, 784), np.uint8)
            array[:, 0], array[:, 1] = np.arange(n) // 250, np.arange(n) % 250
            content = bytes(16) + array.tobytes()
        else:
            content = bytes(8) + (np.arange(n) % 10).astype(np.uint8).tobytes()
        files[name] = content, (len(content), hashlib.sha256(content).hexdigest())
    return files


@pytest.fixture
def full_set(tmp_path, monkeypatch):
    """A folder of them."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, (content, _) in full_files().items():
        (raw / name).write_bytes(content)
    files = {name: about for name, (_, about) in full_files().items()}
    assert {k: v[0] for k, v in files.items()} == {k: v[0] for k, v in utils.MNIST_FILES.items()}
    monkeypatch.setattr(utils, "MNIST_FILES", files)
    return raw


def test_the_folder_of_the_files_themselves_may_be_named(full_set, fails):
    """--data-dir …/MNIST/raw: read as it is, and nothing is made inside of it. A ~ is the home."""
    flip(full_set / TEST)
    fails(lambda: utils.load_mnist(str(full_set)), TEST, "corrupt")
    assert not (full_set / "MNIST").exists()


def test_a_file_is_no_data_dir(fails):
    Path("file").write_text("")
    fails(lambda: utils.load_mnist("file"), "--data-dir file", "is a file", "folder")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    asked = []
    monkeypatch.setattr(utils, "download_mnist", lambda folder: asked.append(folder) or "offline")
    utils.load_mnist("~/mnist")
    assert asked == [str(tmp_path / "home" / "mnist")] and not (tmp_path / "~").exists()


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


TRAIN, TEST, LABELS = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("damage, words", [
    (lambda raw: cut(raw / TRAIN), (TRAIN, "truncated", "47040016")),
    (lambda raw: swap(raw), (TRAIN, "swapped", "7840016 bytes", "47040016")),
    (lambda raw: flip(raw / TEST), (TEST, "corrupt", "SHA-256")),
    (lambda raw: broken_gz(raw / LABELS), (f"{LABELS}.gz", "cannot be read")),
    (lambda raw: make_folder(raw / LABELS), (LABELS, "cannot be read")),
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


# --------------------------------------------------------------------------------------- no network


@pytest.mark.slow
@pytest.mark.real_download
def test_no_network_means_the_small_set_and_one_clear_line(tmp_path, capsys):
    data = utils.load_mnist("data")
    assert data.name == "mnist_5k"
    line, = [line for line in capsys.readouterr().out.splitlines() if line.startswith("!!!")]
    for word in ("5,000", str(tmp_path.joinpath("data/MNIST/raw").relative_to(tmp_path)), TRAIN,
                 "cannot be compared", "the download failed: "):
        assert word in line
    assert not line.split("the download failed: ")[1].startswith(")")  # and why
    assert not list((tmp_path / "data").glob(".download-*"))


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.real_download
@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a folder with open files")
@pytest.mark.parametrize("method", ["terminate", "kill"])
def test_a_download_ends_with_who_asked_for_it(tmp_path, monkeypatch, method):
    """Ended alone, in the middle: the process that downloads leaves, too, and takes its folder."""
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import utils; "
            "utils.start(lambda: utils.download_mnist('data'))")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        asks = subprocess.Popen([sys.executable, "-c", code, str(ROOT)], cwd=tmp_path,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        silent.settimeout(120)
        connection, _ = silent.accept()  # the download has begun
        inbox, = (tmp_path / "data").glob(".download-*")
        getattr(asks, method)()
        asks.wait()
        end = time.monotonic() + 20
        while inbox.exists() and time.monotonic() < end:
            time.sleep(0.1)
        connection.settimeout(20)
        while connection.recv(4096):  # "" means that the other side is gone
            pass
        connection.close()
    assert not inbox.exists()


@pytest.mark.slow
@pytest.mark.real_download
def test_a_data_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert "failed" in utils.download_mnist(tmp_path / "file" / "data")
    assert utils.load_mnist(tmp_path / "file" / "data").name == "mnist_5k"


def test_a_figure_of_many_colours_gets_256_and_one_of_greys_32(tmp_path):
    y, x = np.mgrid[:80, :90]
    for layers, most, near in (((2 * x, 3 * y, x + y), 256, 12), ((x + y,) * 3, 32, 5)):
        pixels = np.stack(layers, -1).astype(np.uint8)
        pictures.write_png(tmp_path / "a.png", Image.fromarray(pixels))
        with Image.open(tmp_path / "a.png") as read:
            pixels_read = np.array(read.convert("RGB"))
            assert read.mode == "P" and len(read.convert("RGB").getcolors(7200)) <= most
        assert 0 < np.abs(pixels_read.astype(int) - pixels).max() <= near


@pytest.mark.parametrize("colours, mode, kept", [(256, "RGB", "P"), (256, "L", "L")])
def test_a_picture_is_written_as_it_is(tmp_path, colours, mode, kept):
    """With few colours by their numbers; grey stays grey; never another picture."""
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (colours, 3), dtype=np.uint8)
    pixels = table[rng.integers(0, colours, (80, 90))]
    image = Image.fromarray(pixels if mode == "RGB" else pixels[:, :, 0])
    pictures.write_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as read:
        assert read.mode == kept and np.array_equal(np.array(read.convert(mode)), np.array(image))


def test_a_grid_is_grey_and_has_the_digits(tmp_path):
    x = torch.rand(3, 1, 28, 28)
    pictures.save_grid(tmp_path / "a.png", x, columns=2)
    with Image.open(tmp_path / "a.png") as read:
        grid, levels = np.array(read), (x * 255).round().numpy()
        assert read.mode == "L" and grid.shape == (124, 124) and grid[0, 0] == 128
    for k, (i, j) in enumerate([(4, 4), (4, 64), (64, 4)]):
        assert np.array_equal(grid[i:i + 56:2, j:j + 56:2], levels[k, 0])
        grid[i:i + 56, j:j + 56] = 128
    assert (grid == 128).all()  # lines, and the place of a fourth
