"""
Muon: steps of equal length in all directions of a matrix
=========================================================
Adam moves each weight by itself. But most weights belong to the matrix W of a layer, and what
counts is how a step changes what W makes of vectors. The gradient of a layer has a few large
singular values (notes) and many small ones, so a step along it learns a few directions fast and the
others hardly at all. Muon keeps the gradient's directions and gives them, but for the weakest,
about one length.

    M  ←  β M + (1 − β) G,     then  (1 − β) G + β M  =  U S Vᵀ,      G: the gradient
    W  ←  W − η · 0.2 √max(rows, columns) · U Vᵀ                                               (1)

    code       symbol    shape             meaning
    x          X         (…, rows, cols)   a matrix on its way from U S Vᵀ to U Vᵀ; … : many at once
    means      M         as the weights    mean of past gradients
    decay      β                           0.95
    lr         η                           the learning rate, of Muon and of Adam

Papers    Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024
          (kellerjordan.github.io/posts/muon)
          Bernstein & Newhouse, Old Optimizer, New Norm, 2024 (arXiv 2409.20325): why U Vᵀ
          Liu et al., Muon is Scalable for LLM Training, 2025 (2502.16982): the factor in (1)
Run       python wavenet.py, pixelcnn.py, transformer_ar.py, flow.py, tarflow.py: the chapters that
          use it, and say what it is worth ("What was measured"). Not made.py: its matrices are so
          large that (2) takes some twenty times as long as the rest of a step (one thread, no file
          is kept). Of others experiments/optimizers.py can tell (kept: results/optimizers/)
Left out  on purpose: weight decay (Liu et al. have it), bfloat16
"""
import torch

# --------------------------------------------------------------------------------------------------
# Notes
#
# Singular values. Any matrix is G = U S Vᵀ = Σ_k s_k u_k v_kᵀ. The columns u_k of U, and v_k of V,
# have length 1 and stand at right angles to each other; S is diagonal, and has the s_k ≥ 0, the
# singular values: G makes s_k u_k of v_k. The Frobenius norm ‖G‖ is the root of the sum of all
# squared entries, and of all s_k².
#
# Why U Vᵀ? A small step W − η D lowers the loss by η Σ_ij G_ij D_ij = η Σ_k s_k u_kᵀ D v_k. Which D
# lowers it most? If D may make no vector longer (its largest singular value is at most 1): U Vᵀ,
# for no u_kᵀ D v_k is above 1, and U Vᵀ makes all of them 1. If its Frobenius norm may be at most
# 1: G/‖G‖, gradient descent. If no entry may leave [−1, 1]: the signs of G, nearly Adam.
#
# Without singular vectors. An odd polynomial of a matrix, a X + b (X Xᵀ) X + c (X Xᵀ)² X, leaves U
# and V as they are and makes of each singular value s
#
#     p(s)  =  a s + b s³ + c s⁵,      a, b, c = 3.4445, −4.7750, 2.0315                         (2)
#
#     p  1.2 ┤       _____             Start with X = G/‖G‖ (Frobenius): all s lie in 0 … 1. At 0
#            │     ╱        ╲          the slope is 3.4: in five rounds 0.003 becomes 1.1, 0.0015
#        0.7 ┤   ╱            ╲        becomes 0.68. What is larger ends in 0.68 … 1.2, and never
#            │ ╱                       settles: about 1 is enough. Smaller ones stay below. Newton
#          0 ┼─────────────────┤ s     and Schulz's 1.5 s − 0.5 s³ settles at 1, but its slope at 0
#            0                 1       is 1.5: 0.003 is above 0.68 after fourteen rounds.
#
# results/singular_values.png shows it, for gradients of flow.py (experiments/singular_values.py):
# in two of four matrices a third of the directions, and more, stay short.
#
# X is long, Q = X Xᵀ (`square`) small. A round is X ← F X with F = a I + b Q + c Q², and the next Q
# is F Q F. So Q, and the product of all F, are found without X, which is multiplied twice in all (X
# Xᵀ at first, product · X at the end) in place of ten times: of 64×3136 in a third of the time (no
# file is kept). If X is square, a round has four products, not three. We compute in float32; the
# authors use bfloat16, which is slow on most CPUs.
#
# The factor. With full rank U Vᵀ has min(rows, columns) singular values of 1. Their squares sum to
# the sum of its squared entries, whose mean is thus 1/max(rows, columns). The factor makes the root
# of that 0.2 (by (2): 0.14 … 0.24), in units of η: about what Adam's steps have after the first few
# (Liu et al.). So one learning rate serves both.
#
# What is left to Adam? All that does not lead from one layer to the next: biases, norms, positions;
# tables of which a step sees few rows (labels, words); and the last layer, each of whose outputs is
# read by itself. A convolution counts as the matrix (outputs, inputs · taps), a transposed one as
# (inputs, outputs · taps); many small networks side by side (flow.py) as many matrices.
# --------------------------------------------------------------------------------------------------


