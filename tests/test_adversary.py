"""The discriminator of mels: what it learns from, whom it teaches, and that it is a part of training alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.checkpoint import files
from common.training.adversary import AdversarialLosses, Adversary, with_adversary
from common.training.task import Compared, Loss
from tacotron2.discriminator import MelDiscriminator
from tests.helpers.runs import make_trainer, read_log

MELS, FRAMES = 80, 40


def random_mels(seed: int) -> Tensor:
    """Two mels (2, 80, 40) of about the levels of speech."""
    return -5.5 + 2 * torch.randn(2, MELS, FRAMES, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def losses() -> AdversarialLosses:
    torch.manual_seed(0)
    return AdversarialLosses(MelDiscriminator())


def test_each_loss_teaches_its_own_side(losses: AdversarialLosses) -> None:
    predicted, lengths = random_mels(0).requires_grad_(), torch.tensor([40, 40])
    model, own = losses(predicted, random_mels(1), lengths)
    learners = [predicted, *losses.parameters()]
    taught = [
        [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]
        for gradients in (torch.autograd.grad(x, learners, retain_graph=True, allow_unused=True) for x in (model, own))
    ]
    others = len(learners) - 1
    assert taught == [[True] + [False] * others, [False] + [True] * others]


def test_padding_changes_nothing(losses: AdversarialLosses) -> None:
    predicted, recorded = random_mels(0), random_mels(1)
    whole = losses(predicted[:1, :, :33], recorded[:1, :, :33], torch.tensor([33]))
    padded = losses(predicted[:1], recorded[:1], torch.tensor([33]))
    torch.testing.assert_close(padded, whole)


class Volume(nn.Module):
    """A model that makes noise, too quiet at first."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))


def test_a_model_learns_to_deceive_it() -> None:
    """The levels of the model's mels vary too little at first. No loss says so but the discriminator's."""
    torch.manual_seed(0)
    adversary, model, draws = Adversary.of(MelDiscriminator()), Volume(), torch.Generator().manual_seed(0)
    optimizer, lengths = torch.optim.Adam(model.parameters(), lr=0.01), torch.tensor([FRAMES, FRAMES])
    for _ in range(120):
        predicted, recorded = (torch.randn(2, MELS, FRAMES, generator=draws) for _ in range(2))
        compared = Compared(1.0, -5.5 + 2 * model.scale * predicted, -5.5 + 2 * recorded, lengths)
        zero = (0 * model.scale).sum()
        loss = with_adversary(Loss(zero, 80, 80, {"loss": zero}, compared), adversary.losses)
        for each in (optimizer, adversary.optimizer):
            each.zero_grad()
        loss.loss.backward()
        for each in (optimizer, adversary.optimizer):
            each.step()
    assert 0.7 < model.scale < 1.3


def test_it_takes_part_from_its_step_on_and_stays_out_of_the_model(corpus: Path, tmp_path: Path) -> None:
    options = ("task.adversary_weight=1", "task.adversary_from_step=1", "trainer.max_steps=2")
    trainer = make_trainer(corpus, tmp_path, "tacotron2", *options)
    before = {name: weight.clone() for name, weight in trainer.state.adversary.losses.named_parameters()}
    trainer.fit()
    first, second = (row for row in read_log(tmp_path) if "train_loss" in row)
    assert first["train_adversarial"] == first["train_discriminator"] == 0
    assert second["train_adversarial"] > 0
    assert second["train_discriminator"] > 0
    assert not any("adversarial" in name or "discriminator" in name for row in read_log(tmp_path) for name in row
                   if name.startswith("val_"))  # fmt: skip
    checkpoint = files.load(files.find(tmp_path))
    weights = checkpoint.adversary["weights"]
    assert all(not torch.equal(weights[name], weight) for name, weight in before.items())
    assert not any("discriminator" in name for name in checkpoint.state_dict)


def test_a_bad_step_leaves_it_unchanged(corpus: Path, tmp_path: Path) -> None:
    trainer = make_trainer(corpus, tmp_path, "tacotron2", "task.adversary_weight=1")
    batch = trainer.task.collate([trainer.data.train[(0, 0)]])
    trainer.step([batch])
    before = [weight.clone() for weight in trainer.state.adversary.losses.parameters()]
    trainer.step([batch._replace(mel=batch.mel * float("nan"))])
    assert all(map(torch.equal, before, trainer.state.adversary.losses.parameters()))
    trainer.step([batch])
    assert not any(map(torch.equal, before, trainer.state.adversary.losses.parameters()))


def test_a_run_can_go_on_with_or_without_it(corpus: Path, tmp_path: Path) -> None:
    make_trainer(corpus, tmp_path, "tacotron2", "trainer.max_steps=1").fit()
    assert not files.load(files.find(tmp_path)).adversary
    make_trainer(corpus, tmp_path, "tacotron2", "task.adversary_weight=1", "trainer.max_steps=2").fit()
    assert files.load(files.find(tmp_path)).adversary
    make_trainer(corpus, tmp_path, "tacotron2", "trainer.max_steps=3").fit()
    assert not files.load(files.find(tmp_path)).adversary
