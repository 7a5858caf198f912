"""Detectors that ask with queries, RT-DETRv2 and D-FINE, on the maps of any encoder.

Their transformer and their losses are those of the library `transformers`, an optional part of pictune
(``pip install 'pictune[detr]'``); its own backbones and its hub are not used.

Shapes: n images, q queries, k classes, b true boxes an image, m answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from pictune.data.truths import NOBODY
from pictune.errors import RecipeError
from pictune.models.box_losses import BoxLoss, ScoreLoss
from pictune.models.box_reading import LEAST_SCORE, MOST

Kind = Literal["rt_detr_v2", "d_fine"]

STRIDES = (8, 16, 32)  # of the encoder's maps
CHANNELS = 128
QUERIES = 100  # answers an image before the unsure ones are dropped
DENOISING = 50  # true boxes, made wrong on purpose, that are shown to the decoder beside the queries
DECODER_LAYERS = 3
PRIOR = 0.01  # what every query says of every class before training (Lin et al. 2017, arXiv 1708.02002)
LEAST_SIDE = 1e-3  # pixels; a true box of which less lies on the canvas teaches nothing
BOX_WEIGHT = 2.0  # of the losses as the library weighs them: its weight of the generalised IoU
# Before 5.18 the library matched the true boxes to the denoising queries, which are not there in use.
OLDEST = (5, 18)


class QueryOutputs(NamedTuple):
    """What a network says with every query, and in training how wrong it is.

    The losses have one element each, already weighted and summed over the layers of the decoder; they are
    empty where none were computed.

    Args:
        logits: [n, q, k].
        boxes: [n, q, 4] left, top, right, bottom in pixels of the canvas.
        classes_loss: Varifocal loss (Zhang et al. 2020, arXiv 2008.13367).
        boxes_loss: Distance of middles and sizes as shares of the canvas.
        overlap_loss: Generalised IoU (Rezatofighi et al. 2019, arXiv 1902.09630).
        edges_loss: How the edges' positions are spread (D-FINE only).
    """

    logits: Tensor
    boxes: Tensor
    classes_loss: Tensor
    boxes_loss: Tensor
    overlap_loss: Tensor
    edges_loss: Tensor


# The library's names of its losses, without what follows for earlier layers and denoising queries.
_LOSSES = {
    "loss_vfl": "classes_loss",
    "loss_bbox": "boxes_loss",
    "loss_giou": "overlap_loss",
    "loss_fgl": "edges_loss",
    "loss_ddf": "edges_loss",
}


class QueryDetector(nn.Module):
    """Transformer that finds objects with queries: one answer an object, none to be dropped for overlap.

    RT-DETRv2: Lv et al. 2024, arXiv 2407.17140. D-FINE: Peng et al. 2024, arXiv 2410.13842. Both are smaller
    here than in their papers, so that they train without a graphics card. The arithmetic is done in float32
    under autocast, too: boxes at 8 bits of precision are several pixels off.

    Args:
        channels: Of the encoder's maps at strides 8, 16 and 32, the finest first.
        classes: k.
        canvas: Width and height of the images, pixels.
        kind: ``rt_detr_v2`` or ``d_fine``.

    Raises:
        RecipeError: When the library is not installed or too old, or 32 does not divide the canvas.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        classes: int,
        canvas: tuple[int, int],
        kind: Kind = "rt_detr_v2",
    ) -> None:
        super().__init__()
        assert len(channels) == len(STRIDES), f"one map a stride of {STRIDES}, not {len(channels)}"
        assert kind in get_args(Kind), f"there is no {kind}"
        self.canvas = canvas
        width, height = canvas
        if width % STRIDES[-1] or height % STRIDES[-1]:
            raise RecipeError(
                f"RT-DETRv2 and D-FINE cannot see {width} x {height} pixels: their maps halve exactly.",
                instead=f"Choose a width and a height that are multiples of {STRIDES[-1]}.",
            )
        places = sum((width // stride) * (height // stride) for stride in STRIDES)
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS))
            for before in channels
        )
        self.detector = _detector(kind, classes=classes, queries=min(QUERIES, places))

    def forward(self, maps: Sequence[Tensor], targets: Tensor | None = None) -> QueryOutputs:
        """The encoder's maps to answers; in training mode, with true boxes, to losses as well.

        Denoising draws from torch's own random numbers.

        Args:
            maps: [n, c, H / stride, W / stride] each.
            targets: [n, b, 6] class, left, top, right, bottom in pixels, crowd. Rows of class -1 fill up;
                crowds are not taught. Not looked at in evaluation mode.
        """
        labels = None if targets is None or not self.training else self._labels(targets)
        with torch.autocast(maps[0].device.type, enabled=False):
            projected = [layer(found.float()) for layer, found in zip(self.projections, maps, strict=True)]
            said = self._said(projected, labels)
            # D-FINE moves each edge by itself, and a right one can come to lie left of the left one.
            middles, half = said.pred_boxes[..., :2], said.pred_boxes[..., 2:].clamp_min(0) / 2
            boxes = torch.cat([middles - half, middles + half], dim=-1)
            outputs = QueryOutputs(
                said.logits, boxes * boxes.new_tensor(self.canvas).repeat(2), *[boxes.new_zeros(0)] * 4
            )
            return outputs if labels is None else outputs._replace(**self._losses(said.loss_dict, boxes))

    def _said(self, projected: list[Tensor], labels: list[dict[str, Tensor]] | None) -> Any:
        """What the library answers; its losses are missing where the boxes are no numbers."""
        # Encoder and decoder are called one after the other: that way no backbone is asked.
        encoded = self.detector.model.encoder(projected)
        try:
            return self.detector(None, inputs_embeds=projected[0], encoder_outputs=encoded, labels=labels)
        except ValueError:
            said = self.detector(None, inputs_embeds=projected[0], encoder_outputs=encoded)
            if bool(said.pred_boxes.isfinite().all()):
                raise
            return said  # training has a message of its own for losses that are no numbers

    def _losses(self, found: dict[str, Tensor] | None, boxes: Tensor) -> dict[str, Tensor]:
        """The library's losses, summed by what they are about; no numbers where there are none."""
        if found is None:
            return {name: boxes.sum() * torch.nan for name in _LOSSES.values()}
        # A batch without objects has no denoising queries; their weights must have a gradient all the same.
        unused: Tensor = self.detector.model.denoising_class_embed.weight.sum() * 0
        sums = {"classes_loss": unused}
        for name, value in found.items():
            key = _LOSSES["_".join(name.split("_")[:2])]
            sums[key] = sums[key] + value if key in sums else value
        return sums

    def _labels(self, targets: Tensor) -> list[dict[str, Tensor]]:
        """The taught objects as the library wants them: middle and size as shares of the canvas."""
        limits = targets.new_tensor(self.canvas, dtype=torch.float32).repeat(2)
        labels = []
        for rows in targets:
            taught = rows[(rows[:, 0] != NOBODY) & (rows[:, 5] == 0)].float()
            corners = taught[:, 1:5].clamp_min(0).minimum(limits)
            sizes = corners[:, 2:] - corners[:, :2]
            there = (sizes > LEAST_SIDE).all(1)
            boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, sizes], dim=1) / limits
            labels.append({"class_labels": taught[there, 0].long(), "boxes": boxes[there]})
        return labels