def orthogonal(x, steps=5):
    """About U Vᵀ, of matrices x (…, rows, cols), by (2): singular values above 0.0015 of the
    Frobenius norm end in 0.68 … 1.2, smaller ones below; zeros stay zeros."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x  # the smaller of X Xᵀ and Xᵀ X
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    square, identity = x @ x.mT, torch.eye(x.shape[-2]).to(x)
    product = identity
    for _ in range(steps):
        factor = 3.4445 * identity + (2.0315 * square @ square - 4.7750 * square)
        product, square = factor @ product, factor @ square @ factor
    x = product @ x
    return x.mT if tall else x


class Muon:
    """Muon for the matrices of a network, Adam for the rest; used like an optimizer of torch's.

    adam: words. A parameter is Adam's if its name contains one of them, or if it has fewer than two
    dimensions; at least one has to be. Of the others, three dimensions are many matrices, four a
    convolution. lr: of both; a chapter changes it in param_groups[0]["lr"].
    """

    def __init__(self, network, lr, adam, decay=0.95):
        named = list(network.named_parameters())
        self.matrices = [p for name, p in named
                         if p.dim() > 1 and not any(word in name for word in adam)]
        taken = {id(p) for p in self.matrices}
        self.adam = torch.optim.Adam([p for _, p in named if id(p) not in taken], lr=lr, fused=True)
        self.means, self.decay = [torch.zeros_like(p) for p in self.matrices], decay

    @property
    def param_groups(self):
        return self.adam.param_groups

    def zero_grad(self):
        self.adam.zero_grad()
        for p in self.matrices:
            p.grad = None

    @torch.no_grad()
    def step(self):
        self.adam.step()
        lr, alike = self.param_groups[0]["lr"], {}
        for p, mean in zip(self.matrices, self.means):
            if p.grad is not None:
                # From 0, uncorrected: orthogonal() forgets lengths.
                mean.lerp_(p.grad, 1 - self.decay)
                # Look ahead (Nesterov): the newest gradient is in the mean, and counts once more.
                alike.setdefault(p.shape, []).append((p, p.grad.lerp(mean, self.decay)))
        for shape, pairs in alike.items():  # those of one shape at once: fewer, larger products
            ahead = torch.stack([x for _, x in pairs])
            x = orthogonal(ahead.flatten(2) if len(shape) == 4 else ahead)
            for (p, _), step in zip(pairs, x):
                p.sub_(step.reshape(shape), alpha=lr * 0.2 * max(step.shape[-2:])**0.5)  # (1)

    def state_dict(self):
        return {"adam": self.adam.state_dict(), "means": self.means}

    def load_state_dict(self, state):
        self.adam.load_state_dict(state["adam"])
        for mean, saved in zip(self.means, state["means"], strict=True):
            mean.copy_(saved)
