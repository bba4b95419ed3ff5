"""What is wavenet.py's and pixelcnn.py's own, each with a control that has to fail: their equations
written anew in plain loops, masks and shifts, receptive fields, gates, the LSTM of rows. What they
share with all autoregressive models is in test_autoregressive.py."""
import math
from pathlib import Path

import pytest
import torch
from conftest import values
from test_autoregressive import all_images, as_if, gradients, log_probs, noise, sees, shaken

import pixelcnn
import wavenet

SIGHTS = [(1, 1), (1, 7), (7, 1), (3, 3), (5, 9), (9, 5), (28, 28), (14, 40)]


def wave(pattern="image", taps=1):
    def make(size=3, seed=0, channels=6, **flags):
        torch.manual_seed(seed)
        return shaken(wavenet.WaveNet(size, channels, 16, taps, pattern, **flags), seed)

    return make


def plane(model_class):
    def make(size=3, seed=0, channels=6, layers=3, **flags):
        torch.manual_seed(seed)
        return shaken(model_class(size, channels, layers, **flags), seed)

    return make


MODELS = {"wavenet": wave(), "wavenet, line": wave("line"), "wavenet, many taps": wave(taps=7),
          "original": plane(pixelcnn.PixelCNN), "gated": plane(pixelcnn.GatedPixelCNN),
          "row lstm": plane(pixelcnn.RowLSTM)}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


# ------------------------------------------------------------------------- the equations, once more
#
# One place at a time, from the notes. A place's features are lists of C numbers, a weight is a list
# of rows; what lies outside of the image, or is not known yet, is None in `signs` and counts 0.


def sigmoid(u):
    return 1 / (1 + math.exp(-u))


def relu(u):
    return [max(0.0, a) for a in u]


def dot(a, b):
    return sum(p * q for p, q in zip(a, b))


def plus(*vectors):
    """Sum of vectors; one that is None counts 0."""
    return [sum(parts) for parts in zip(*(v for v in vectors if v is not None))]


def times(matrix, vector):
    """A matrix times a vector, which is None where there is nothing: then so is the product."""
    return None if vector is None else [dot(row, vector) for row in matrix]


def gated(taps):
    half = len(taps) // 2
    return [math.tanh(a) * sigmoid(b) for a, b in zip(taps[:half], taps[half:])]


class Plain(dict):
    """Parameters as nested lists of Python's floats, by their names."""

    def __init__(self, model):
        super().__init__({name: p.tolist() for name, p in model.named_parameters()})

    def tap(self, name, *at):
        """The matrix (outputs, inputs) of one tap of a convolution."""
        rows = self[f"{name}.weight"]
        for index in at:
            rows = [[kernel[index] for kernel in row] for row in rows]
        return rows

    def one(self, name, h):
        """A 1×1 convolution of the features at one place."""
        return plus(times(self.tap(name, 0, 0), h), self[f"{name}.bias"])

    def head(self, h):
        hidden = relu(self.one("head", relu(h)))
        return dot(self.tap("last", 0, 0)[0], hidden) + self["last.bias"][0]


def wavenet_by_hand(model, x, label, dilations):
    """(2), (4), (5), (6), step by step. x: T numbers -> T logits."""
    p, steps, layers = Plain(model), range(len(x)), range(len(dilations))
    signs = [2 * bit - 1 for bit in x]
    weight, logits = p["first.weight"], []
    taps = len(weight[0])
    streams = [[] for _ in layers]  # what each layer was given, at each step so far
    for t in steps:
        before = [signs[t - taps + k] if t - taps + k >= 0 else 0 for k in range(taps)]
        h = plus(times(weight, before), p["first.bias"])
        skips = None
        for k in layers:
            past = streams[k][t - dilations[k]] if t >= dilations[k] else None
            streams[k].append(h)
            size = 2 * len(h)
            from_label = None
            if label is not None:
                from_label = p["label_to_gates.weight"][label][k * size:(k + 1) * size]
            g = gated(plus(times(p[f"now.{k}.weight"], h), p[f"now.{k}.bias"],
                           times(p[f"past.{k}.weight"], past), from_label))
            h = plus(h, times(p[f"residual.{k}.weight"], g), p[f"residual.{k}.bias"])
            heard = plus(times(p[f"skip.{k}.weight"], g), p[f"skip.{k}.bias"])
            skips = plus(skips, heard) if skips else heard
        hidden = relu(plus(times(p["head.weight"], relu(skips)), p["head.bias"]))
        logits.append(dot(p["last.weight"][0], hidden) + p["last.bias"][0])
    return logits


