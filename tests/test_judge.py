"""The scores of judge.py: planted heaps and their distances, the judge that ships, odd files."""
import json
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, rewritten
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

import judge
import utils


def test_frechet_distance_of_known_gaussians():
    torch.manual_seed(0)
    a = torch.randn(200000, 3).double()
    assert judge.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # N(0, I) and N(m, diag s²): ‖m‖² + Σ (1 − s)².
    b = torch.randn(200000, 3).double() * torch.tensor([1.0, 2.0, 0.5])
    b += torch.tensor([1.0, 0.0, -2.0])
    assert judge.frechet_distance(a, b) == pytest.approx(5 + 0 + 1 + 0.25, rel=0.02)
    # Covariances that do not commute: by another road, from the eigenvalues of AB.
    mix = torch.randn(2, 3, 3).double()
    c, d = a @ mix[0], b @ mix[1]
    A, B = torch.cov(c.T), torch.cov(d.T)
    roots = torch.linalg.eigvals(A @ B).real.sqrt().sum()
    expected = (c.mean(0) - d.mean(0)).square().sum() + (A + B).trace() - 2 * roots
    assert judge.frechet_distance(c, d) == pytest.approx(expected.item(), rel=1e-6)
    assert judge.frechet_distance(c, d) == pytest.approx(judge.frechet_distance(d, c), rel=1e-6)
    c[0, 0] = float("nan")
    for distance in (judge.frechet_distance(c, d), judge.frechet_distance(d, c)):
        assert distance != distance  # nan, and no traceback


@pytest.mark.slow
def test_precision_and_recall_of_constructed_clouds():
    torch.manual_seed(0)
    left, right = torch.randn(300, 2).double(), torch.randn(300, 2).double() + 100
    both = torch.cat([left, right])

    def precision_recall(draws, real):
        return tuple(judge.within_manifold(a, b, 3) for a, b in ((draws, real), (real, draws)))

    assert precision_recall(both, both) == (1.0, 1.0)
    precision, recall = precision_recall(left.flip(0) * 0.99, both)  # the left cloud alone
    assert precision > 0.9 and recall < 0.55
    precision, recall = precision_recall(both + 1000, both)
    assert precision == recall == 0
    # By hand: balls around 0, 1, 2, 10 that reach to the second neighbour: 2, 1, 2, 9.
    support = torch.tensor([[0.0], [1], [2], [10]]).double()
    points = torch.tensor([[-2.0], [-2.1], [4], [19], [19.1]]).double()
    assert judge.within_manifold(points, support, 2) == pytest.approx(3 / 5)
    # More than are compared in one go: balls of a narrow heap, then of a wide one.
    support = torch.cat([torch.randn(1500, 2) / 10, 20 + 5 * torch.randn(1100, 2)]).double()
    points = torch.cat([4 * torch.randn(1200, 2), 20 + 5 * torch.randn(1200, 2)]).double()
    radius = torch.cdist(support, support).sort(dim=1).values[:, 3]
    inside = (torch.cdist(points, support) <= radius).any(dim=1).double().mean().item()
    assert judge.within_manifold(points, support, 3) == inside and 0.2 < inside < 0.8


@pytest.fixture
def digits():
    """The small set, and the judge."""
    return utils.load_mnist("nowhere"), judge.load_judge()


def test_the_judge_reads_digits_it_ships_with(digits):
    """The small set's test digits: of MNIST's training images, so this says that the file is whole,
    and no more."""
    data, network = digits
    for x in (data.test, data.x_test):
        assert (judge.judged(network, x)[1] == data.test_labels).double().mean() > 0.98
    features, _ = judge.judged(network, data.test)
    assert features.shape == (500, 64) and features.dtype == torch.float64
    again = judge.judged(network, data.test.float() / 255)[0]  # the same in [0, 1]
    assert torch.allclose(features, again, atol=1e-5)


