"""
pictures.py: pictures that know no model
========================================
Grids of digits, curves, maps: what several chapters paint, painted once. A chapter's own pictures,
which show how its model behaves, are in the chapter.
"""
import io
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from PIL import Image  # comes with torchvision and matplotlib

import utils

# --------------------------------------------------------------------------------------------------
# 1. Of any model
# --------------------------------------------------------------------------------------------------


GREYS = [round(round(v / 255 * 31) * 255 / 31) for v in range(256)]  # 32 of them


def write_png(path, image):
    """A PIL image to a PNG file, atomically. A figure has 256 colours at most, one byte a pixel in
    place of four, and without colours 32 levels of grey: edges are smooth all the same, and the
    file has half the size or less."""
    buffer = io.BytesIO()
    if image.mode != "L":  # of grey levels, which stay what they are to whoever reads the file
        image = image.convert("RGB")
        colours = image.getcolors(image.width * image.height)
        if all(r == g == b for _, (r, g, b) in colours):
            image = image.point(GREYS * 3)
        # Rare colours, as of a red square, stay; few colours are all kept.
        way = Image.Quantize.MAXCOVERAGE if len(colours) > 256 else Image.Quantize.MEDIANCUT
        image = image.quantize(256, way, dither=Image.Dither.NONE)
    image.save(buffer, "PNG", optimize=True)
    utils.write_atomically(path, buffer.getvalue())


