"""The training loop: one function a stage, nothing hidden, no task's name.

A step's randomness is addressed by (seed, epoch, step) and a schedule is a function of progress,
so a checkpoint needs no generator and a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pictune.data.loading import Batch
from pictune.errors import DivergedError, MachineError, StoppedError
from pictune.models.freezing import train_mode
from pictune.tasks.task import Tensors
from pictune.training import checkpoints
from pictune.training.averaging import MovingAverage
from pictune.training.job import Fit, Progress
from pictune.training.machine import addressed_randomness, is_out_of_memory, place
from pictune.training.optimizers import parameter_groups

LOWER_IS_BETTER = frozenset({"log_loss"})
MOST_HALVINGS = 3
SAVING_SHARE = 0.05  # after an epoch a checkpoint is written unless that would take more of the time


def fit(job: Fit) -> Progress:
    """Trains until the plan is done, from the newest checkpoint if there is one.

    Returns:
        How far it came; the best weights lie in the folder (see `best_weights`).

    Raises:
        DivergedError: When a loss or gradient is no finite number; the weights were not moved by it.
        MachineError: When memory ran out for good, or the disk did.
        StoppedError: When a signal came; a checkpoint was written first.
    """
    try:
        return _Fitting(job).run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory("memory ran out") from error


def _how_long(seconds: float, epochs: int) -> str:
    """What a person who waits wants to know after the first epoch."""
    rest = seconds * epochs
    told = f"{rest / 60:.0f} minutes" if rest >= 90 else f"{max(rest, 2):.0f} seconds"
    return f"About {told} to go. Ctrl-C stops and saves; the same command goes on from there."


def out_of_memory(sentence: str) -> MachineError:
    """The error for a network that the machine's memory cannot hold."""
    return MachineError(
        sentence,
        instead="Use a smaller --image-size, --batch-size or --model; the last checkpoint is intact.",
    )


def best_weights(folder: Path, progress: Progress) -> dict[str, torch.Tensor]:
    """The weights that did best on the validation pictures."""
    return checkpoints.load_checkpoint(epoch_path(folder, progress.best_epoch))[0]


def epoch_path(folder: Path, epoch: int) -> Path:
    """Where the weights of one of the best epochs lie."""
    return folder / f"best-{epoch}.safetensors"


def merit_of(quick: Mapping[str, float], select_by: str) -> tuple[float, float]:
    """What epochs are ranked by, higher is better: the score, and among equals the log-loss.

    Few validation pictures make ties likely.
    """
    sign = -1.0 if select_by in LOWER_IS_BETTER else 1.0
    return sign * quick[select_by], -quick.get("log_loss", 0.0)


def _merit(kept: tuple[float, float, int]) -> tuple[float, float]:
    return kept[:2]


