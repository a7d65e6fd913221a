"""The networks of the figures: flax models by name, each of its data's sizes."""

import math

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
    takes several times as long on a CPU.
    """

    def __init__(self, size: int, num_classes: int, *, width: int = 8, rngs, dtype):
        own = {"dtype": dtype, "rngs": rngs}
        self.first = nnx.Conv(1, width, (5, 5), strides=2, **own)
        self.second = nnx.Conv(width, 2 * width, (3, 3), strides=2, **own)
        flat = 2 * width * (-(-math.isqrt(size) // 4)) ** 2
        self.hidden = nnx.Linear(flat, 8 * width, **own)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
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
