"""How much faster than the obvious inverse are those of flow.py and tarflow.py?

    python experiments/bench_inverse.py [--n 64] [--json OUT.json]

The obvious one asks, for each part in the order of drawing, all networks of its coupling, and uses
the numbers of this part; of tarflow.py, for each word of a block, the block for all words. The
chapters ask for what is used alone. They give the same pixels in float64 (tests/test_flow.py and
test_tarflow.py). The default models, untrained: weights do not change the time. Seconds for n
digits: the chapter's a median of five, the obvious one's of a single run. Compare the ratio, since
seconds differ from machine to machine. Committed as results/inverse.json. A script to run, not a
test.
"""
import json
import time

import torch
from fit import command_line, values

import draws
import flow
import tarflow
import utils


@torch.no_grad()
def decode_obvious(model, z, y=None):
    """f⁻¹: z (B, 1, H, W) -> u. What is not drawn yet is still z, and no network looks at it."""
    u, edges, cdf = z.flatten(1).clone(), model.edges, model.cdf
    for coupling in reversed(model.couplings):
        for part in coupling.parts:
            pixels = coupling.moved[part]
            says = coupling.says(model.look(model.quantize(u, cdf)), y)[:, part]
            u[:, pixels] = coupling.map_back(u[:, pixels], says, edges)
    return u.view_as(z)


@torch.no_grad()
def blocks_obvious(model, z, y=None):
    """The same of tarflow.py: z (B, T, P) -> u (B, 1, H, W). What is not drawn yet is still z."""
    for block in reversed(model.blocks):
        words = z.flip(block.order)
        for t in range(z.shape[1]):
            start = block.start.expand(len(z), 1, -1)
            shift, log_scale = block.says(torch.cat([start, block.first(words[:, :-1])], dim=1), y)
            words[:, t] = words[:, t] * log_scale[:, t].exp() + shift[:, t]
        z = words.flip(block.order)
    return model.to_image(z)


@torch.no_grad()
def main():
    parser = command_line(__doc__)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--json", metavar="OUT.json", help="also write the figures there")
    args = parser.parse_args()
    figures = {"n": args.n, **utils.machine()}
    for chapter, by_the_obvious, shape in ((flow, decode_obvious, (1, 28, 28)),
                                           (tarflow, blocks_obvious, (49, 16))):
        torch.manual_seed(0)
        model, z = chapter.build(values(chapter)), torch.rand(args.n, *shape)
        fast = draws.median_seconds(lambda: model.decode(z))
        start = time.perf_counter()
        by_the_obvious(model, z)
        obvious = time.perf_counter() - start
        figures[chapter.__name__] = {"parameters": sum(p.numel() for p in model.parameters()),
                                     "fast": fast, "obvious": round(obvious, 3),
                                     "ratio": round(obvious / fast, 1)}
        print(f"{chapter.__name__}.py, {args.n} digits: {fast:.3f} s, by the obvious inverse "
              f"{obvious:.2f} s, {obvious / fast:.0f} times as long")
    if args.json:
        utils.write_atomically(args.json, (json.dumps(figures, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