def _library() -> Any:
    """The library `transformers`.

    Raises:
        RecipeError: When it is not installed or too old.
    """
    try:
        import transformers
    except ImportError as error:
        raise RecipeError(
            f"RT-DETRv2 and D-FINE need the library transformers, which cannot be imported: {error}.",
            instead="Install it: pip install 'pictune[detr]'",
        ) from error
    found = transformers.__version__
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise RecipeError(
            f"RT-DETRv2 and D-FINE need the library transformers from {wanted} on; {found} is installed.",
            instead="Install a newer one: pip install 'pictune[detr]'",
        )
    return transformers


def _detector(kind: Kind, *, classes: int, queries: int) -> Any:
    """The library's network with first weights, without a backbone."""
    library = _library()
    # Built first and thrown away, as there is no network of the library's without: as small as can be.
    backbone = library.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", out_indices=[2, 3, 4]
    )
    wishes: dict[str, Any] = {
        "backbone_config": backbone,
        "encoder_in_channels": [8] * len(STRIDES),
        "num_labels": classes,
        "num_queries": queries,
        "num_denoising": DENOISING,
        "d_model": CHANNELS,
        "encoder_hidden_dim": CHANNELS,
        "decoder_in_channels": [CHANNELS] * len(STRIDES),
        "encoder_ffn_dim": 4 * CHANNELS,
        "decoder_ffn_dim": 4 * CHANNELS,
        "encoder_layers": 1,
        "decoder_layers": DECODER_LAYERS,
        "hidden_expansion": 0.5,
        "initializer_bias_prior_prob": PRIOR,
        # The library's weights are meant to be replaced by trained ones, and are too small to learn from.
        "initializer_range": CHANNELS**-0.5 / 3**0.5,
        # Otherwise two names stand for each layer that answers, and a file would hold it twice.
        "tie_word_embeddings": False,
    }
    if kind == "d_fine":
        detector = library.DFineForObjectDetection(library.DFineConfig(**wishes, depth_mult=0.5))
    else:
        detector = library.RTDetrV2ForObjectDetection(library.RTDetrV2Config(**wishes))
    detector.model.backbone, detector.model.encoder_input_proj = nn.Identity(), nn.ModuleList()
    del detector.class_embed, detector.bbox_embed  # the decoder's own are asked
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)  # the library starts RT-DETRv2 with numbers about zero
    return detector