def at(grid, i, j):
    """What is at a place; None outside."""
    return grid[i][j] if 0 <= i < len(grid) and 0 <= j < len(grid[0]) else None


def everywhere(size, f):
    return [[f(i, j) for j in range(size[1])] for i in range(size[0])]


def convolved(p, name, grid, taps):
    """At each place, the sum over taps ((row, column) of the kernel -> (rows, columns) away)."""
    return everywhere((len(grid), len(grid[0])), lambda i, j: plus(p[f"{name}.bias"], *(
        times(p.tap(name, *index), at(grid, i + di, j + dj)) for index, (di, dj) in taps.items())))


MASK_A_7 = {(r, c): (r - 3, c - 3) for r in range(7) for c in range(7)
            if r < 3 or (r == 3 and c < 3)}
MASK_B_3 = {(0, 0): (-1, -1), (0, 1): (-1, 0), (0, 2): (-1, 1), (1, 0): (0, -1), (1, 1): (0, 0)}


def original_by_hand(model, x, label):
    """PixelCNN: mask A on the pixels, then blocks with mask B, each added to what it was given."""
    p, size = Plain(model), model.image_size
    signs = [[[2 * bit - 1] for bit in row] for row in x]
    from_label = None if label is None else p["label.weight"][label]
    first = convolved(p, "first", signs, MASK_A_7)
    h = everywhere(size, lambda i, j: plus(
        first[i][j], [channel[i][j] for channel in p["position"]], from_label))
    for k in range(len(model.narrow)):
        narrow = everywhere(size, lambda i, j, k=k: relu(p.one(f"narrow.{k}", relu(h[i][j]))))
        looked = convolved(p, f"masked.{k}", narrow, MASK_B_3)
        h = everywhere(size, lambda i, j, k=k: plus(
            h[i][j], p.one(f"widen.{k}", relu(looked[i][j]))))
    return everywhere(size, lambda i, j: p.head(h[i][j]))


def gated_by_hand(model, x, label):
    """(3), (4), (5): v looks up, h looks left and is told by v."""
    p, size = Plain(model), model.image_size
    signs = [[[2 * bit - 1] for bit in row] for row in x]
    up = {(r, c): (r - 3, c - 3) for r in range(3) for c in range(7)}  # three rows above
    above = convolved(p, "first_up", signs, up)
    v = above
    left = convolved(p, "first_left", signs, {(0, c): (0, c - 3) for c in range(3)})
    h = everywhere(size, lambda i, j: plus(left[i][j], v[i][j]))
    for k in range(len(model.up)):
        delta, double = (1, 2, 4, 8)[k % 4], 2 * len(h[0][0])
        to_v = to_h = None
        if label is not None:
            terms = p["label_to_gates.weight"][label]
            to_v = terms[2 * k * double:(2 * k + 1) * double]
            to_h = terms[(2 * k + 1) * double:(2 * k + 2) * double]
        up = convolved(p, f"up.{k}", v, {(r, c): ((r - 1) * delta, (c - 1) * delta)
                                         for r in range(2) for c in range(3)})
        left = convolved(p, f"left.{k}", h, {(0, 0): (0, -delta), (0, 1): (0, 0)})
        h = everywhere(size, lambda i, j, k=k: plus(h[i][j], p.one(f"residual.{k}", gated(
            plus(left[i][j], p.one(f"up_to_left.{k}", up[i][j]), to_h)))))
        v = everywhere(size, lambda i, j: gated(plus(up[i][j], to_v)))
    return everywhere(size, lambda i, j: p.head(h[i][j]))