def save_figure(path, figure):
    """A matplotlib figure to a PNG file; then close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, bbox_inches="tight", format="png")
    plt.close(figure)
    write_png(path, Image.open(buffer))


def grid(images, columns, line=1):
    """images (N, 1, H, W) as one, `columns` in a row, grey lines around each. (torchvision has a
    make_grid(), but importing torchvision takes as long as importing torch.)"""
    columns, lines = min(columns, len(images)), (line, 0, line, 0)
    missing = -len(images) % columns
    tiles = F.pad(F.pad(images[:, 0].cpu().float(), lines, value=0.5),
                  (0, 0, 0, 0, 0, missing), value=0.5)
    rows = tiles.unflatten(0, (-1, columns)).transpose(1, 2).flatten(2).flatten(0, 1)
    return F.pad(rows, (0, line, 0, line), value=0.5)


def save_grid(path, images, columns=8, scale=2):
    """images (N, 1, H, W) in [0, 1] as one PNG, `columns` in a row, each pixel scale×scale."""
    large = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    save_image(path, grid(large, columns, line=2 * scale))


def save_image(path, image):
    """One image (H, W) in [0, 1] as a PNG of as many pixels."""
    write_png(path, Image.fromarray((image * 255).round().to(torch.uint8).numpy()))


def save_animation(path, frames, columns=8, scale=2):
    """frames: a list of images (N, 1, H, W) in [0, 1]; an endless GIF that waits at the last."""
    pictures = []
    for images in frames:
        large = (grid(images, columns) * 31).round() * 255 / 31  # 32 greys: half the file
        large = large.to(torch.uint8)
        large = large.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        pictures.append(Image.fromarray(large.numpy()))
    each = max(60, 3000 // len(pictures))  # milliseconds
    buffer, times = io.BytesIO(), [each] * (len(pictures) - 1) + [2000]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=times,
                     loop=0)
    utils.write_atomically(path, buffer.getvalue())


def labelled_rows(path, rows, above=(), size=0.45):
    """rows: a list of (label, images (n, 1, H, W) in [0, 1]), as many in each; a strip a row.
    above: headings of the first columns; size: of an image, in inches."""
    columns, (height, width) = len(rows[0][1]), rows[0][1].shape[2:]
    images = torch.cat([images.cpu().float() for _, images in rows])
    figure, ax = plt.subplots(figsize=(size * columns + 1.5, size * len(rows) + 0.3))
    ax.imshow(grid(images, columns).numpy(), cmap="gray")
    ax.set_yticks([1 + (height + 1) * (k + 0.5) for k in range(len(rows))],
                  [label for label, _ in rows], fontsize=8)
    ax.set_xticks([1 + (width + 1) * (k + 0.5) for k in range(len(above))], above, fontsize=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    save_figure(path, figure)


def plot_loss(path, curve):
    """Train and validation nats per image (without a likelihood: the Fréchet distance) against
    steps and minutes."""
    names = next((names for names in (("train_nats", "val_nats"), ("val_frechet",),
                                      ("train_grey_nats", "val_grey_nats"), ("val_grey_nats",))
                  if all(curve[0].get(name) is not None for name in names)), None)
    if names is None:  # no likelihood, and nobody to judge: own_data.py
        return
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    values = [row[name] for row in curve for name in names]
    for ax, key, unit, label in ((axes[0], "step", 1, "steps"),
                                 (axes[1], "seconds", 60, "minutes of training")):
        for name in names:
            ax.plot([row[key] / unit for row in curve], [row[name] for row in curve], ".-",
                    label=name.split("_")[0])
        ax.set_xlabel(label)
        ax.locator_params(axis="x", nbins=5)  # more labels run into each other
        ax.grid(alpha=0.3)
    # The first evaluations are far above the rest and would flatten the part one wants to see.
    if names == ("val_frechet",):  # from hundreds to below 1: all of it on a log axis
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter("{x:g}")
        axes[0].set_ylabel("Fréchet distance to validation (log)")
    else:
        axes[0].set_ylim(max(0, min(values) - 1), min(max(values) + 1, min(values) + 40))
        axes[0].set_ylabel("nats per image (sum over pixels)")
        axes[0].legend()
    save_figure(path, figure)


def plot_maps(path, rows, low, high, cell):
    """Heat maps, log₁₀, from low to high, a row a model. White: exactly 0; red: the pixel d that a
    map is about. rows: (name, a list of (title, map (H, W) ≥ 0, d)). cell: size in inches."""
    columns = max(len(maps) for _, maps in rows)
    figure, axes = plt.subplots(len(rows), columns, squeeze=False,
                                figsize=(cell[0] * columns, cell[1] * len(rows)))
    for ax in axes.flat:
        ax.axis("off")
    for (name, maps), line in zip(rows, axes):
        for ax, (title, values, d) in zip(line, maps):
            values = values.cpu()
            logs = torch.where(values > 0, values.clamp(min=1e-12).log10(), math.nan)
            image = ax.imshow(logs.numpy(), cmap="viridis", vmin=low, vmax=high)
            ax.plot(d % values.shape[1], d // values.shape[1], "rs", markersize=3)
            ax.set(xticks=[], yticks=[])
            ax.axis("on")
            # A long title is for the whole picture: it starts at the left edge of the first map.
            ax.set_title(title, fontsize=8, loc="left" if len(title) > 30 else "center")
        line[0].set_ylabel(name, fontsize=8)
    figure.colorbar(image, ax=list(axes.flat), fraction=0.02, pad=0.01,
                    label="log₁₀ of the gradient")
    save_figure(path, figure)


# --------------------------------------------------------------------------------------------------
# 2. Of autoregressive models: whatever has sample(n, y, generator, x, known) and image_size
# --------------------------------------------------------------------------------------------------


def plot_autoregressive(folder, model, x, y, bits, place, animated=None):
    """What every autoregressive model shows. x: bits (N, 1, H, W), y: labels (N,) or None; bits:
    what each pixel or word costs (N, 1, ., .); place: (D,) the step at which a pixel is drawn
    (by `animated`, if a model alone cannot say)."""
    plot_halves(folder, model, x, y)
    plot_surprise(folder / "surprise.png", bits, x)
    plot_animation(folder / "sampling.gif", animated or model, place)


def six_pixels(height, width):
    """Where sight.png looks from: six pixels d, upper middle to lower edge."""
    places = ((7, 14), (13, 7), (13, 14), (13, 20), (20, 14), (26, 14))  # in an image of 28×28
    return [(height * row // 28) * width + width * column // 28 for row, column in places]


def plot_sight(path, rows, pixels):
    """What logits look at. rows: (name, for each d of pixels the map of |∂ℓ_d/∂x|, (H, W))."""
    caption = "log₁₀ |∂ℓ_d/∂x|, −3 to 1; white: exactly 0; red: d"
    plot_maps(path, [(name, [(caption * (row == column == 0), values, d)
                             for column, (values, d) in enumerate(zip(maps, pixels))])
                     for row, (name, maps) in enumerate(rows)], -3, 1, (2, 2.2))


def plot_fields(path, rows, d):
    """Receptive fields of pixel d, layer by layer. rows: (name, what the layers are called, for
    each the map of what it sees, (H, W))."""
    plot_maps(path, [(name, [(f"{layer}: sees {(values > 0).sum()}", values, d)
                             for layer, values in zip(layers, maps)])
                     for name, layers, maps in rows], -4, 0, (1.6, 2))


def plot_same_noise(path, model, rows, n=12, seed=3):
    """What becomes of the same noise: rows: (label, options of model.sample()), a strip each."""
    y, noise = utils.row_labels(model, n), torch.Generator()
    labelled_rows(path, [(label, model.sample(n, y, noise.manual_seed(seed), **options))
                         for label, options in rows])


def plot_halves(folder, model, x, y, names=("top", "left")):
    """completion_top.png, completion_left.png: half of each of eight digits x is given."""
    height, width = model.image_size
    top, left = torch.zeros(2, height, width, dtype=torch.bool)
    top[:height // 2], left[:, :width // 2] = True, True
    for name, known in (("top", top), ("left", left)):
        if name in names:
            plot_completions(folder / f"completion_{name}.png", model, x[:8], y, known)


def plot_completions(path, model, x, y, known):
    """For each of the digits x (n, 1, H, W): itself, what is given of it, 8 draws of the rest, all
    of them at once: who draws pixel by pixel takes hardly longer for 64 digits than for 8."""
    labels = None if y is None else y[:len(x)].repeat_interleave(8)
    futures = model.sample(8 * len(x), labels, torch.Generator().manual_seed(0),
                           x.repeat_interleave(8, dim=0), known)
    rows = []
    for digit, draws in zip(x.float(), futures.split(8)):
        given = torch.where(known.to(x.device), digit, 0.5)
        rows.append(("", torch.cat([digit[None], given[None], draws])))
    labelled_rows(path, rows, above=("digit", "given", "draws"))


def plot_surprise(path, bits, x):
    """The mean of the bits that each pixel (or word) costs, and four digits x with theirs."""
    figure, axes = plt.subplot_mosaic("aabcde;aafghi", figsize=(11, 3.6))
    mean = bits.mean(dim=(0, 1)).cpu()
    figure.colorbar(axes["a"].imshow(mean.numpy(), cmap="magma"), ax=axes["a"], shrink=0.8)
    axes["a"].set_title(f"bits, mean of {len(bits):,} digits; sum {mean.sum():.0f}", fontsize=9)
    for i, (above, below) in enumerate(("bf", "cg", "dh", "ei")):
        axes[above].imshow(x[i, 0].cpu().numpy(), cmap="gray")
        image = axes[below].imshow(bits[i, 0].cpu().numpy(), cmap="magma", vmin=0, vmax=5)
        axes[below].set_title(f"{bits[i].sum():.0f} bits", fontsize=9)
    figure.colorbar(image, ax=[axes[k] for k in "bcdefghi"], shrink=0.8, extend="max")
    for ax in axes.values():
        ax.set(xticks=[], yticks=[])
    save_figure(path, figure)


def plot_animation(path, model, place):
    """Sixteen digits appearing, as an endless GIF. A pixel never changes once it is drawn, so the
    finished digits hold all frames. place: (D,) the step at which each pixel is drawn."""
    x = model.sample(16, utils.row_labels(model, 16), torch.Generator().manual_seed(2)).cpu()
    place = place.view(x.shape[2:]).cpu()
    save_animation(path, [torch.where(place <= t, x, 0.5)
                          for t in (*range(0, place.numel(), 14), place.numel())])
