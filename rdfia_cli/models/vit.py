"""A Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) whose axes move by einops.

Pre-norm blocks, GELU, learned class token. The shapes: B images, T tokens (the class token, where
there is one, and one token a patch), D the width of a token, H heads.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import pack, rearrange, repeat
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError, UsageError
from rdfia_cli.models.attention import attend, attention_probabilities
from rdfia_cli.models.patches import refuse_patch
from rdfia_cli.models.weights import Weights, load_strictly, read_weights, tell
from rdfia_cli.spec import Count, Fraction, InputSpec, PixelStatistics, Positive

NORM_EPSILON = 1e-6
"""As in the paper's code and in timm; torch's own default is 1e-5."""
HALF = PixelStatistics((0.5,), (0.5,))
"""How the input of timm's Vision Transformers is normalised, where a file does not say."""
SPREAD = 0.02
"""Standard deviation of what first makes and reads the tokens, as in BERT and in timm."""


def vit(
    input: InputSpec = InputSpec((1, 28, 28), 10),
    *,
    dim: Count = 32,
    depth: Count = 2,
    heads: Count = 4,
    patch: Count = 7,
    mlp_ratio: Positive = 4.0,
    position: Literal["learned", "sinusoidal", "none"] = "learned",
    pooling: Literal["token", "mean"] = "token",
    dropout: Fraction = 0.0,
    stochastic_depth: Fraction = 0.0,
    weights: Path | None = None,
) -> nn.Module:
    """Vision Transformer with einops; weights=FILE takes timm's.

    With its defaults on MNIST: 27,978 parameters, 27,434 with sinusoidal positions.

    Args:
        input: images of any channels and size that the patch divides.
        dim: the width of a token.
        depth: blocks.
        heads: of attention; they divide `dim`.
        patch: the side of a patch in pixels.
        mlp_ratio: the width of a block's hidden layer over `dim`.
        position: what tells tokens apart: a learned vector each, fixed sines, or nothing.
        pooling: what the head reads: the class token, or the mean of the patches' tokens; then
            there is no class token.
        dropout: the share of the values dropped in the embedding, after attention and in the MLP.
        stochastic_depth: the share of the examples for which the last block is left out in
            training; it grows linearly from 0 (Huang et al. 2016, arXiv:1603.09382).
        weights: a safetensors file in timm's naming or in our own; another image size resamples
            the positions, another number of classes starts a fresh head.

    Raises:
        ComponentError: the patch does not divide the image, or the weights do not fit.
        UsageError: the heads do not divide the width.
    """
    _, height, width = input.image("vit")
    if height % patch or width % patch:
        refuse_patch("vit", (patch, patch), (height, width), keyword="patch")
    if dim % heads:
        divisors = [n for n in range(1, dim + 1) if dim % n == 0]
        nearest = min(divisors, key=lambda n: abs(n - heads))
        raise UsageError(
            f"vit: {heads} heads do not divide dim={dim}",
            f"write heads={nearest}, or dim={math.ceil(dim / heads) * heads}",
        )
    model = VisionTransformer(
        input,
        dim=dim,
        depth=depth,
        heads=heads,
        patch=patch,
        mlp_ratio=mlp_ratio,
        position=position,
        pooling=pooling,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
    )
    return model if weights is None else _start_from(model, read_weights(weights), input)