def row_lstm_by_hand(model, x, label):
    """(6), row by row: gates in the order input, forget, output, candidate."""
    p, size = Plain(model), model.image_size
    signs = [[[2 * bit - 1] for bit in row] for row in x]
    first = convolved(p, "first", signs, MASK_A_7)
    below = first
    for k in range(len(model.input_to_state)):
        from_label, four = None, 4 * len(below[0][0])
        if label is not None:
            from_label = p["label_to_gates.weight"][label][k * four:(k + 1) * four]
        inputs = convolved(p, f"input_to_state.{k}", below, {(0, 0): (0, -1), (0, 1): (0, 0)})
        between = [p.tap(f"state_to_state.{k}", 0, tap) for tap in range(3)]
        states, cells = [], []
        for i in range(size[0]):
            states.append([])
            cells.append([])
            for j in range(size[1]):
                gates = plus(inputs[i][j], from_label, *(
                    times(between[tap], at(states[:i], i - 1, j + tap - 1)) for tap in range(3)))
                n = four // 4
                above = at(cells[:i], i - 1, j) or [0.0] * n
                c = [sigmoid(gates[n + s]) * above[s]
                     + sigmoid(gates[s]) * math.tanh(gates[3 * n + s]) for s in range(n)]
                cells[i].append(c)
                states[i].append([sigmoid(gates[2 * n + s]) * math.tanh(c[s]) for s in range(n)])
        below = everywhere(size, lambda i, j: plus(below[i][j], states[i][j]))
    return everywhere(size, lambda i, j: p.head(below[i][j]))


def agrees(model, by_hand, label, *more):
    """Are logits those of the equations? And, as control, not those of another image."""
    x = noise(2, model.image_size)
    logits = model.logits(x, None if label is None else torch.full((2,), label))
    flat = by_hand is wavenet_by_hand
    expected = [torch.tensor(by_hand(model, (image.flatten() if flat else image[0]).tolist(), label,
                                     *more)).double().view_as(image) for image in x]
    assert not torch.allclose(expected[0], logits[1])
    return torch.allclose(torch.stack(expected), logits)


@pytest.mark.parametrize("label", [None, 7])
@pytest.mark.parametrize("pattern, dilations", [("image", [1, 3, 2, 10, 4]),
                                                ("line", [1, 2, 4, 8, 16])])
def test_wavenet_is_what_its_equations_say(pattern, dilations, label):
    model = wave(pattern, 3)((4, 5), channels=3, classes=10 * (label is not None))
    assert agrees(model, wavenet_by_hand, label, dilations)
    assert not agrees(model, wavenet_by_hand, label, sorted(dilations, reverse=True))  # control


@pytest.mark.parametrize("label", [None, 7])
@pytest.mark.parametrize("name, by_hand", [
    ("original", original_by_hand), ("gated", gated_by_hand), ("row lstm", row_lstm_by_hand)])
def test_models_on_the_plane_are_what_their_equations_say(name, by_hand, label):
    model = MODELS[name]((5, 6), channels=4, layers=2, classes=10 * (label is not None))
    assert agrees(model, by_hand, label)


def test_gated_dilations_repeat():
    """A fifth layer begins again at 1: in the equations, and in the notes (5)."""
    assert pixelcnn.choose_dilations(8) == [1, 2, 4, 8, 1, 2, 4, 8]
    assert agrees(plane(pixelcnn.GatedPixelCNN)((3, 4), channels=2, layers=5), gated_by_hand, None)


def test_the_row_lstm_starts_by_remembering():
    """The forget gate's bias, the second quarter, is 1 in each layer."""
    torch.manual_seed(0)
    for layer in pixelcnn.RowLSTM(3, 4, 2).input_to_state:
        assert (layer.bias[4:8] == 1).all() and not (layer.bias[:4] == 1).any()
        assert not (layer.bias[8:] == 1).any()


def test_gates():
    taps = torch.randn(2, 6, 3)
    assert torch.allclose(pixelcnn.gate(taps), taps[:, :3].tanh() * taps[:, 3:].sigmoid())
    model = wavenet.WaveNet(3, 6)
    assert torch.allclose(model.gate(taps.transpose(1, 2)).transpose(1, 2), pixelcnn.gate(taps))