@pytest.mark.slow
def test_scores_of_real_digits_of_one_class_and_of_noise(digits):
    data, network = digits
    real = judge.scores(network, data.train[:500], data.test)
    one = judge.scores(network, data.train[data.train_labels == 3], data.test)
    noise = judge.scores(network, torch.rand(500, 1, 28, 28), data.test)
    itself = judge.scores(network, data.test, data.test)
    assert itself["frechet"] == pytest.approx(0, abs=1e-6)
    assert itself["precision"] == itself["recall"] == 1
    assert real["frechet"] < 10 < 3 * real["frechet"] + 10 < one["frechet"]
    assert real["precision"] > 0.6 and real["recall"] > 0.6
    assert one["recall"] < 0.3 and one["precision"] > 0.5 and one["shares"][3] > 0.97
    assert noise["frechet"] > 50 and noise["precision"] < 0.1
    assert sum(real["shares"]) == pytest.approx(1) and max(real["shares"]) < 0.15


def test_digits_that_a_judge_has_seen_are_not_nearer_to_it():
    """What judge.py says of results/halves.json."""
    rows = json.loads((ROOT / "results" / "halves.json").read_text(encoding="utf-8"))
    means = [statistics.mean(row[half]) for row in rows for half in ("seen", "unseen")]
    spreads = [statistics.stdev(row[half]) for row in rows for half in ("seen", "unseen")]
    assert {f"{mean:.2f}" for mean in means} == {"0.14", "0.15"}
    assert {f"{spread:.2f}" for spread in spreads} == {"0.02"}
    assert "0.14 or 0.15 ± 0.02" in " ".join(
        (ROOT / "judge.py").read_text(encoding="utf-8").replace("\n# ", " ").split())


def test_scores_of_unequal_heaps_take_a_random_part_of_the_larger(digits):
    """Real digits sorted by class: the first 100 are 0 and 1 only, and no nine lies among those."""
    data, network = digits
    order = data.test_labels.sort(stable=True).indices
    nines = data.train[data.train_labels == 9][:100]
    assert judge.scores(network, nines, data.test[order])["precision"] > 0.3
    assert judge.scores(network, nines, data.test[order[:100]])["precision"] < 0.05  # control


@pytest.mark.slow
def test_a_judge_can_be_trained_anew(digits):
    data, _ = digits
    network = judge.train_judge(data, steps=150, batch_size=64)
    for x in (data.test, data.x_test):  # grey and binarized
        assert (judge.judged(network, x)[1] == data.test_labels).double().mean() > 0.9
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_a_judge_is_trained_on_grey_and_on_coins_shifted_by_two_pixels_at_most():
    """What it is shown, step by step, of images that have a white pixel and a dark grey square: in
    one half grey, in the other a coin a pixel; and at rates that rise and fall to 0."""
    train = torch.zeros(50, 1, 28, 28, dtype=torch.uint8)
    train[..., 14, 14], train[..., 5:10, 5:10] = 255, 64
    data, shown, rates = SimpleNamespace(train=train, train_labels=torch.arange(50) % 10), [], []

    def show(module, args):
        if isinstance(module, judge.Judge):
            shown.append(args[0])

    hooks = [register_module_forward_pre_hook(show), register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))]
    try:
        judge.train_judge(data, steps=40, batch_size=8)
    finally:
        for hook in hooks:
            hook.remove()
    x = torch.stack(shown)[:, :, 0]  # (40, 8, 28, 28)
    grey, bits = x[:, :4], x[:, 4:]
    assert torch.allclose(grey.unique(), torch.tensor([0, 64 / 255, 1]))
    assert bits.unique().tolist() == [0, 1]
    # Without the white pixel: 25 coins that come up with probability 64 / 255.
    assert ((bits.sum(dim=(2, 3)) - 1) / 25).mean().item() == pytest.approx(64 / 255, abs=0.03)
    white = (grey[:, 0] == 1).nonzero()[:, 1:] - 14
    assert white.shape == (40, 2) and {*white.flatten().tolist()} == {-2, -1, 0, 1, 2}
    assert {*white[:, 0].tolist()} == {*white[:, 1].tolist()} == {-2, -1, 0, 1, 2}
    assert rates == pytest.approx([3e-3 * min((k + 1) / 3, 1 - k / 40) for k in range(40)])


