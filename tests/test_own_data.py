"""Images of one's own: read, split, trained on, and refused in words."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
import toy
from conftest import CHAPTERS, ROOT, StopsAt, checkpoint, result, same, small
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

import compare
import own_data

pytestmark = pytest.mark.usefixtures("sketches")


def letters(n=130, size=(32, 24), words="ABC"):
    """Letters of a font that matplotlib ships, at random places: images uint8, and which."""
    random = np.random.RandomState(0)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size[0] * 3 // 4)
    images, labels = [], random.choice(list(words), n)
    for letter in labels:
        image = Image.new("L", size[::-1])
        place = size[1] // 2 + random.randint(-2, 3), size[0] // 2 + random.randint(-3, 4)
        ImageDraw.Draw(image).text(place, letter, 255, font=font, anchor="mm")
        images.append(np.array(image))
    return np.stack(images), labels


@pytest.fixture
def file():
    images, labels = letters()
    np.savez("letters.npz", images=images, labels=labels)
    return "letters.npz"


def test_the_splits_are_shuffled_once_and_lose_nothing(file):
    images, labels = letters()
    data, again = own_data.load(file), own_data.load(file)
    assert [len(data.train), len(data.val), len(data.test)] == [104, 13, 13]
    assert data.names == ["A", "B", "C"] and data.image_size == (32, 24)
    rows = [(data.names[y], x.numpy().tobytes()) for split in ("train", "val", "test")
            for x, y in zip(getattr(data, split), getattr(data, f"{split}_labels"))]
    assert sorted(rows) == sorted((str(y), x.tobytes()) for x, y in zip(images, labels))
    assert rows != [(str(y), x.tobytes()) for x, y in zip(images, labels)]
    for name in ("train", "x_val", "x_test", "x_train", "test_labels"):
        assert (getattr(data, name) == getattr(again, name)).all()
    assert len(data.x_train) == len(data.x_val) and not (data.x_val[:5] == data.x_test[:5]).all()

    # Bits are coins with the odds of the grey level: of the images of that split, and no others.
    def tossed_from(bits, grey):
        return bool((bits[grey == 0] == 0).all() and (bits[grey == 255] == 1).all())

    splits = {"x_train": data.train[:13], "x_val": data.val, "x_test": data.test}
    for name in splits:
        assert [tossed_from(getattr(data, name), grey) for grey in splits.values()] == [
            name == other for other in splits]


def test_a_file_in_order_is_not_split_in_order():
    """As a set usually comes: all of one label first. Each split has some of all, in any order."""
    images, labels = letters()
    order = np.argsort(labels)
    np.savez("sorted.npz", images=images[order], labels=labels[order])
    data = own_data.load("sorted.npz")
    for split in ("train", "val", "test"):
        numbers = getattr(data, f"{split}_labels").tolist()
        assert set(numbers) == {0, 1, 2} and numbers != sorted(numbers)


def test_booleans_are_black_and_white():
    images = letters()[0] > 127
    np.savez("a.npz", images=images)
    levels, labels = own_data.read("a.npz")
    assert levels.dtype == np.uint8 and labels is None
    assert np.array_equal(levels, np.where(images, 255, 0))


def test_the_name_is_of_what_is_in_the_file():
    images, labels = letters()

    def name(**arrays):
        np.savez("letters.npz", **arrays)
        return own_data.load("letters.npz").name

    first = name(images=images, labels=labels)
    assert first.startswith("letters-") and first == name(images=images, labels=labels)
    assert name(images=images / 255, labels=labels) == first  # the same levels, as fractions
    other = images.copy()
    other[3, 16, 12] ^= 1
    names = {first, name(images=other, labels=labels), name(images=images),
             name(images=images, labels=labels[::-1]),
             name(images=images.reshape(len(images), 24, 32), labels=labels)}
    assert len(names) == 5


def without(**changed):
    images, labels = letters()
    arrays = {"images": images, "labels": labels, **changed}
    return {key: value for key, value in arrays.items() if value is not None}


def poisoned(value):
    images = letters()[0] / 255
    images[7, 3, 3] = value
    return images


@pytest.mark.parametrize("arrays, words", [
    (without(images=letters(99)[0], labels=None), ["99 images", "100"]),
    (without(images=letters()[0][..., None]), ["(130, 32, 24, 1)", "(N, H, W)"]),
    (without(images=letters()[0][:, :3]), ["(130, 3, 24)", "at least 4"]),
    (without(images=poisoned(np.nan)), ["NaN"]), (without(images=poisoned(1.5)), ["[0, 1]"]),
    (without(images=letters()[0].astype(int) - 1), ["0 … 255"]),
    (without(images=np.full((130, 8, 8), 7)), ["nothing to learn"]),
    (without(images=(letters()[0] > 127).astype(int)), ["nearly black", "booleans"]),
    (without(images=letters()[0].astype(str)), ["0 … 255"]),
    (without(labels=np.arange(129)), ["(129,)", "each image"]),
    (without(labels=np.linspace(0, 1, 130)), ["float64", "whole number"]),
    (without(images=None), ["no array `images`", "labels"])],
    ids=["too few", "channels", "flat", "NaN", "above 1", "below 0", "constant", "0 and 1", "words",
         "too few labels", "fractions", "no images"])
def test_what_will_not_do_is_said_in_a_sentence(arrays, words, fails):
    np.savez("a.npz", **arrays)
    fails(lambda: toy.main(["--data", "a.npz"]), "--data a.npz", *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize("content", [None, b"", b"no zip", "one array", "objects"])
def test_a_file_that_is_no_file_of_arrays(content, fails):
    if content == "one array":
        with open("a.npz", "wb") as f:
            np.save(f, np.zeros((200, 8, 8)))
    elif content == "objects":
        np.savez("a.npz", images=np.array([None] * 200))
    elif content is not None:
        Path("a.npz").write_bytes(content)
    fails(lambda: toy.main(["--data", "a.npz"]), "--data a.npz", "numpy.savez")


def test_a_label_has_to_be_there_if_a_model_is_to_be_told_it(fails):
    images, labels = letters()
    for more in ({}, {"labels": np.zeros(len(images), int)}):
        np.savez("a.npz", images=images, **more)
        fails(lambda: toy.main(["--data", "a.npz", "--conditional"]), "a.npz", "no labels")


def test_a_run_has_their_size_and_their_labels(file):
    toy.main(["--data", file, "--conditional", "--num-samples", "7"])
    folder = Path("runs/toy_conditional_letters")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["data"] == own_data.load(file).name and metrics["labels"] == ["A", "B", "C"]
    assert metrics["settings"]["image_size"] == [32, 24] and metrics["settings"]["classes"] == 3
    assert metrics["bits_per_dim"] == pytest.approx(metrics["test_nats"] / (768 * np.log(2)))
    assert np.load(folder / "samples.npy").shape == (7, 32, 24)
    assert np.load(folder / "labels.npy").tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_drawing_needs_no_data_and_knows_how_many_labels_there_are(file, fails):
    toy.main(["--data", file, "--conditional", "--out", "a"])
    Path(file).unlink()
    toy.main(["--sample-only", "--out", "a", "--label", "2", "--num-samples", "3"])
    assert np.load("a/labels.npy").tolist() == [2, 2, 2]
    fails(lambda: toy.main(["--sample-only", "--out", "a", "--label", "3"]), "--label 3", "0 … 2")


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_images_only(file, fails, capsys):
    toy.main(["--data", file, "--out", "whole"])

    class Stopped(StopsAt):
        at = 11

    with pytest.raises(SystemExit):
        toy.main(["--data", file, "--out", "a"], Stopped)
    assert f"--data {file}" in capsys.readouterr().out  # the command to go on with
    fails(lambda: toy.main(["--resume", "--out", "a"]), checkpoint("a")["data"], "mnist_5k")
    images, labels = letters(140)
    np.savez("others.npz", images=images, labels=labels)
    fails(lambda: toy.main(["--resume", "--out", "a", "--data", "others.npz"]), "others.npz")
    fails(lambda: toy.main(["--start-from", "whole"]), "letters-", "give --data")
    toy.main(["--resume", "--out", "a", "--data", file])
    assert same(result("a"), result("whole"))


def test_they_are_not_compared_with_mnist(file):
    toy_of_vae = small(CHAPTERS["vae"], "--data", file)
    CHAPTERS["vae"].main(toy_of_vae + ["--out", "a"])
    with pytest.raises(compare.LeftOut, match="letters-.*MNIST"):
        compare.read_run("a")


@pytest.mark.slow
@pytest.mark.painted
@pytest.mark.usefixtures("short_chains", "few_draws")
def test_every_chapter_takes_them(chapter):
    """16×12 letters, twelve of them, dark on light; the judge of digits is not asked."""
    images, labels = letters(150, (16, 12), "ABCDEFGHIJKL")
    np.savez("letters.npz", images=255 - images, labels=labels)  # black on white: none is black
    more = ["--conditional", "--batch-size", "13", "--steps", "2"]
    more += ["--z-steps", "500"] * ("z_steps" in chapter.SETTINGS)  # one step of chains from images
    chapter.main(small(chapter, "--data", "letters.npz", "--out", "a") + more)
    metrics = json.loads(Path("a/metrics.json").read_text(encoding="utf-8"))
    assert not [key for key in metrics if "frechet" in key or key == "label_agreement"]
    assert metrics["judge"] is None and metrics["settings"]["classes"] == 12
    assert "NaN" not in Path("a/metrics.json").read_text(encoding="utf-8")
    if "sample_obvious" in Path(chapter.__file__).read_text(encoding="utf-8"):
        with Image.open("a/sampling.gif") as gif:  # ends with the whole image: no pixel is grey
            gif.seek(gif.n_frames - 1)
            assert set(np.unique(np.array(gif.convert("L"))[2:34, 2:26])) <= {0, 255}


@pytest.fixture
def digits8():
    """What docs/own_data.md says of the digits that scikit-learn brings along, as written there."""
    page = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    block, = (block for block in re.findall(r"^```python\n(.*?)^```", page, flags=re.S | re.M)
              if "load_digits" in block)
    exec(block, {})
    return "digits8.npz"


@pytest.mark.slow
@pytest.mark.usefixtures("short_chains", "few_draws")
@pytest.mark.parametrize("name", ["transformer_ar", "vae", "flow"])
def test_chapters_take_a_real_set_of_another_size(name, digits8):
    """1,797 digits of 8×8 pixels. (That all chapters take other sizes is said above.)"""
    chapter = CHAPTERS[name]
    data = own_data.load(digits8)
    assert data.image_size == (8, 8) and data.names == list("0123456789")
    assert [len(data.train), len(data.val), len(data.test)] == [1439, 179, 179]
    chapter.main(small(chapter, "--data", digits8, "--out", "a", "--num-samples", "3"))
    metrics = json.loads(Path("a/metrics.json").read_text(encoding="utf-8"))
    assert metrics["settings"]["image_size"] == [8, 8] and metrics["judge"] is None
    assert np.load("a/samples.npy").shape == (3, 8, 8)


@pytest.mark.parametrize("name, size, words", [
    ("transformer_ar", (9, 9), ["2×2", "9×9"]), ("gan", (30, 30), ["30×30", "4"]),
    ("flow", (30, 30), ["30×30", "4"]), ("diffusion", (30, 30), ["30×30", "4"]),
    ("ebm", (30, 30), ["30×30", "4"])])
def test_a_size_that_a_chapter_cannot_take_is_said(name, size, words, fails):
    np.savez("a.npz", images=letters(size=size)[0])
    fails(lambda: CHAPTERS[name].main(small(CHAPTERS[name], "--data", "a.npz")), *words)


@pytest.mark.slow
def test_who_starts_from_weights_of_other_images_is_warned(capsys):
    np.savez("letters.npz", images=letters(size=(28, 28))[0])
    toy.main(["--out", "a"])
    for flags, warned in ((["--data", "letters.npz", "--out", "b"], True), (["--out", "c"], False)):
        capsys.readouterr()
        toy.main(["--start-from", "a", *flags])
        assert ("!!! the weights come from mnist_5k" in capsys.readouterr().out) == warned