class VisionTransformer(nn.Module):
    """The model that `vit` builds.

    Attributes:
        grid: patches a column and a row.
        prefix: tokens before those of the patches: 1 with a class token, else 0.
    """

    position_embedding: Tensor | None

    def __init__(
        self,
        input: InputSpec,
        *,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        mlp_ratio: float = 4.0,
        position: str = "learned",
        pooling: str = "token",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, width = input.shape
        self.patch = patch
        self.grid = (height // patch, width // patch)
        self.prefix = 1 if pooling == "token" else 0
        self.patch_embedding = nn.Linear(channels * patch**2, dim)
        self.class_token = nn.Parameter(torch.empty(1, 1, dim)) if self.prefix else None
        self._set_position(position, dim)
        self.dropout = nn.Dropout(dropout)
        rates = torch.linspace(0, stochastic_depth, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, dropout, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, NORM_EPSILON)
        self.head = nn.Linear(dim, input.classes)
        self._initialise(dim)

    def _initialise(self, dim: int) -> None:
        """Everything from a narrow normal draw but the weights of the blocks; biases 0.

        Those are as wide as PyTorch draws layers of that width: at ViT-Base's 768 that is SPREAD
        too, but at 32 SPREAD is too little for attention to begin. What enters the blocks stays
        narrow, so that the positions are not lost beside the patches.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                spread = (3 * dim) ** -0.5 if name.startswith("blocks.") else SPREAD
                nn.init.trunc_normal_(module.weight, std=spread)
                nn.init.zeros_(module.bias)
        for parameter in (self.class_token, self.position_embedding):
            if isinstance(parameter, nn.Parameter):
                nn.init.trunc_normal_(parameter, std=SPREAD)

    def _set_position(self, kind: str, dim: int) -> None:
        tokens = math.prod(self.grid) + self.prefix
        if kind == "sinusoidal":
            fixed = sinusoids(tokens, dim)
            self.register_buffer("position_embedding", fixed, persistent=False)
        else:
            learned = nn.Parameter(torch.empty(1, tokens, dim)) if kind == "learned" else None
            self.register_parameter("position_embedding", learned)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, height, width).

        The head reads the class token alone, so that the last block computes nothing else.
        """
        tokens = self.embed(images)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        return self.read(self.blocks[-1](tokens, self.prefix or None))

    def embed(self, images: Tensor) -> Tensor:
        """The tokens (B, T, D) of images (B, C, height, width) before the first block."""
        patches = rearrange(
            images, "b c (y p) (x q) -> b (y x) (c p q)", p=self.patch, q=self.patch
        )
        tokens = self.patch_embedding(patches)
        if self.class_token is not None:
            first = repeat(self.class_token, "1 1 d -> b 1 d", b=len(images))
            tokens, _ = pack([first.to(tokens.dtype), tokens], "b * d")
        if self.position_embedding is not None:
            tokens = tokens + self.position_embedding
        return self.dropout(tokens)

    def read(self, tokens: Tensor) -> Tensor:
        """The logits (B, classes) of the last block's tokens (B, T, D)."""
        pooled = tokens[:, 0] if self.prefix else tokens.mean(1)
        return self.head(self.norm(pooled))

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """Who looks at whom: (depth, B, H, T, T), each row sums to 1, for images (B, C, h, w)."""
        tokens, found = self.embed(images), []
        for block in self.blocks:
            assert isinstance(block, Block)
            found.append(block.attention.probabilities(block.norm1(tokens)))
            tokens = block(tokens)
        return torch.stack(found)


class Block(nn.Module):
    """`x += attention(norm(x)); x += mlp(norm(x))`, each left out for some examples in training.

    Args:
        skipped: the share of the examples that a branch is left out for.
    """

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float, dropout: float, skipped: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, NORM_EPSILON)
        self.attention = Attention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim, NORM_EPSILON)
        self.mlp = mlp(dim, round(dim * mlp_ratio), dropout)
        self.skipped = skipped

    def forward(self, tokens: Tensor, wanted: int | None = None) -> Tensor:
        """The first `wanted` tokens, or all, as each sees all of `tokens` (B, T, D)."""
        attended = self.attention(self.norm1(tokens), wanted)
        tokens = self._add(tokens[:, :wanted], attended)
        return self._add(tokens, self.mlp(self.norm2(tokens)))

    def _add(self, tokens: Tensor, branch: Tensor) -> Tensor:
        # On a CPU two types are added at a fifth of the speed of one.
        branch = branch.to(tokens.dtype)
        if self.skipped and self.training:
            kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.skipped
            branch = branch * (kept / (1 - self.skipped))
        return tokens + branch


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, wanted: int | None = None) -> Tensor:
        """The first `wanted` tokens, or all, after a look at all of `tokens` (B, T, D)."""
        queries, keys, values = self._split(tokens)
        found = attend(queries[:, :, :wanted], keys, values)
        return self.dropout(self.output(rearrange(found, "b h t d -> b t (h d)")))

    def probabilities(self, tokens: Tensor) -> Tensor:
        """How much each token looks at each other: (B, H, T, T) for tokens (B, T, D)."""
        queries, keys, _ = self._split(tokens)
        return attention_probabilities(queries, keys)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, T, D / H) each."""
        parts = rearrange(self.qkv(tokens), "b t (n h d) -> n b h t d", n=3, h=self.heads)
        queries, keys, values = parts
        return queries, keys, values


def mlp(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """Linear, GELU, linear, on the last axis."""
    return nn.Sequential(
        OrderedDict(
            hidden=nn.Linear(dim, hidden),
            activation=nn.GELU(),
            dropout1=nn.Dropout(dropout),
            output=nn.Linear(hidden, dim),
            dropout2=nn.Dropout(dropout),
        )
    )


def sinusoids(tokens: int, dim: int) -> Tensor:
    """Fixed positions (1, tokens, dim): sines and cosines in turn (Vaswani et al. 2017, 3.5)."""
    channels = torch.arange(dim)
    wavelengths = 10_000 ** ((channels - channels % 2) / dim)
    angles = torch.arange(tokens)[:, None] / wavelengths
    return torch.where(channels % 2 == 0, angles.sin(), angles.cos())[None]


TIMM_NAMES: Mapping[str, str] = {
    "patch_embed.proj.": "patch_embedding.",
    "cls_token": "class_token",
    "pos_embed": "position_embedding",
    ".attn.qkv.": ".attention.qkv.",
    ".attn.proj.": ".attention.output.",
    ".mlp.fc1.": ".mlp.hidden.",
    ".mlp.fc2.": ".mlp.output.",
    "fc_norm.": "norm.",
}
"""timm's names for the parts of a `VisionTransformer`, and ours."""