def test_the_distance_is_of_all_and_the_parts_are_of_as_many(digits):
    """In a larger heap neighbours are nearer: of 1,200 draws beside 500 digits 500 are taken."""
    data, network = digits
    scores = judge.scores(network, data.train[:1200], data.test)
    a, b = (judge.judged(network, x)[0] for x in (data.train[:1200], data.test))
    assert scores["frechet"] == pytest.approx(judge.frechet_distance(a, b))
    generator = torch.Generator().manual_seed(0)
    a, b = (x[torch.randperm(len(x), generator=generator)[:500]] for x in (a, b))
    distances = {"aa": torch.cdist(a, a), "bb": torch.cdist(b, b), "ab": torch.cdist(a, b)}
    for name, d, support in (("precision", distances["ab"], "bb"),
                             ("recall", distances["ab"].T, "aa")):
        radius = distances[support].sort(dim=1).values[:, 3]  # the point itself is the first
        assert scores[name] == (d <= radius).any(dim=1).double().mean().item()


@pytest.mark.slow
def test_precision_is_of_the_draws_and_recall_of_the_real_digits(digits):
    """Half of the draws are noise: half are no digits, but all kinds of digits are drawn. Of real
    digits half the classes: all are digits, and half of the kinds are missing."""
    data, network = digits
    noisy = torch.cat([data.train[:500] / 255, torch.rand(500, 1, 28, 28)])
    half = data.train[data.train_labels < 5][:1000] / 255
    scores = judge.scores(network, noisy, data.train[1000:2000])
    assert scores["precision"] < 0.6 and scores["recall"] > 0.8
    scores = judge.scores(network, half, data.train[1000:2000])
    assert scores["precision"] > 0.8 and scores["recall"] < 0.6
    assert sum(scores["shares"][:5]) > 0.97


def test_coins_come_up_as_often_as_they_should():
    means = torch.full((400, 1, 28, 28), 0.9)
    bits = judge.coins(means)
    assert set(bits.unique().tolist()) == {0, 1}
    assert bits.mean().item() == pytest.approx(0.9, abs=0.01)
    assert torch.equal(bits, judge.coins(means)) and not torch.equal(bits, judge.coins(means, 1))
    assert judge.is_grey(means) and not judge.is_grey(bits)


def by_chance(data):
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(len(data.train), generator=generator)[:500]


@pytest.mark.slow
def test_grey_images_are_scored_beside_grey_test_digits_and_as_coins_beside_bits(digits):
    """Planted: the test digits themselves are at 0 from the test digits; their coins are near."""
    data, network = digits
    rows = {(row["kind"], row["what"]): row for row in
            judge.score(network, data.test / 255, data)}
    assert rows["grey", "images"]["frechet"] == pytest.approx(0, abs=1e-6)
    assert 0 < rows["binarized", "images"]["frechet"] < 1
    tossed = judge.scores(network, judge.coins(data.test / 255), data.x_test)
    assert rows["binarized", "images"]["frechet"] == pytest.approx(tossed["frechet"])
    floor = judge.scores(network, data.train[by_chance(data)], data.test)
    assert rows["grey", "real training digits"]["frechet"] == pytest.approx(floor["frechet"])


