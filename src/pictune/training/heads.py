"""Many heads at once: linear heads with different settings, trained as one computation over cached features.

Shapes: h heads, n images a batch, d features an image, k classes.

Three things make it cheap. Heads of one dropout rate are a block: they see the same features, so one product
of matrices serves them all. Heads of one `Loss` object are a group: one call computes them, on logits
[n, k, h] with the heads innermost, so that all a loss does runs along rows of heads, not of a few classes.

And all weights move in one fused pass over one vector. AdamW has one rate a call and the heads have one each,
so a head's weights are kept divided by its highest rate: w = rate * u, and u moves by the schedule's factor
alone, which all heads share. Decay multiplies, so it is the same for w and for u.

Rounding must not depend on the company. Where a head knows its pictures by heart, gradients are little but
rounding errors, and AdamW makes full steps of them: test accuracies were seen to drift apart by 4 %. What is
narrower than a vector register, or left over beside the last full one, is computed in another way than all
else. So everything is filled up to whole registers, and sums over images are products of matrices, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.adamw import adamw

from pictune.errors import StoppedError
from pictune.models.losses import Loss
from pictune.training.schedules import Schedule

Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]

EPSILON = 1e-8  # that of torch.optim.AdamW
NORM_EPSILON = 1e-6  # that of torch.nn.utils.clip_grad_norm_
DRAWS = 1 << 16  # dropout compares whole numbers of 16 bits: drawn five times as fast as floats
LANES = 16  # float32 numbers in the widest vector register of a CPU


@dataclass(frozen=True, slots=True, eq=False)
class HeadSetting:
    """What one head is trained with.

    Args:
        learning_rate: Highest rate, above 0.
        weight_decay: Decoupled, of the weight only, 0 or more.
        loss: What is made small. Heads that share one object are computed in one call, so make each once.
        dropout: Share of the features set to zero while training, 0 up to 1.
        class_weights: [k] how much each class counts in the loss, or None. Share one tensor here, too.
    """

    learning_rate: float
    weight_decay: float
    loss: Loss
    dropout: float = 0.0
    class_weights: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TrainedHeads:
    """Heads in the order of their settings.

    Args:
        weight: [h, k, d] float32.
        bias: [h, k] float32.
        losses: [h, epochs] mean training loss of each epoch; not finite from where a head diverged.
    """

    weight: Tensor
    bias: Tensor
    losses: Tensor

    @property
    def finite(self) -> Tensor:
        """[h] whether a head stayed finite; the outputs of one that did not mean nothing: leave it out."""
        return self.losses.isfinite().all(dim=1)

    def outputs(self, features: Tensor) -> Tensor:
        """What every head says of every image.

        Args:
            features: [n, d], any floating type.

        Returns:
            [h, n, k] float32; NaN for heads that diverged.
        """
        heads, classes, width = self.weight.shape
        features = features.to(self.weight)
        flat = torch.addmm(self.bias.flatten(), features, self.weight.view(heads * classes, width).t())
        return flat.view(len(features), heads, classes).transpose(0, 1)


def train_heads(
    settings: Sequence[HeadSetting],
    *,
    weight: Tensor,
    bias: Tensor,
    batches: Batches,
    epochs: int,
    steps: int,
    schedule: Schedule,
    stop: Callable[[], int],
    clip: float = 0.0,
    seed: int = 0,
    betas: tuple[float, float] = (0.9, 0.999),
) -> TrainedHeads:
    """Trains one head a setting; each comes out as it would alone.

    On one CPU thread its weights were the same bit for bit wherever we looked; elsewhere up to rounding.

    A head learns as `fit` teaches a last layer with `torch.optim.AdamW`, without averaged weights and without
    accumulation: the rate follows the schedule batch by batch, each head's gradient is clipped by its own
    norm, its bias does not decay. Dropout is drawn by (seed, epoch, batch), the same for all heads. Computed
    in float32 on the device of ``weight``, with 16 bytes a weight of every head.

    A head whose loss stops being finite keeps this to itself: its losses say so from there on, its weights
    become NaN, and the others notice nothing.

    Args:
        settings: One a head, at least one.
        weight: [k, d] where all heads start.
        bias: [k] likewise.
        batches: Gives the batches of an epoch: features [n, d] (float32, float16 or bfloat16) and targets
            [n, k] from 0 to 1.
        epochs: How many, at least 1.
        steps: Batches an epoch, at least 1.
        schedule: Share of the highest rate at each moment. It is given no validation scores, so `plateau`
            keeps the rate constant.
        stop: Gives the signal that asks to stop, or 0; asked after every epoch.
        clip: Largest norm of a head's gradient; 0 for none.
        seed: Where dropout starts, 0 or more.
        betas: Memory of AdamW's running means.

    Returns:
        The heads after the last epoch.

    Raises:
        StoppedError: When a signal came; the heads are lost.
    """
    assert settings, "there is at least one head"
    assert weight.shape[:1] == bias.shape, f"weight {tuple(weight.shape)}, bias {tuple(bias.shape)}"
    heads = _Heads(settings, weight=weight, bias=bias, clip=clip, betas=betas)
    losses = []
    for epoch in range(epochs):
        number = int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0])
        generator = torch.Generator(weight.device).manual_seed(number)
        total, count = torch.zeros((), device=weight.device), 0
        for count, (features, targets) in enumerate(batches(epoch), start=1):
            factor = schedule(epoch + (count - 1) / steps, epochs, ())
            total = total + heads.step(features, targets, factor=factor, generator=generator)
        assert count == steps, f"an epoch has {steps} batches, found {count}"
        losses.append(heads.sorted_losses(total) / steps)
        if signal := stop():
            raise StoppedError(
                f"Stopped after epoch {epoch + 1} of {epochs} of {len(settings)} heads that learn together; "
                "they are not kept. The same command begins with them again.",
                signal=signal,
            )
    return heads.finished(torch.stack(losses, dim=1))


class _Group:
    """Heads of one loss: one call computes them all.

    Args:
        settings: Those of its heads.
        columns: [k * h] where its logits are among those of all heads, in the order [k, h].
        places: [h] its heads' numbers among all settings.
        classes: k.
    """

    def __init__(
        self, settings: Sequence[HeadSetting], *, columns: Tensor, places: Tensor, classes: int
    ) -> None:
        self.loss = settings[0].loss
        self.columns, self.places = columns, places
        self.shape = classes, len(settings)
        self.layered = _takes_layers(self.loss, classes)
        ones = torch.ones(classes, device=columns.device)
        given = [ones if s.class_weights is None else s.class_weights for s in settings]
        distinct = {id(weights): weights.to(ones) for weights in given}
        self.weights = list(distinct.values())
        numbers = {key: number for number, key in enumerate(distinct)}
        self.chosen = torch.tensor([numbers[id(weights)] for weights in given], device=columns.device)
        self.factors = torch.stack(self.weights, dim=1)[:, self.chosen]  # [k, h]
        self.weighted = any(s.class_weights is not None for s in settings)

    def leaf(self, logits: Tensor) -> Tensor:
        """Its own logits [n, k, h] from those of all heads [n, h * k]: copied, to differentiate by."""
        return logits.index_select(1, self.columns).view(-1, *self.shape).requires_grad_()

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """[h] what `Loss` says of every head, from logits [n, k, h] and targets [n, k]."""
        terms = self.terms(logits, targets)
        if self.weighted:
            terms = terms * self.factors
        found = [self.loss.divisor(targets, weights) for weights in self.weights]
        divisors = found[0] if len(found) == 1 else torch.stack(found)[self.chosen]
        return terms.sum(dim=(0, 1)) / divisors.clamp_min(torch.finfo(logits.dtype).tiny)

    def terms(self, logits: Tensor, targets: Tensor) -> Tensor:
        """[n, k, h] the loss's terms of every head."""
        images, classes, heads = logits.shape
        if self.layered:
            return self.loss.terms(logits, targets.unsqueeze(2))
        rows = logits.permute(2, 0, 1).reshape(heads * images, classes)
        terms = self.loss.terms(rows, targets.repeat(heads, 1))
        return terms.view(heads, images, classes).permute(1, 2, 0)