def load_timm_weights(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Fill a model that `vit` built with the weights of a timm `VisionTransformer`.

    Afterwards both give the same logits, to rounding. The dim, depth, heads, patch and classes must
    be timm's; heads leave no trace in the weights, so that a wrong number is not noticed. timm's
    `global_pool="avg"` without a class token is our `pooling="mean"`.

    Args:
        model: from `vit`.
        state_dict: timm's, by timm's names. Positions of another number of patches are resampled
            as of a square image; those of as many are taken as they stand, as timm does.

    Raises:
        ComponentError: a tensor is missing, left over, or of another shape; it is named.
    """
    if not isinstance(model, VisionTransformer):
        raise ComponentError(
            f"{type(model).__name__} is no VisionTransformer of rdfia", "use vit()"
        )
    _fill(model, _from_timm(state_dict), "the weights")


def _from_timm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by our names; timm's patch convolution becomes the linear map that it is."""
    found: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        for theirs, ours in TIMM_NAMES.items():
            name = name.replace(theirs, ours)
        found[name] = tensor
    kernel = found.get("patch_embedding.weight")
    if kernel is not None and kernel.ndim == 4:
        found["patch_embedding.weight"] = rearrange(kernel, "d c p q -> d (c p q)")
    return found


def _start_from(model: VisionTransformer, found: Weights, input: InputSpec) -> nn.Module:
    """Fill a model from a file; a head for other classes stays as it starts."""
    tensors = dict(found.tensors)
    if "patch_embed.proj.weight" in tensors:
        tensors = _from_timm(tensors)
    own = model.state_dict()
    if found.rows("head") != input.classes:
        tensors.update({name: own[name] for name in own if name.startswith("head.")})
    _fill(model, tensors, f"weights file '{found.path}'")
    tell(model, pixel_statistics=found.statistics or HALF)
    return model


def _fill(model: VisionTransformer, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights under our names, their positions brought to the model's grid."""
    positions, own = tensors.get("position_embedding"), model.position_embedding
    if positions is not None and own is not None and positions.shape[1] != own.shape[1]:
        tensors["position_embedding"] = resample_positions(positions, model.grid, model.prefix)
    load_strictly(model, tensors, source)


def resample_positions(positions: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """Bring learned positions (1, prefix + G * G, D) of a square grid to another grid.

    Bicubic with antialiasing, in float32, as timm does; the prefix stays as it is.
    """
    side = math.isqrt(positions.shape[1] - prefix)
    if side**2 != positions.shape[1] - prefix:
        return positions
    square = rearrange(positions[:, prefix:], "1 (y x) d -> 1 d y x", y=side).float()
    resized = F.interpolate(square, grid, mode="bicubic", antialias=True)
    tokens = rearrange(resized, "1 d y x -> 1 (y x) d").to(positions.dtype)
    return torch.cat([positions[:, :prefix], tokens], 1)