@pytest.mark.slow
def test_bits_are_scored_beside_binarized_test_digits_alone(digits):
    """Planted: the bits of the test digits are at 0 from those, and no other heap is."""
    data, network = digits
    rows = {(row["kind"], row["what"]): row for row in
            judge.score(network, data.x_test.float(), data)}
    assert {pixels for pixels, _ in rows} == {"binarized"}
    assert rows["binarized", "images"]["frechet"] == pytest.approx(0, abs=1e-6)
    train = torch.from_numpy(utils.fixed_bits(data.train[by_chance(data)], 3))
    floor = judge.scores(network, train, data.x_test)
    assert rows["binarized", "real training digits"]["frechet"] == pytest.approx(floor["frechet"])
    other = judge.score(network, data.x_val.float(), data)[0]  # control: validation digits
    assert other["frechet"] > 0.1


@pytest.mark.slow
def test_files_are_scored_beside_their_floor(digits, capsys):
    data, _ = digits
    np.save("grey.npy", data.val[:300, 0].numpy())
    np.save("bits.npy", data.x_val[:300, 0].float().numpy())
    judge.main(["grey.npy", "--json", "grey.json"])
    grey = json.loads(Path("grey.json").read_text())
    assert [(row["kind"], row["what"], row["n"]) for row in grey["rows"]] == [
        (pixels, what, 300) for pixels in ("grey", "binarized")
        for what in ("images", "real training digits")]
    judge.main(["bits.npy", "--json", "bits.json"])
    bits = json.loads(Path("bits.json").read_text())
    assert [row["kind"] for row in bits["rows"]] == ["binarized"] * 2
    assert bits["data"] == "mnist_5k"
    for row in grey["rows"] + bits["rows"]:
        assert 0 < row["frechet"] < 15 and row["precision"] > 0.5
    assert capsys.readouterr().out.count("real training digits") == 3


def test_images_are_read_in_all_the_forms_in_which_they_are_kept(tmp_path):
    """Grey levels to 255, bytes or not, become 0 … 1; what is 0 … 1 already, and bits, stay."""
    grey = np.random.RandomState(0).randint(0, 256, (100, 28, 28))  # as few as may be
    bits = grey > 127
    for array, expected in ((grey.astype(np.uint8), grey / 255), (grey, grey / 255),
                            (grey.astype(np.float64), grey / 255), (grey / 255, grey / 255),
                            ((grey / 255).astype(np.float16), grey / 255), (bits, bits),
                            (bits.astype(np.uint8), bits), (bits.astype(np.float32), bits),
                            (grey[:, None].astype(np.uint8), grey / 255)):
        np.save("images.npy", array)
        images = judge.read_images("images.npy")
        assert images.shape == (100, 1, 28, 28) and images.dtype == torch.float32
        assert np.allclose(images[:, 0], expected, atol=1e-3)