def _takes_layers(loss: Loss, classes: int) -> bool:
    """Whether a loss's terms, made for [n, k], are right for [n, k, h], too.

    They are where the classes are counted as dimension 1, and then ten times as fast as with one row an image
    and head. A loss from elsewhere may count from the end, so it is tried rather than trusted.
    """
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, classes + 1, generator=draw)
    targets = torch.rand(2, classes, generator=draw)
    expected = torch.stack([loss.terms(layer, targets) for layer in logits.unbind(2)], dim=2)
    try:
        found = loss.terms(logits, targets.unsqueeze(2))
    except (RuntimeError, IndexError, ValueError):
        return False
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def _layer(features: Tensor, weight: Tensor, bias: Tensor, *, out: Tensor) -> None:
    """What a linear layer does, rounded alike for any number of outputs."""
    outputs = len(bias)
    if outputs >= LANES:
        torch.addmm(bias, features, weight.t(), out=out)
        return
    missing = LANES - outputs
    filled = torch.addmm(F.pad(bias, (0, missing)), features, F.pad(weight, (0, 0, 0, missing)).t())
    out.copy_(filled[:, :outputs])


def _layer_slope(features: Tensor, slopes: Tensor, *, out: Tensor) -> None:
    """The gradient [o, d] of a linear layer's weight from that of its outputs [n, o], rounded alike."""
    outputs = slopes.shape[1]
    if outputs >= LANES:
        torch.mm(slopes.t(), features, out=out)
        return
    out.copy_(torch.mm(F.pad(slopes, (0, LANES - outputs)).t(), features)[:outputs])