def test_the_row_lstm_is_an_lstm():
    """On an image one pixel wide, with convolutions of one tap, it is nn.LSTMCell down the rows."""
    model = plane(pixelcnn.RowLSTM)((5, 1), channels=4, layers=1)
    cell = torch.nn.LSTMCell(4, 4).double()
    # Ours: input, forget, output, candidate; torch's: input, forget, candidate, output.
    order = [0, 1, 3, 2]

    def gates(w):
        return torch.cat([w.chunk(4)[k] for k in order])

    with torch.no_grad():
        cell.weight_ih.copy_(gates(model.input_to_state[0].weight[:, :, 0, 1]))
        cell.bias_ih.copy_(gates(model.input_to_state[0].bias))
        cell.weight_hh.copy_(gates(model.state_to_state[0].weight[:, :, 0, 1]))
        cell.bias_hh.zero_()
        below, above = model.streams(noise(3, (5, 1)))
        state = None
        for i in range(5):
            state = cell(below[:, :, i, 0], state)
            assert torch.allclose(above[:, :, i, 0], below[:, :, i, 0] + state[0])
        cell.bias_ih.copy_(model.input_to_state[0].bias)  # control: gates in our order
        assert not torch.allclose(cell(below[:, :, 0, 0])[0], above[:, :, 0, 0] - below[:, :, 0, 0])


# --------------------------------------------------------------------------- ways to see the future


def test_masks():
    assert pixelcnn.causal_mask(3, "A").tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert pixelcnn.causal_mask(3, "B").tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    for letter in "AB":
        mask = pixelcnn.causal_mask(7, letter)
        assert (mask[:3] == 1).all() and (mask[4:] == 0).all()
        assert mask[3].tolist() == [1, 1, 1, float(letter == "B"), 0, 0, 0]


class Ahead(torch.nn.Module):
    """Control: a convolution that sees, at each place, what is meant for a later one."""

    def __init__(self, conv, rows, columns):
        super().__init__()
        self.conv, self.by = conv, (-rows, -columns)

    def forward(self, h):
        return self.conv(h.roll(self.by, dims=(2, 3)))


class NotShifted(wavenet.WaveNet):
    """Control: step t is told pixel t."""

    def logits(self, x, y=None):
        return super().logits(x.flatten(1).roll(-1, 1).view(x.shape), y)


def leaks(model):
    """Is the future seen? Says the sum over all images, and say gradients."""
    return (abs(log_probs(model).exp().sum().item() - 1) > 1e-6, not sees(model, gradients)[0])


@pytest.mark.slow
def test_each_way_to_see_the_future_is_caught():
    for make in MODELS.values():
        assert leaks(make()) == (False, False)
    assert leaks(as_if(wave()(), NotShifted)) == (True, True)
    for name in ("original", "row lstm"):
        model = MODELS[name]()
        model.mask_a.copy_(pixelcnn.causal_mask(7, "B"))  # mask B where A should be
        assert leaks(model) == (True, True)
    model = MODELS["original"]()
    model.mask_b.fill_(1)  # one column too many, and the rows below, in later layers
    assert leaks(model) == (True, True)
    model.mask_b.copy_(pixelcnn.causal_mask(3, "A"))  # too strict: nothing leaks
    assert leaks(model) == (False, False)
    for name, layer, rows, columns in (
            ("gated", "first_up", 1, 0), ("gated", "first_left", 0, 1), ("gated", "up", 1, 0),
            ("gated", "left", 0, 1), ("row lstm", "input_to_state", 0, 1)):
        model = MODELS[name]()
        convs = getattr(model, layer)
        wrong = [Ahead(conv, rows, columns) for conv in
                 (convs if isinstance(convs, torch.nn.ModuleList) else [convs])]
        setattr(model, layer, torch.nn.ModuleList(wrong) if len(wrong) > 1 else wrong[0])
        assert leaks(model) == (True, True), layer


# -------------------------------------------------------------------------------- receptive fields


def add(*sets):
    """Minkowski sums of sets of offsets (rows, columns)."""
    total = {(0, 0)}
    for s in sets:
        total = {(a + c, b + d) for a, b in total for c, d in s}
    return total


def box(r0, r1, c0, c1):
    return {(r, c) for r in range(r0, r1 + 1) for c in range(c0, c1 + 1)}