@pytest.mark.slow
def test_a_file_is_scored_from_the_command_line(digits, tmp_path):
    """A process of its own; the table says what the JSON file says."""
    data, _ = digits
    np.save("bits.npy", data.x_val[:, 0].numpy())
    done = subprocess.run([sys.executable, str(ROOT / "judge.py"), "bits.npy", "--json",
                           "new/scores.json"], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    rows = json.loads(Path("new/scores.json").read_text(encoding="utf-8"))["rows"]
    lines = done.stdout.splitlines()[-2:]
    for row, line in zip(rows, lines):
        assert line.startswith(f"{row['kind']}, {row['what']}")
        numbers = line[32:].split()
        shares = [f"{100 * share:.1f}" for share in row["shares"]]
        assert numbers == ["500", f"{row['frechet']:.2f}", f"{row['precision']:.3f}",
                           f"{row['recall']:.3f}", *shares]


def test_what_cannot_be_scored_is_refused(fails):
    def bad(array, *words):
        np.save("bad.npy", array)
        fails(lambda: judge.main(["bad.npy"]), "bad.npy", *words)

    fails(lambda: judge.main([]), "FILE.npy")
    fails(lambda: judge.main(["no.npy"]), "no such file")
    fails(lambda: judge.main(["x.npy", "--train"]), "--train alone")
    fails(lambda: judge.main(["--train", "--json", "a.json"]), "--json")
    fails(lambda: judge.main(["x.npy", "--json", "."]), "--json", "cannot be written")
    fails(lambda: judge.main(["x.npy", "--json", ""]), "--json", "cannot be written")
    Path("text.npy").write_text("not an array")
    fails(lambda: judge.main(["text.npy"]), "not a readable")
    np.save("objects.npy", np.array([{}] * 3), allow_pickle=True)
    fails(lambda: judge.main(["objects.npy"]), "not a readable")
    np.savez("several.npz", a=np.zeros(3))
    fails(lambda: judge.main(["several.npz"]), "several arrays")
    bad(np.zeros((200, 32, 32)), "(200, 32, 32)", "(N, 28, 28)")
    bad(np.zeros((200, 3, 28, 28)), "(N, 28, 28)")
    bad(np.zeros((0, 28, 28)), "at least 100")
    bad(np.zeros((99, 28, 28)), "99 images")
    bad(np.full((200, 28, 28), np.nan), "not finite")
    bad(np.full((200, 28, 28), -1.0), "outside")
    bad(np.full((200, 28, 28), 1000), "outside")
    bad(np.full((200, 28, 28), 1.001), "outside", "clip")
    bad(np.full((200, 28, 28), 1.9), "outside", "clip")
    bad(np.full((200, 28, 28), np.inf), "not finite")
    bad(np.zeros((28, 28)), "(N, 28, 28)")
    bad(np.float32(3), "(N, 28, 28)")
    bad(np.zeros((200, 28, 28), complex), "not numbers")
    bad(np.full((200, 28, 28), "a"), "not numbers")


def test_a_broken_judge_is_named(fails):
    Path("broken.pt").write_text("no weights")
    fails(lambda: judge.load_judge(path=Path("broken.pt")), "broken.pt", "git checkout")
    fails(lambda: judge.load_judge(path=Path("none.pt")), "none.pt", "git checkout")


def test_many_draws_are_one_stream_and_each_has_its_own_label():
    """1,200 draws, 500 at a time: no number of noise comes twice, and no label is another's."""
    class Noise:
        def sample(self, n, y, generator, shift=0.0):
            noise = torch.rand(n, 1, 2, 2, generator=generator, dtype=torch.float64)
            return noise + shift + (0 if y is None else y.view(n, 1, 1, 1))

    y, generator = torch.arange(1200) % 7, torch.Generator().manual_seed(0)
    noise = torch.cat([torch.rand(n, 1, 2, 2, generator=generator, dtype=torch.float64)
                       for n in (500, 500, 200)])
    assert torch.equal(judge.sample_many(Noise(), 1200), noise)
    assert torch.equal(judge.sample_many(Noise(), 1200, y), noise + y.view(-1, 1, 1, 1))
    assert torch.equal(judge.sample_many(Noise(), 1200, shift=1.0), noise + 1)
    assert len(noise.unique()) == 4800  # control: of ten times the same 480 would be left


@pytest.mark.slow
def test_a_judge_that_was_trained_anew_can_take_the_place_of_the_other(digits, capsys):
    """By two steps in place of 3,000; what is printed is what the file's judge does."""
    short = rewritten("judge", ("judge = train_judge(data)",
                                "judge = train_judge(data, steps=2, batch_size=8)"))
    short.main(["--train"])
    data, said = digits[0], capsys.readouterr().out
    anew = judge.load_judge(path=Path("runs/judge.pt"))
    for x, what in ((data.test, "grey test digits right"), (data.x_test, "binarized ones")):
        right = (judge.judged(anew, x)[1] == data.test_labels).double().mean().item()
        assert f"{100 * right:.2f} % of the {what}" in said


def test_scores_are_beside_the_digits_of_the_folder_that_was_named(fails):
    np.save("a.npy", np.random.RandomState(0).rand(100, 28, 28))
    Path("file").write_text("")
    fails(lambda: judge.main(["a.npy", "--data-dir", "file"]), "--data-dir file", "is a file")