class _Heads:
    """The moving parts. Inside, heads stand in the order of their dropout rates."""

    def __init__(
        self,
        settings: Sequence[HeadSetting],
        *,
        weight: Tensor,
        bias: Tensor,
        clip: float,
        betas: tuple[float, float],
    ) -> None:
        self.clip, self.betas = clip, betas
        heads, (classes, width) = len(settings), weight.shape
        self.order = sorted(range(heads), key=lambda i: settings[i].dropout)
        own = [settings[i] for i in self.order]
        rates = weight.new_tensor([s.learning_rate for s in own], dtype=torch.float32)
        self.decays = rates * rates.new_tensor([s.weight_decay for s in own])
        self.decaying = any(s.weight_decay > 0 for s in own)
        self.rates = rates.repeat_interleave(classes)  # [h * k]
        size = heads * classes * (width + 1)
        self.moving, self.slope, self.mean, self.square = (
            rates.new_zeros(math.ceil(size / LANES) * LANES) for _ in range(4)
        )
        self.counted = rates.new_zeros(())  # steps done, as AdamW wants them
        weights = heads * classes * width
        self.weight, self.bias = self.moving[:weights].view(-1, width), self.moving[weights:size]
        self.weight_slope, self.bias_slope = self.slope[:weights].view(-1, width), self.slope[weights:size]
        self.weight.copy_(weight.detach().repeat(heads, 1) / self.rates[:, None])
        self.bias.copy_(bias.detach().repeat(heads) / self.rates)
        self.blocks: list[tuple[float, slice]] = []  # dropout, and which rows [h * k]
        for dropout, members in groupby(own, key=lambda s: s.dropout):
            begin = self.blocks[-1][1].stop if self.blocks else 0
            self.blocks.append((dropout, slice(begin, begin + classes * len(list(members)))))
        self.groups = self._groups(own, classes)
        columns = torch.cat([group.columns for group in self.groups])
        self.back = torch.empty_like(columns[: len(self.rates)])  # where each column went
        self.back[columns] = torch.arange(len(columns), device=columns.device)

    def _groups(self, own: Sequence[HeadSetting], classes: int) -> list[_Group]:
        members: dict[int, list[int]] = {}
        for number, setting in enumerate(own):
            members.setdefault(id(setting.loss), []).append(number)
        order = torch.tensor(self.order, device=self.moving.device)
        groups = []
        for numbers in members.values():
            numbers += numbers[-1:] * (-len(numbers) % LANES)  # its last head stands there several times
            inside = torch.tensor(numbers, device=order.device)
            columns = (torch.arange(classes, device=order.device)[:, None] + inside * classes).flatten()
            groups.append(
                _Group([own[n] for n in numbers], columns=columns, places=order[inside], classes=classes)
            )
        return groups

    def step(self, features: Tensor, targets: Tensor, *, factor: float, generator: torch.Generator) -> Tensor:
        """Moves all heads by one batch; returns their losses before it, for `sorted_losses`."""
        features, targets = features.to(self.moving), targets.to(self.moving)
        seen = self._seen(features, generator)
        logits = features.new_empty(len(features), len(self.bias))
        for (_, rows), x in zip(self.blocks, seen, strict=True):
            _layer(x, self.weight[rows], self.bias[rows], out=logits[:, rows])
        losses, slopes = self._differentiate(logits.mul_(self.rates), targets)
        for (_, rows), x in zip(self.blocks, seen, strict=True):
            _layer_slope(x, slopes[:, rows], out=self.weight_slope[rows])
        summed = slopes.new_empty(slopes.shape[1], LANES)
        _layer_slope(slopes.new_ones(len(slopes), LANES), slopes, out=summed)
        self.bias_slope.copy_(summed[:, 0])
        if self.clip:
            self._clip()
        if self.decaying:
            self.weight.view(len(self.decays), -1).mul_((1 - factor * self.decays)[:, None])
        adamw(
            [self.moving],
            [self.slope],
            [self.mean],
            [self.square],
            [],
            [self.counted],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=factor,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )
        return losses

    def _seen(self, features: Tensor, generator: torch.Generator) -> list[Tensor]:
        """[n, d] the features as each block sees them: some set to zero, the others made up for it."""
        if self.blocks[-1][0] == 0:  # the largest rate is last
            return [features]
        quadruples = torch.empty(math.ceil(features.numel() / 4), dtype=torch.int64, device=features.device)
        quadruples.random_(-(2**63), None, generator=generator)
        draws = quadruples.view(torch.int16)[: features.numel()].view(features.shape)
        seen = []
        for dropout, _ in self.blocks:
            lowest = min(round(dropout * DRAWS), DRAWS - 1) - DRAWS // 2
            kept = torch.mul(features, draws >= lowest).mul_(1 / (1 - dropout)) if dropout else features
            seen.append(kept)
        return seen

    def _differentiate(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The groups' losses, and their gradient by the logits [n, h * k]; by autograd: any loss will do."""
        with torch.enable_grad():
            leaves = [group.leaf(logits) for group in self.groups]
            values = [group.losses(leaf, targets) for group, leaf in zip(self.groups, leaves, strict=True)]
        slopes = torch.autograd.grad(values, leaves, [torch.ones_like(value) for value in values])
        losses = torch.cat([value.detach() for value in values])
        return losses, torch.cat([slope.flatten(1) for slope in slopes], dim=1).index_select(1, self.back)

    def sorted_losses(self, found: Tensor) -> Tensor:
        """[h] in the order of the settings, from what `step` gives."""
        losses = torch.empty_like(self.decays)
        losses[torch.cat([group.places for group in self.groups])] = found
        return losses

    def _clip(self) -> None:
        """Shortens each head's gradient to the largest norm that is allowed."""
        parts = (torch.linalg.vector_norm(self.weight_slope, dim=1), self.bias_slope)
        norms = torch.linalg.vector_norm(torch.cat([p.view(len(self.decays), -1) for p in parts], 1), dim=1)
        shares = self.clip / (norms + NORM_EPSILON)
        # On the CPU it is cheap to ask whether any head is over its limit, and seldom one is.
        if shares.device.type != "cpu" or bool((shares < 1).any()):
            shares.clamp_max_(1)
            self.weight_slope.view(len(shares), -1).mul_(shares[:, None])
            self.bias_slope.view(len(shares), -1).mul_(shares[:, None])

    def finished(self, losses: Tensor) -> TrainedHeads:
        """The heads in the order of the settings; what is not finite becomes NaN, and its last loss too."""
        back = torch.tensor(self.order, device=losses.device).argsort()
        heads, width = len(back), self.weight.shape[1]
        weight = (self.weight * self.rates[:, None]).view(heads, -1, width)[back]
        bias = (self.bias * self.rates).view(heads, -1)[back]
        lost = ~(losses.isfinite().all(1) & weight.isfinite().all(2).all(1) & bias.isfinite().all(1))
        weight[lost], bias[lost], losses[lost, -1] = math.nan, math.nan, math.nan
        return TrainedHeads(weight, bias, losses)