def field_in_theory(name, layers):
    """Offsets that a logit sees, from the definition of each model, without its code."""
    mask_a, mask_b = (box(-3, -1, -3, 3) | box(0, 0, -3, -1), box(-1, -1, -1, 1) | box(0, 0, -1, 0))
    if name == "original":
        return add(mask_a, *[mask_b] * layers)
    if name == "gated":
        v, h = box(-3, -1, -3, 3), box(-3, -1, -3, 3) | box(0, 0, -3, -1)
        for k in range(layers):
            delta = 2 ** (k % 4)
            v = add(v, {(r * delta, c * delta) for r, c in box(-1, 0, -1, 1)})
            h = add(h, {(0, -delta), (0, 0)}) | v
        return h
    field = mask_a
    cone = {(-m, c) for m in range(20) for c in range(-m, m + 1)}
    for _ in range(layers):
        field = field | add(field, box(0, 0, -1, 0), cone)
    return field


@pytest.mark.parametrize("name", ["original", "gated", "row lstm"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_receptive_fields_are_what_theory_says(name, layers):
    size, at = (13, 21), (11, 10)
    model = MODELS[name](size, layers=layers)
    x = noise(40, size).requires_grad_()
    logit = model.logits(x)[:, 0, at[0], at[1]].sum()
    seen = torch.autograd.grad(logit, x)[0].abs().sum(dim=(0, 1)) > 0
    theory = torch.zeros(size, dtype=torch.bool)
    for r, c in field_in_theory(name, layers):
        if 0 <= at[0] + r < size[0] and 0 <= at[1] + c < size[1]:
            theory[at[0] + r, at[1] + c] = True
    assert torch.equal(seen, theory)
    # The blind spot: one row up, four columns to the right. The gated model sees it.
    assert seen[at[0] - 1, at[1] + 4].item() == (name == "gated")
    if name == "gated":  # and everything else within reach
        reach = 3 + 2**layers - 1
        rows, columns = slice(max(0, at[0] - reach), at[0]), slice(max(0, at[1] - reach), None)
        assert seen[rows, columns][:, :at[1] + 1 + reach - columns.start].all()


def test_dilations_are_those_of_the_notes():
    assert wavenet.choose_dilations("image", 28, 784) == [1, 26, 2, 56, 4, 112, 8, 224, 16, 448]
    assert wavenet.choose_dilations("line", 28, 784) == [2**k for k in range(10)]


@pytest.mark.parametrize("pattern", ["line", "image"])
def test_wavenet_sees_all_of_the_line_before(pattern):
    for height, width in SIGHTS:
        sums = {0}
        for delta in wavenet.choose_dilations(pattern, width, height * width):
            sums |= {s + delta for s in sums}
        assert set(range(height * width - 1)) <= sums, (height, width)
    model, x = wave(pattern)((5, 9)), noise(3, (5, 9)).requires_grad_()

    def seen():
        logit = model.logits(x)[:, 0, 4, 8].sum()
        return torch.autograd.grad(logit, x)[0].abs().sum(dim=(0, 1)).flatten() > 0

    assert seen().tolist() == [True] * 44 + [False]
    model.past[1].weight.data.zero_()  # control: without one tap there are holes
    assert 0 < seen()[:44].sum() < 44


@pytest.mark.parametrize("name", ["wavenet", "gated", "original", "row lstm"])
def test_fields_grow_from_layer_to_layer(name):
    model, module = MODELS[name]((9, 9)).float(), wavenet if name == "wavenet" else pixelcnn
    maps = [seen.flatten() for seen in module.fields(model, noise(5, (9, 9)), None, 40)]
    counts = [int((seen > 0).sum()) for seen in maps]
    assert counts == sorted(counts) and counts[0] < counts[-1] <= 40
    assert all(seen[39] > 0 and (seen[40:] == 0).all() for seen in maps)  # of 40, not of another


def test_the_original_is_told_where_it_is():
    """Of images that are black all over. Without, a place from which no border is seen is like any
    other; and it has few layers that see far."""
    model, x = MODELS["original"]((19, 19), channels=12, layers=2), torch.zeros(1, 1, 19, 19)
    with torch.no_grad():
        placed = model.logits(x.double())[0, 0]
        model.position.zero_()
        unplaced = model.logits(x.double())[0, 0]
    assert len(placed.unique()) > 200 and len(unplaced[5:, 5:-5].unique()) == 1


@pytest.mark.parametrize("name", ["gated", "row lstm"])
def test_a_place_finds_out_where_it_is_from_what_lies_beyond_the_border(name):
    """Of images that are black all over: as far as zeros around them are seen. With one layer a
    place in the middle is like any other."""
    model, x = MODELS[name]((9, 9), channels=12), torch.zeros(1, 1, 9, 9).double()
    with torch.no_grad():
        assert len(model.logits(x).unique()) > 40
        model = MODELS[name]((19, 19), channels=12, layers=0)
        logits = model.logits(torch.zeros(1, 1, 19, 19).double())[0, 0]
    assert len(logits[3:, 3:-3].unique()) == 1 < len(logits.unique())


@pytest.mark.parametrize("name", ["original", "gated", "row lstm"])
def test_last_biases_start_at_the_odds_of_all_pixels(name):
    model, x = MODELS[name]((4, 4)), torch.zeros(2, 1, 4, 4).double()
    model.last.weight.data.zero_()
    grey = torch.tensor([0] * 23 + [100] * 4 + [200] * 5, dtype=torch.uint8).view(2, 1, 4, 4)
    model.start_from_mean(grey)
    assert torch.allclose(model.logits(x), torch.tensor(6 / 28).log().double(), atol=1e-6)


def test_wavenet_finds_out_where_it_is_from_what_lies_before_the_line():
    """Of images that are black all over: a step that sees beyond the first pixel knows how far it
    is from it; with a short field later ones know nothing."""
    model, x = MODELS["wavenet"]((9, 9), channels=12), torch.zeros(1, 1, 9, 9).double()
    with torch.no_grad():
        assert len(model.logits(x).unique()) > 40
        model.dilations = [1] * 3
        logits = model.logits(x).flatten()
    assert len(logits[:5].unique()) == 5 and len(logits[4:].unique()) == 1


def test_sight_is_the_gradient_of_a_logit():
    for name, module in (("gated", pixelcnn), ("wavenet", wavenet)):
        model, x = MODELS[name]((4, 4)).float(), noise(5, (4, 4)).float()
        for d, seen in zip((5, 9), module.sight(model, x, None, (5, 9))):
            assert seen.shape == (4, 4) and (seen.flatten()[d:] == 0).all()
            assert (seen.flatten()[:d] > 0).any()


# ------------------------------------------------------------------------------------------ runs


def test_the_variants_have_defaults_of_their_own():
    def chosen(flags):
        s = values(pixelcnn, flags)
        return type(pixelcnn.build(s, 3)), s.steps, s.lr, s.width, s.depth

    assert chosen("") == (pixelcnn.GatedPixelCNN, 7500, 8e-3, 16, 8)
    assert chosen("--variant original") == (pixelcnn.PixelCNN, 3500, 5e-3, 64, 8)
    assert chosen("--variant rnn") == (pixelcnn.RowLSTM, 4000, 9e-3, 32, 3)
    assert chosen("--variant rnn --steps 7 --lr 0.1")[1:3] == (7, 0.1)


@pytest.mark.parametrize("variant", ["gated", "original", "rnn"])
def test_flags_make_the_model_they_say(variant):
    s = values(pixelcnn, f"--variant {variant} --width 6 --depth 3 --conditional")
    model = pixelcnn.build(s, (3, 4))
    assert model.image_size == (3, 4) and model.classes
    assert [h.shape[1] for h in model.streams(torch.zeros(1, 1, 3, 4))] == [6] * 4
    assert not pixelcnn.build(values(pixelcnn, f"--variant {variant}"), 3).classes


def test_flags_make_the_wavenet_they_say():
    s = values(wavenet, "--dilations line --width 6 --first-taps 9 --conditional")
    model = wavenet.build(s, (3, 4))
    assert model.dilations == [1, 2, 4, 8] and model.classes and model.image_size == (3, 4)
    assert model.first.out_features == 6 and model.first.in_features == 9
    assert model.head.out_features == 12
    assert wavenet.build(values(wavenet), 4).dilations == [1, 2, 2, 8, 4]


def test_flags_that_do_not_exist(fails):
    fails(lambda: pixelcnn.main(["--variant", "masks"]), "--variant")
    fails(lambda: pixelcnn.main(["--width", "1"]), "--width")
    fails(lambda: wavenet.main(["--dilations", "3"]), "--dilations")
    fails(lambda: wavenet.main(["--first-taps", "0"]), "--first-taps")
    assert not Path("runs").exists() and len(all_images(1, 3)) == 8
