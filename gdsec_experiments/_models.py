"""The networks of the figures: flax models by name, each of its data's sizes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class MLP(nnx.Module):
    """A perceptron with one hidden layer."""

    def __init__(self, size: int, num_classes: int, *, hidden: int = 64, rngs, dtype):
        self.hidden = nnx.Linear(size, hidden, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(hidden, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        """Logits [n, C] of features [n, D]."""
        return self.head(nnx.relu(self.hidden(x)))


class LeNet(nnx.Module):
    """Two strided convolutions, and two dense layers with dropout between.

    As in LeCun et al., Backpropagation Applied to Handwritten Zip Code Recognition,
    1989, https://doi.org/10.1162/neco.1989.1.4.541; the pooling of the later LeNets
    takes several times as long on a CPU. With `sliced` convolutions, which are the same
    but for rounding, gradients of single samples are products of matrices.
    """

    def __init__(
        self,
        size: int,
        num_classes: int,
        *,
        width: int = 8,
        dropout: float = 0.2,
        sliced: bool = False,
        rngs,
        dtype,
    ):
        own: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        also: dict[str, Any] = {"conv_general_dilated": by_slices} if sliced else {}
        self.first = nnx.Conv(1, width, (5, 5), strides=2, **own, **also)
        self.second = nnx.Conv(width, 2 * width, (3, 3), strides=2, **own, **also)
        flat = 2 * width * (-(-math.isqrt(size) // 4)) ** 2
        self.hidden = nnx.Linear(flat, 8 * width, **own)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(8 * width, num_classes, **own)

    def __call__(self, x):
        """Logits [n, C] of square grey images [n, D]."""
        x = images(x)
        x = nnx.relu(self.second(nnx.relu(self.first(x))))
        x = nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))
        return self.head(self.dropout(x))


class Residual(nnx.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, width: int, *, rngs, dtype):
        own = {"dtype": dtype, "rngs": rngs}
        self.convolutions = nnx.List(
            [nnx.Conv(width, width, (3, 3), use_bias=False, **own) for _ in range(2)]
        )
        self.norms = nnx.List([nnx.BatchNorm(width, **own) for _ in range(2)])

    def __call__(self, x):
        """Of the same shape, [n, side, side, width]."""
        y = nnx.relu(self.norms[0](self.convolutions[0](x)))
        return nnx.relu(x + self.norms[1](self.convolutions[1](y)))


class ResNet(nnx.Module):
    """A small residual network with batch normalisation."""

    def __init__(self, size: int, num_classes: int, *, width: int = 8, rngs, dtype):
        del size
        own = {"dtype": dtype, "rngs": rngs}
        self.stem = nnx.Conv(1, width, (3, 3), strides=2, use_bias=False, **own)
        self.norm = nnx.BatchNorm(width, **own)
        self.blocks = nnx.List([Residual(width, **own) for _ in range(2)])
        self.head = nnx.Linear(width, num_classes, **own)

    def __call__(self, x):
        """Logits [n, C] of square grey images [n, D]."""
        x = nnx.relu(self.norm(self.stem(images(x))))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


class Block(nnx.Module):
    """Causal attention and a perceptron, each behind a layer norm."""

    def __init__(self, width: int, *, rngs, dtype):
        own = {"dtype": dtype, "rngs": rngs}
        self.norms = nnx.List([nnx.LayerNorm(width, **own) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, **own)
        self.expand = nnx.Linear(width, 4 * width, **own)
        self.contract = nnx.Linear(4 * width, width, **own)

    def __call__(self, x):
        """Of the same shape, [n, T, width]."""
        mask = nnx.make_causal_mask(x[..., 0])
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.contract(nnx.gelu(self.expand(self.norms[1](x))))


class Transformer(nnx.Module):
    """A decoder of characters."""

    def __init__(self, size: int, num_classes: int, *, width: int = 32, rngs, dtype):
        own = {"dtype": dtype, "rngs": rngs}
        self.characters = nnx.Embed(num_classes, width, **own)
        self.places = nnx.Embed(size, width, **own)
        self.blocks = nnx.List([Block(width, **own) for _ in range(2)])
        self.norm = nnx.LayerNorm(width, **own)
        self.head = nnx.Linear(width, num_classes, **own)

    def __call__(self, x):
        """Logits [n, T, C] of each next character, of codes int [n, T]."""
        x = self.characters(x) + self.places(jnp.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def by_slices(x, kernel, window_strides, padding, **options) -> jax.Array:
    """A strided convolution [n, H, W, C] as a product of its slices with the kernel.

    XLA's CPU backend takes the gradients of single samples by a convolution in as many
    groups, which takes several times as long. Padding is "SAME".
    """
    del options
    if padding != "SAME":
        raise ValueError(f"padding is {padding!r}, expected 'SAME'.")
    sizes, (n, *sides, _) = kernel.shape[:2], x.shape
    out = [
        -(-side // stride) for side, stride in zip(sides, window_strides, strict=True)
    ]
    around = []
    for side, size, stride, number in zip(
        sides, sizes, window_strides, out, strict=True
    ):
        missing = max((number - 1) * stride + size - side, 0)
        around.append((missing // 2, missing - missing // 2))
    x = jnp.pad(x, ((0, 0), *around, (0, 0)))
    (down, right), (rows, columns) = window_strides, out
    cut = [
        x[
            :,
            i : i + (rows - 1) * down + 1 : down,
            j : j + (columns - 1) * right + 1 : right,
        ]
        for i in range(sizes[0])
        for j in range(sizes[1])
    ]
    patches = jnp.concatenate(cut, axis=-1).reshape(n * rows * columns, -1)
    made = patches @ kernel.reshape(-1, kernel.shape[-1])
    return made.reshape(n, rows, columns, -1)


def multinomial(size: int, num_classes: int, *, rngs, dtype) -> nnx.Linear:
    """Multinomial regression."""
    return nnx.Linear(size, num_classes, dtype=dtype, rngs=rngs)


MODELS = {
    "multinomial": multinomial,
    "mlp": MLP,
    "lenet": LeNet,
    "resnet": ResNet,
    "transformer": Transformer,
}


def make(name: str, size: int, num_classes: int, seed: int = 0, dtype=None):
    """A model by name.

    Args:
      name: of MODELS.
      size: of a sample's features: pixels, or characters.
      num_classes: of labels, or characters that there are.
      seed: of the initial parameters.
      dtype: that it computes in; by default its parameters' and features'.
    """
    return MODELS[name](size, num_classes, rngs=nnx.Rngs(seed), dtype=dtype)


def images(x) -> jax.Array:
    """[n, side, side, 1] of [n, D]."""
    side = math.isqrt(x.shape[-1])
    return x.reshape(-1, side, side, 1)