class _Fitting:
    """The moving parts of one training."""

    def __init__(self, job: Fit) -> None:
        self.job, self.plan = job, job.plan
        self.network = place(job.network, job.machine.device, job.arithmetic.memory_format)
        self.optimizer = job.make_optimizer(
            parameter_groups(
                self.network, weight_decay=job.weight_decay, rates=job.rates, anchored=job.anchors
            )
        )
        self.accelerator = job.machine.accelerator(job.arithmetic.precision)
        self.wrapped, self.stepper = self.accelerator.prepare(self.network, self.optimizer)
        self.average = MovingAverage(self.network, decay=self.plan.ema) if self.plan.ema else None
        self.highest = [group["lr"] * group["rate"] for group in self.optimizer.param_groups]
        self.learning = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.anchors = [
            (self.learning[name], anchor.detach().clone().to(self.learning[name].device))
            for name, anchor in job.anchors.items()
            if name in self.learning
        ]
        self.progress = Progress()
        self.saved_at, self.saving_took = time.monotonic(), 0.0
        self.unsaved: dict[int, dict[str, torch.Tensor]] = {}  # the best epochs' weights, until a checkpoint
        self.window: list[tuple[int, Batch]] = []  # batches since the last step

    @property
    def last(self) -> Path:
        return self.job.folder / "last.safetensors"

    def run(self) -> Progress:
        if self.last.exists():
            self.restore()
        else:
            self.save()  # so that a kill before the first interval still finds a beginning
        progress, cycles = self.progress, list(self.plan.cycles)
        if progress.cycles != cycles:  # it begins, or was extended by another cycle
            progress.cycles, progress.done, progress.cut = cycles, False, 0
        if progress.cut:
            self.plan = self.plan.cut_to(progress.cut)
        begun = progress.epoch
        while progress.epoch < self.plan.epochs and not progress.done:
            started = time.monotonic()
            self.train_epoch()
            facts = self.close_epoch()
            # The limit was meant for what was planned then; who extends a run asks for those epochs.
            if self.plan.seconds and len(self.plan.cycles) == 1:
                self.mind_the_time(time.monotonic() - started)
            signal = self.maybe_save(at_most=self.saving_took / SAVING_SHARE)
            self.job.watcher.epoch(facts)
            if progress.epoch == begun + 1 < self.plan.epochs:
                left = self.plan.epochs - progress.epoch
                self.job.watcher.say(_how_long(time.monotonic() - started, left))
            self.heed(signal)
        return progress

    def mind_the_time(self, spent: float) -> None:
        """Leaves out later epochs when all of them would take longer than the plan allows."""
        plan, progress = self.plan, self.progress
        progress.seconds += spent
        if progress.done:
            return
        affordable = max(int((plan.seconds - progress.seconds) / (progress.seconds / progress.epoch)), 0)
        if progress.epoch + affordable >= plan.epochs:
            return
        progress.cut, progress.done = progress.epoch + affordable, affordable == 0
        self.plan = plan.cut_to(progress.cut)
        self.job.journal.add("cut", epochs=progress.cut, planned=plan.epochs)
        self.job.watcher.say(f"The time allows {progress.cut} of {plan.epochs} epochs.")

    def train_epoch(self) -> None:
        """The rest of the current epoch, batch by batch."""
        job, progress = self.job, self.progress
        self.thaw(job.waiting(progress.epoch))
        train_mode(self.wrapped)
        total = len(job.loader)
        for batch in job.loader.batches(progress.epoch, start=progress.batch):
            self.set_rate(progress.epoch + progress.batch / total)
            closes = (progress.batch + 1) % self.plan.accumulate == 0 or progress.batch + 1 == total
            loss = self.learn(batch, closes=closes)
            progress.loss_sum += loss
            progress.batch += 1
            job.watcher.step(progress.epoch, self.plan.epochs, progress.batch, total, loss)
            if closes:
                self.heed(self.maybe_save())

    def thaw(self, waiting: Collection[str]) -> None:
        """Freezes what still waits, and lets everything else learn that ever will."""
        for name, parameter in self.learning.items():
            parameter.requires_grad = name not in waiting

    def learn(self, batch: Batch, *, closes: bool) -> float:
        """One batch: gradients, and a step when ``closes``. Halves the micro-batch when memory runs out."""
        self.window.append((self.progress.batch, batch))
        loss = self.gradients_within_memory(batch)
        if closes:
            self.check_gradients()
            self.stepper.step()
            self.pull_back()
            self.progress.steps += 1
            if self.average is not None:
                self.average.follow(self.network, step=self.progress.steps)
            self.optimizer.zero_grad(set_to_none=True)
            self.window.clear()
        return loss

    @torch.no_grad()
    def pull_back(self) -> None:
        """L2-SP: moves anchored weights a little towards where they came from (arXiv 1802.01483).

        Decoupled from the gradient, as AdamW's decay is, and with the rate of their own group.
        """
        if not self.anchors:
            return
        rates = {id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]}
        for parameter, anchor in self.anchors:
            if parameter.requires_grad:
                parameter.lerp_(anchor, min(rates[id(parameter)] * self.job.pull, 1.0))

    def gradients_within_memory(self, batch: Batch) -> float:
        """A batch's gradients; short of memory, those of all since the last step in smaller pieces."""
        try:
            return self.gradients(self.progress.batch, batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        while self.progress.halvings < MOST_HALVINGS:
            self.progress.halvings += 1
            self.job.watcher.say(
                f"Memory ran out: a batch of {len(batch.images)} is now computed in "
                f"{2**self.progress.halvings} pieces; the recipe stays the same."
            )
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return [self.gradients(number, waiting) for number, waiting in self.window][-1]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
        raise out_of_memory(
            f"memory ran out even with a batch of {len(batch.images)} in {2**MOST_HALVINGS} pieces"
        )

    def gradients(self, number: int, batch: Batch) -> float:
        """Adds the gradients of batch ``number`` of this epoch to what is there; returns its loss."""
        job, progress = self.job, self.progress
        whole = len(batch.images)
        size = math.ceil(whole / 2**progress.halvings)
        begun = number - number % self.plan.accumulate
        batches = min(self.plan.accumulate, len(job.loader) - begun)  # an epoch's last step may have fewer
        tensors = to_device(batch, job.machine.device)
        counted = job.task.weigh(tensors)
        # A step's other batches are not known yet: a batch counts beside them as much as it does on average.
        beside = counted / whole if batches > 1 else 1.0
        summed = 0.0
        with addressed_randomness(self.plan.seed, progress.epoch, number, job.machine.device):
            for first in range(0, whole, size):
                part = slice(first, first + size)
                piece = Tensors(tensors.images[part], tensors.targets[part])
                share = job.task.weigh(piece) / counted if counted else 0.0
                with self.accelerator.autocast():
                    losses = job.task.losses(self.wrapped, piece)
                loss = torch.stack(list(losses.values())).sum()
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise self.diverged("The loss", value, [batch])
                self.accelerator.backward(loss * (share * beside / batches))
                summed += value * share
        return summed

    def check_gradients(self) -> None:
        """Clips the gradient, and stops before a step that is not finite."""
        learning = [p for p in self.network.parameters() if p.grad is not None]
        norm = float(self.accelerator.clip_grad_norm_(learning, self.plan.clip or math.inf))
        scaler = self.accelerator.scaler
        if not math.isfinite(norm) and scaler is None:  # an fp16 scaler skips such a step by itself
            raise self.diverged("The gradient", norm, [batch for _, batch in self.window])

    def diverged(self, what: str, value: float, batches: Sequence[Batch]) -> DivergedError:
        files = [self.job.names[int(p)] for batch in batches for p in batch.positions]
        shown = [*files[:32], *([f"and {len(files) - 32} more"] if len(files) > 32 else [])]
        where = f"epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1}"
        self.job.journal.add(
            "diverged", what=what, epoch=self.progress.epoch, batch=self.progress.batch, files=files
        )
        return DivergedError(
            f"{what} became {value} in {where}; the weights were not moved by it. Its pictures:",
            causes=shown,
            instead="Look at these pictures, or lower the rate: --lr " + f"{self.highest[0] / 10:g}",
        )

    def set_rate(self, done: float) -> None:
        scores = self.progress.scores
        factor = self.job.schedule(*self.plan.place(done), scores)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = highest * factor

    def close_epoch(self) -> dict[str, Any]:
        """Validates, keeps the best weights, and writes and returns the journal's line."""
        job, progress = self.job, self.progress
        judged = self.average.network if self.average is not None else self.network
        rate = self.optimizer.param_groups[0]["lr"]
        quick = job.validate(judged)
        if not all(math.isfinite(value) for value in quick.values()):
            raise DivergedError(
                f"The network's answers in epoch {progress.epoch + 1} are no numbers any more",
                instead=f"Lower the rate: --lr {self.highest[0] / 10:g}",
            )
        score, tie_break = merit_of(quick, self.plan.select_by)
        ranked = sorted([*progress.kept, (score, tie_break, progress.epoch)], key=_merit, reverse=True)
        progress.kept = ranked[: self.plan.soup]  # among equals the earlier one stays first
        if any(epoch == progress.epoch for _, _, epoch in progress.kept):
            kept = {name: tensor.clone() for name, tensor in judged.state_dict().items()}
            self.unsaved[progress.epoch] = kept
        progress.scores.append(score)
        facts = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss_sum / len(job.loader),
            "learning_rate": rate,
            **{k if k.startswith("train_") else f"val_{k}": value for k, value in quick.items()},
            "best": progress.best_epoch == progress.epoch,
        }
        job.journal.add("epoch", **facts)
        progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        extended = self.plan.epochs - self.plan.cycles[-1]  # an extension waits anew
        waited = progress.epoch - max(progress.best_epoch + 1, extended)
        progress.done = progress.epoch >= self.plan.epochs or 0 < self.plan.early_stopping <= waited
        return facts

    def maybe_save(self, *, at_most: float = math.inf) -> int:
        """Saves when the training is done or stopped, or the last time is long ago; returns the signal."""
        signal = self.job.stop()
        waited = time.monotonic() - self.saved_at
        if signal or self.progress.done or waited > min(at_most, self.plan.checkpoint_seconds):
            self.save()
        return signal

    def heed(self, signal: int) -> None:
        """Stops when a signal came; everything is saved by now."""
        if signal:
            at = f"epoch {self.progress.epoch + 1}, batch {self.progress.batch}"
            raise StoppedError(
                f"Stopped and saved at {at}. The same command goes on from here.", signal=signal
            )

    def save(self) -> None:
        """Writes the best weights and the checkpoint that names them, then forgets older ones."""
        started = time.monotonic()
        for _, _, epoch in self.progress.kept:
            if epoch in self.unsaved:
                checkpoints.save_checkpoint(epoch_path(self.job.folder, epoch), self.unsaved[epoch], {})
        self.unsaved = {}
        self.progress.journal = self.job.journal.sync()
        memory, plain = checkpoints.pack_optimizer(self.optimizer)
        tensors = {
            **checkpoints.prefixed("network", self.network.state_dict()),
            **checkpoints.prefixed("optimizer", memory),
        }
        if self.average is not None:
            tensors |= checkpoints.prefixed("average", self.average.network.state_dict())
        scaler = self.accelerator.scaler
        facts = {
            "progress": vars(self.progress),
            "optimizer": plain,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        checkpoints.save_checkpoint(self.last, tensors, facts)
        self.forget_older_best()
        self.saved_at = time.monotonic()
        self.saving_took = self.saved_at - started

    def forget_older_best(self) -> None:
        """Removes weights of epochs that the checkpoint does not name."""
        named = {epoch_path(self.job.folder, epoch) for _, _, epoch in self.progress.kept}
        for old in self.job.folder.glob("best-*.safetensors"):
            if old not in named:
                old.unlink()

    def restore(self) -> None:
        """Goes back to the newest checkpoint: tensors, progress and the journal's length."""
        tensors, facts = checkpoints.load_checkpoint(self.last)
        self.progress = Progress(**facts["progress"])
        self.progress.kept = [(score, merit, epoch) for score, merit, epoch in self.progress.kept]
        checkpoints.load_network(self.network, checkpoints.below("network", tensors))
        checkpoints.unpack_optimizer(
            self.optimizer, checkpoints.below("optimizer", tensors), facts["optimizer"]
        )
        if self.average is not None:
            checkpoints.load_network(self.average.network, checkpoints.below("average", tensors))
        if self.accelerator.scaler is not None and facts["scaler"]:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self.job.journal.cut(self.progress.journal)
        self.forget_older_best()  # a kill may have come between the checkpoint and this


def to_device(batch: Batch, device: torch.device) -> Tensors:
    """A batch as tensors on the device."""
    images = torch.from_numpy(batch.images).to(device, non_blocking=True)
    return Tensors(images, torch.from_numpy(batch.targets).to(device, non_blocking=True))
