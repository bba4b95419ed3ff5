"""The scores of judge.py: planted heaps and their distances, the judge that ships, odd files."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

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
    assert judge.frechet_distance(c, d) != judge.frechet_distance(c, d)  # nan, and no traceback


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
    assert (judge.judged(network, data.test)[1] == data.test_labels).double().mean() > 0.9
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_precision_is_of_the_draws_and_recall_of_the_real_digits(digits):
    """Half of the draws are noise: half are no digits, but all kinds of digits are drawn. Of real
    digits half the classes: all are digits, and half of the kinds are missing."""
    data, network = digits
    noisy = torch.cat([data.train[:500] / 255, torch.rand(500, 1, 28, 28)])
    half = data.train[data.train_labels < 5][:1000] / 255
    found = judge.scores(network, noisy, data.train[1000:2000])
    assert found["precision"] < 0.6 and found["recall"] > 0.8
    found = judge.scores(network, half, data.train[1000:2000])
    assert found["precision"] > 0.8 and found["recall"] < 0.6
    assert sum(found["shares"][:5]) > 0.97


def test_coins_come_up_as_often_as_they_should():
    means = torch.full((400, 1, 28, 28), 0.9)
    bits = judge.coins(means)
    assert set(bits.unique().tolist()) == {0, 1}
    assert bits.mean().item() == pytest.approx(0.9, abs=0.01)
    assert torch.equal(bits, judge.coins(means)) and not torch.equal(bits, judge.coins(means, 1))
    assert judge.is_grey(means) and not judge.is_grey(bits)


def test_a_heap_is_scored_beside_test_digits_of_its_own_kind(digits):
    """Planted: the test digits themselves are at 0 from the test digits, and no other heap is."""
    data, network = digits
    rows = {(row["kind"], row["what"]): row for row in
            judge.score(network, data.test / 255, data)}
    assert rows["grey", "images"]["frechet"] == pytest.approx(0, abs=1e-6)
    assert 0 < rows["binarized", "images"]["frechet"] < 1
    rows = {(row["kind"], row["what"]): row for row in
            judge.score(network, data.x_test.float(), data)}
    assert {kind for kind, _ in rows} == {"binarized"}
    assert rows["binarized", "images"]["frechet"] == pytest.approx(0, abs=1e-6)
    train = torch.from_numpy(utils.fixed_bits(data.train[:500], 3))
    floor = judge.scores(network, train, data.x_test)
    assert rows["binarized", "real training digits"]["frechet"] == pytest.approx(floor["frechet"])
    other = judge.score(network, data.x_val.float(), data)[0]  # control: validation digits
    assert other["frechet"] > 0.1


def test_files_are_scored_beside_their_floor(digits, capsys):
    data, _ = digits
    np.save("grey.npy", data.val[:300, 0].numpy())
    np.save("bits.npy", data.x_val[:300, 0].float().numpy())
    judge.main(["grey.npy", "--json", "grey.json"])
    grey = json.loads(Path("grey.json").read_text())
    assert [(row["kind"], row["what"], row["n"]) for row in grey["rows"]] == [
        (kind, what, 300) for kind in ("grey", "binarized")
        for what in ("images", "real training digits")]
    judge.main(["bits.npy", "--json", "bits.json"])
    bits = json.loads(Path("bits.json").read_text())
    assert [row["kind"] for row in bits["rows"]] == ["binarized"] * 2
    assert bits["data"] == "mnist_5k"
    for row in grey["rows"] + bits["rows"]:
        assert 0 < row["frechet"] < 15 and row["precision"] > 0.5
    assert capsys.readouterr().out.count("real training digits") == 3


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
    bad(np.full((200, 28, 28), "a"), "not numbers")


def test_a_broken_judge_is_named(fails):
    Path("broken.pt").write_text("no weights")
    fails(lambda: judge.load_judge(path=Path("broken.pt")), "broken.pt", "git checkout")
    fails(lambda: judge.load_judge(path=Path("none.pt")), "none.pt", "git checkout")
