"""Many heads at once: each must come out as a plain PyTorch loop would train it, and as it does alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pictune.errors import StoppedError
from pictune.models.losses import LOSSES, Loss
from pictune.training.heads import HeadSetting, TrainedHeads, train_heads
from pictune.training.schedules import SCHEDULES

IMAGES, WIDTH, CLASSES, BATCH, STEPS, EPOCHS = 60, 12, 4, 15, 4, 3
ENTROPY, SMOOTHED, FOCAL = (
    LOSSES[name].make(**given)
    for name, given in (("cross_entropy", {}), ("cross_entropy", {"label_smoothing": 0.1}), ("focal", {}))
)
WEIGHTS = torch.tensor([0.4, 2.0, 1.0, 0.6])
SETTINGS = (
    HeadSetting(3e-2, 0.1, FOCAL, dropout=0.5),
    HeadSetting(1e-1, 0.0, ENTROPY),
    HeadSetting(1e-3, 0.5, SMOOTHED, dropout=0.2, class_weights=WEIGHTS),
    HeadSetting(2e-2, 1.0, ENTROPY, dropout=0.2),
    HeadSetting(5e-3, 1e-3, FOCAL, class_weights=WEIGHTS),
    HeadSetting(3e-2, 0.3, SMOOTHED, class_weights=WEIGHTS.flip(0)),
)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(IMAGES) % CLASSES
FEATURES = (2 * draw(CLASSES, WIDTH, seed=1)[LABELS] + 2 * draw(IMAGES, WIDTH, seed=2)).relu()
TARGETS = F.one_hot(LABELS, CLASSES).float()
START, START_BIAS = 0.1 * draw(CLASSES, WIDTH, seed=3), 0.1 * draw(CLASSES, seed=4)


def batches(epoch: int):
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(epoch))
    for rows in order.split(BATCH):
        yield FEATURES[rows], TARGETS[rows]


def trained(settings, **changes: Any) -> TrainedHeads:
    given = {
        "weight": START,
        "bias": START_BIAS,
        "batches": batches,
        "epochs": EPOCHS,
        "steps": STEPS,
        "schedule": SCHEDULES["cosine"].make(),
        "stop": lambda: 0,
    }
    return train_heads(settings, **{**given, **changes})


def plain(setting: HeadSetting, *, clip: float, given=batches) -> tuple[nn.Linear, list[float]]:
    """What everybody would write: nn.Linear, AdamW, a loss, a clipped norm."""
    head, schedule = nn.Linear(WIDTH, CLASSES), SCHEDULES["cosine"].make()
    head.load_state_dict({"weight": START, "bias": START_BIAS})
    groups = [
        {"params": [head.weight], "weight_decay": setting.weight_decay},
        {"params": [head.bias], "weight_decay": 0.0},
    ]
    optimizer, losses = torch.optim.AdamW(groups, lr=setting.learning_rate), []
    for epoch in range(EPOCHS):
        losses.append(0.0)
        for number, (features, targets) in enumerate(given(epoch)):
            for group in optimizer.param_groups:
                group["lr"] = setting.learning_rate * schedule(epoch + number / STEPS, EPOCHS, [])
            loss = setting.loss(head(features), targets, class_weights=setting.class_weights)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), clip or math.inf)
            optimizer.step()
            losses[-1] += float(loss.detach()) / STEPS
    return head, losses


def assert_same(heads: TrainedHeads, number: int, head: nn.Linear, losses: list[float]) -> None:
    assert (head.weight - START).abs().max() > 1e-3, "the plain loop learnt nothing"
    torch.testing.assert_close(heads.weight[number], head.weight.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(heads.bias[number], head.bias.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(heads.losses[number], torch.tensor(losses), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_every_head_is_what_a_plain_loop_trains(clip):
    settings = [replace(setting, dropout=0.0) for setting in SETTINGS]
    heads = trained(settings, clip=clip)
    for number, setting in enumerate(settings):
        assert_same(heads, number, *plain(setting, clip=clip))


def test_clipping_shortens_only_the_gradients_over_the_limit():
    # Adam forgets a factor that all gradients share, but not one that only the long ones have.
    free, clipped = (trained(SETTINGS[1:2], clip=clip) for clip in (0.0, 0.3))
    assert (free.weight - clipped.weight).abs().max() > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_of_the_table_can_be_learnt_from(name):
    loss = LOSSES[name].make()
    settings = [HeadSetting(1e-2, 0.1, loss), HeadSetting(3e-2, 0.0, loss, class_weights=WEIGHTS)]
    heads = trained(settings)
    for number, setting in enumerate(settings):
        assert_same(heads, number, *plain(setting, clip=0.0))
    assert (heads.losses[:, -1] < heads.losses[:, 0]).all()


def test_a_loss_that_counts_classes_from_the_end_is_computed_row_by_row():
    def terms(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return -targets * F.log_softmax(logits, dim=-1)

    loss = Loss("exclusive", terms, lambda targets, weights: (weights * targets).sum())
    settings = [HeadSetting(1e-2, 0.1, loss), HeadSetting(3e-2, 0.0, loss, class_weights=WEIGHTS)]
    heads = trained(settings)
    for number, setting in enumerate(settings):
        assert_same(heads, number, *plain(setting, clip=0.0))


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_a_head_in_a_group_is_the_head_trained_alone(clip):
    together = trained(SETTINGS, clip=clip, seed=5)
    for number, setting in enumerate(SETTINGS):
        alone = trained([setting], clip=clip, seed=5)
        torch.testing.assert_close(together.weight[number], alone.weight[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.bias[number], alone.bias[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.losses[number], alone.losses[0], rtol=1e-5, atol=1e-6)


def one_step(dropouts: list[float]) -> torch.Tensor:
    """[h, d] which features were kept in one step on one image of ones: those whose weights moved."""
    one = F.one_hot(torch.tensor([1]), CLASSES).float()
    start = 0.01 * draw(CLASSES, 4000, seed=6)
    heads = train_heads(
        [HeadSetting(1e-2, 0.0, ENTROPY, dropout=dropout) for dropout in dropouts],
        weight=start,
        bias=torch.zeros(CLASSES),
        batches=lambda epoch: [(torch.ones(1, 4000), one)],
        epochs=1,
        steps=1,
        schedule=SCHEDULES["constant"].make(),
        stop=lambda: 0,
    )
    kept = (heads.weight - start).abs() > 1e-3
    assert (kept.all(1) | ~kept.any(1)).all(), "a dropped feature is dropped for all classes"
    for number, dropout in enumerate(dropouts):
        seen = kept[number].any(0).float() / (1 - dropout)
        expected = ENTROPY((start @ seen)[None], one)
        torch.testing.assert_close(heads.losses[number, 0], expected, rtol=1e-4, atol=1e-5)
    return kept.any(1)


def test_dropout_is_drawn_once_and_compared_with_every_heads_rate():
    kept = one_step([0.5, 0.0, 0.2, 0.5])
    assert kept.float().mean(1).tolist() == pytest.approx([0.5, 1.0, 0.8, 0.5], abs=0.03)
    assert torch.equal(kept[0], kept[3])
    assert (kept[2] | ~kept[0]).all(), "who drops less keeps all that who drops more keeps"


def kept_at(moment: float, *, epochs: int = 1, steps: int = 1, seed: int = 0) -> torch.Tensor:
    """[d] which features were kept in the one step, at ``moment``, in which the weights really move."""
    one = F.one_hot(torch.tensor([1]), CLASSES).float()
    heads = train_heads(
        [HeadSetting(1e-2, 0.0, ENTROPY, dropout=0.5)],
        weight=torch.zeros(CLASSES, 400),
        bias=torch.zeros(CLASSES),
        batches=lambda epoch: [(torch.ones(1, 400), one)] * steps,
        epochs=epochs,
        steps=steps,
        schedule=lambda done, epochs, scores: 1.0 if done == moment else 1e-6,
        stop=lambda: 0,
        seed=seed,
        betas=(0.0, 0.999),
    )
    return heads.weight[0, 0].abs() > 1e-4


def test_dropout_is_drawn_anew_for_every_seed_epoch_and_batch():
    assert torch.equal(kept_at(0), kept_at(0))
    drawn = [kept_at(0), kept_at(0, seed=1), kept_at(1, epochs=2), kept_at(0.5, steps=2)]
    alike = torch.stack(drawn).float()[:, None] == torch.stack(drawn).float()
    for first in range(4):
        for second in range(first):
            assert alike[first, second].float().mean() == pytest.approx(0.5, abs=0.1)


def test_class_weights_move_a_head_towards_the_heavy_class():
    heavy = torch.tensor([10.0, 0.1, 0.1, 0.1])
    settings = [HeadSetting(1e-2, 0.0, ENTROPY), HeadSetting(1e-2, 0.0, ENTROPY, class_weights=heavy)]
    even, uneven = trained(settings).outputs(FEATURES).softmax(2)[:, :, 0].mean(1)
    assert uneven > even + 0.1


def test_a_batch_of_weightless_classes_teaches_nothing():
    settings = [HeadSetting(1e-2, 0.0, ENTROPY, class_weights=torch.zeros(CLASSES)), SETTINGS[1]]
    heads = trained(settings)
    assert torch.equal(heads.losses[0], torch.zeros(EPOCHS))
    torch.testing.assert_close(heads.weight[0], START)
    assert heads.finite.all()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_head_that_diverges_leaves_the_others_as_they_are(dropout):
    broken = HeadSetting(1e38, 0.0, ENTROPY, dropout=dropout)
    heads = trained([*SETTINGS[:3], broken, *SETTINGS[3:]], clip=0.3)
    others = trained(SETTINGS, clip=0.3)
    assert heads.finite.tolist() == [True, True, True, False, True, True, True]
    there = heads.finite
    torch.testing.assert_close(heads.weight[there], others.weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(heads.losses[there], others.losses, rtol=1e-5, atol=1e-6)
    assert heads.outputs(FEATURES)[3].isnan().all()
    assert not heads.losses[3, -1].isfinite()


def test_a_head_whose_gradient_alone_is_not_finite_is_found_too():
    # The slope of a square root at zero is infinite, while the loss itself is zero in the only step there is.
    cliff = Loss("both", lambda logits, targets: (0 * logits).sqrt(), ENTROPY.divisor)
    first = list(batches(0))[:1]
    settings = [HeadSetting(1e-2, 0.0, cliff), SETTINGS[1]]
    heads = trained(settings, epochs=1, steps=1, batches=lambda epoch: first)
    assert heads.finite.tolist() == [False, True]
    assert heads.outputs(FEATURES).isnan().flatten(1).all(1).tolist() == [True, False]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_in_full(kind):
    def halved(epoch: int):
        return [(features.to(kind), targets) for features, targets in batches(epoch)]

    def widened(epoch: int):
        return [(features.float(), targets) for features, targets in halved(epoch)]

    heads = trained(SETTINGS[1:2], batches=halved)
    assert_same(heads, 0, *plain(SETTINGS[1], clip=0.0, given=widened))
    assert torch.equal(heads.outputs(FEATURES.to(kind)), heads.outputs(FEATURES.to(kind).float()))


def test_outputs_are_those_of_linear_layers_in_the_order_of_the_settings():
    heads = trained(SETTINGS)
    outputs = heads.outputs(FEATURES)
    assert outputs.shape == (len(SETTINGS), IMAGES, CLASSES)
    for number in range(len(SETTINGS)):
        expected = F.linear(FEATURES, heads.weight[number], heads.bias[number])
        torch.testing.assert_close(outputs[number], expected)


def test_the_start_is_left_untouched_and_training_draws_from_no_stream():
    before, bias_before = START.clone(), START_BIAS.clone()
    state = torch.get_rng_state()
    with torch.no_grad():  # as a caller may have it
        trained(SETTINGS)
    assert torch.equal(START, before)
    assert torch.equal(START_BIAS, bias_before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_signal_stops_after_the_epoch():
    asked = []

    def stop() -> int:
        asked.append(True)
        return 15 if len(asked) == 2 else 0

    with pytest.raises(StoppedError, match="epoch 2 of 3 of 6 heads") as caught:
        trained(SETTINGS, stop=stop)
    assert caught.value.exit_code == 143
    assert len(asked) == 2


def test_an_epoch_of_another_length_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="an epoch has 5 batches, found 4"):
        trained(SETTINGS, steps=5)
