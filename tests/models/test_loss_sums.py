"""Sums of mask losses stand in a table of losses under what they are called."""

from __future__ import annotations

import pytest
import torch

from pictune.errors import RecipeError
from pictune.models.loss_sums import LossesAndSums
from pictune.models.mask_losses import MASK_LOSSES

TABLE = LossesAndSums([part.build for part in MASK_LOSSES.values()])


def test_a_sum_is_its_weighted_parts() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 4, generator=draw)
    target = torch.randint(0, 3, (2, 5, 4), generator=draw)
    whole = TABLE["0.5*dice + 2*cross_entropy"].make(label_smoothing=0.2)
    parts = MASK_LOSSES["dice"].make(), MASK_LOSSES["cross_entropy"].make(label_smoothing=0.2)
    expected = 0.5 * parts[0](logits, target) + 2 * parts[1](logits, target)
    assert float(whole(logits, target)) == pytest.approx(float(expected), rel=1e-6)


def test_settings_of_one_name_are_told_apart() -> None:
    part = TABLE["dice+jaccard"]
    assert set(part.settings) == {"dice.smooth", "jaccard.smooth"}
    assert part.check({"smooth": 2.0}, "loss")[1]
    complete, mistakes = part.check({"dice.smooth": 2.0}, "loss")
    assert mistakes == []
    assert complete == {"dice.smooth": 2.0, "jaccard.smooth": 1.0}
    part.make(**complete)


@pytest.mark.parametrize("name", ["dice+", "dice+dicey", "0*dice+focal", "dice*2", "+"])
def test_what_is_no_sum_is_not_in_the_table(name: str) -> None:
    assert name not in TABLE
    with pytest.raises(RecipeError):
        TABLE[name]


def test_single_losses_are_as_they_were() -> None:
    assert list(TABLE) == list(MASK_LOSSES)
    assert TABLE["focal"] == MASK_LOSSES["focal"]
    with pytest.raises(RecipeError, match="did you mean focal"):
        TABLE["focall"]