def query_losses(
    outputs: QueryOutputs,
    targets: Tensor,
    box: BoxLoss,
    score: ScoreLoss,
    box_weight: float = BOX_WEIGHT,
) -> dict[str, Tensor]:
    """``classes``, ``boxes`` and ``overlap``, for D-FINE ``edges`` too, each divided by the true boxes.

    They are the library's own: which query answers for which object (Carion et al. 2020, arXiv 2005.12872),
    the losses of earlier layers, and those of denoising (Zhang et al. 2022, arXiv 2203.03605) all belong
    together. So another ``box`` or ``score`` than the defaults cannot be honoured: neither is looked at.

    Args:
        outputs: Of a network in training mode that was given the true boxes.
        targets: [n, b, 6] those; the outputs already know them.
        box: Not looked at.
        score: Not looked at.
        box_weight: How much boxes count beside classes; at 2 everything counts as in the papers. Matching
            does not change with it.
    """
    assert outputs.classes_loss.numel(), "losses come of training mode, with true boxes"
    assert len(outputs.logits) == len(targets), "one answer an image"
    beside = box_weight / BOX_WEIGHT
    found = {
        "classes": outputs.classes_loss,
        "boxes": outputs.boxes_loss * beside,
        "overlap": outputs.overlap_loss * beside,
        "edges": outputs.edges_loss * beside,
    }
    return {name: value for name, value in found.items() if value.numel()}


def plain_queries(outputs: QueryOutputs) -> tuple[Tensor, Tensor]:
    """Confidences [n, q, k] from 0 to 1, and boxes [n, q, 4], of every query."""
    return outputs.logits.sigmoid(), outputs.boxes


def read_queries(outputs: QueryOutputs, *, width: int, height: int) -> list[Tensor]:
    """The surest answers of each image, in the form of `read_places`.

    A query may give one for each of several classes, and none is dropped for overlap.
    """
    confidences, boxes = plain_queries(outputs)
    boxes = boxes.clamp_min(0).minimum(boxes.new_tensor([width, height, width, height]))
    return [_surest(scores, found) for scores, found in zip(confidences, boxes, strict=True)]


def _surest(scores: Tensor, boxes: Tensor) -> Tensor:
    """[m, 6] from confidences [q, k] and boxes [q, 4]."""
    flat = scores.flatten()
    sure, best = flat.topk(min(MOST, len(flat)))
    sure, best = sure[sure > LEAST_SCORE], best[sure > LEAST_SCORE]
    rows, labels = best // scores.shape[1], best % scores.shape[1]
    return torch.cat([labels[:, None].float(), sure[:, None].float(), boxes[rows].float()], dim=1)
