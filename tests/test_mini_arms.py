"""The arms of the mini zoo get the same images and words; only what they are asked for differs."""

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from harness.mini import captions, pretrain
from harness.mini.members import ARMS as MEMBER_ARMS
from harness.mini.pretrain import ARMS, BATCH, CAPTIONS_PER_IMAGE, Batch, Pool, build_loss
from harness.mini.world import NUM_CLASSES, class_of, sample_scenes
from harness.mini.zoo import WIDTH

WORD_ARM = "caption-word-classification"
CONTRASTIVE = ("sigmoid-contrastive", "softmax-contrastive")
INFORMED = (WORD_ARM, *CONTRASTIVE)


@pytest.fixture(scope="module")
def pool():
    scenes = sample_scenes("train", 400, seed=31)
    # Pixels only say which scene they are: nothing here looks at them.
    marks = np.arange(len(scenes), dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    pixels = np.zeros((len(scenes), 64, 64, 3), np.uint8)
    pixels[:, 0, :2, 0] = marks
    return Pool(scenes, pixels)


@pytest.fixture(scope="module")
def facts(pool):
    return captions.facts_of(pool.scenes)


@pytest.fixture(scope="module")
def batch(pool, facts):
    return Batch(pool, facts, seed=0, step=3)


class Spy:
    """A batch that remembers what a loss asked it for."""

    def __init__(self, batch):
        self._batch, self.asked, self.rows = batch, set(), batch.rows

    def __getattr__(self, name):
        self.asked.add(name)
        return getattr(self._batch, name)


def asked_of(arm, batch, pool):
    torch.manual_seed(0)
    spy, heads = Spy(batch), nn.ModuleDict()
    loss, gauge = build_loss(arm, heads, pool)(torch.randn(BATCH, WIDTH), spy)
    assert torch.isfinite(loss) and 0 <= gauge <= 1
    return spy.asked, heads


def bags(rows):
    """Words of each caption, without order and padding."""
    return [set(row.tolist()) - {0} for row in rows]


def test_the_arms_are_those_of_the_zoo():
    assert set(ARMS) == set(MEMBER_ARMS.values()) and len(ARMS) == 4


def test_a_batch_follows_from_the_seed_and_the_step_alone(pool, facts, batch):
    again = Batch(pool, facts, seed=0, step=3)
    assert (again.rows == batch.rows).all() and again.captions == batch.captions
    assert torch.equal(again.pixels, batch.pixels)
    for seed, step in ((0, 4), (1, 3)):
        other = Batch(pool, facts, seed, step)
        assert (other.rows != batch.rows).any() and other.captions != batch.captions


def test_captions_are_those_of_the_batch_s_images(pool, facts, batch):
    assert len(set(batch.rows)) == BATCH and len(batch.captions) == CAPTIONS_PER_IMAGE * BATCH
    for j, caption in enumerate(batch.captions):
        assert facts[batch.rows[j % BATCH], caption.facts].all()
    pixels = ((batch.pixels * 0.25 + 0.5) * 255).round().int()
    assert (pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 0, 1]).tolist() == batch.rows.tolist()


def test_word_targets_hold_exactly_the_words_that_the_contrastive_arms_read(batch):
    words, targets = bags(batch.words()), batch.word_targets()
    for i in range(BATCH):
        own = [words[i + k * BATCH] for k in range(CAPTIONS_PER_IMAGE)]
        shares = {w: sum(w in bag for bag in own) / CAPTIONS_PER_IMAGE for w in set().union(*own)}
        assert {w: float(targets[i, w]) for w in targets[i].nonzero().flatten().tolist()} == shares


def test_the_word_arm_reads_the_captions_and_nothing_else(batch, pool):
    assert asked_of(WORD_ARM, batch, pool)[0] == {"word_targets"}


@pytest.mark.parametrize("arm", CONTRASTIVE)
def test_the_contrastive_arms_read_the_same_captions(arm, batch, pool):
    assert asked_of(arm, batch, pool)[0] == {"words", "truth"}


def test_the_label_arm_reads_no_caption(batch, pool):
    asked, heads = asked_of("label-classification", batch, pool)
    assert asked == set() and heads["classes"].out_features == NUM_CLASSES


def test_the_word_arm_is_scored_on_every_word_a_caption_can_use():
    rng = random.Random(1)
    scenes = sample_scenes("train", 4000, seed=0)  # the first of the pool, from which the prior is counted
    used = {w for scene in scenes for w in captions.write_caption(scene, rng).words}
    assert used == set(range(1, len(captions.VOCABULARY)))


def test_pairs_left_out_of_a_contrastive_loss_are_the_true_ones(pool, facts, batch):
    truth = batch.truth()
    for i, j in itertools.product(range(0, BATCH, 16), range(0, len(batch.captions), 5)):
        scene, stated = pool.scenes[batch.rows[i]], batch.captions[j].facts
        assert bool(truth[i, j]) == bool(captions.facts_of([scene])[0, stated].all())
    own = torch.eye(BATCH, dtype=torch.bool).repeat(1, CAPTIONS_PER_IMAGE)
    assert truth[own].all() and 0 < truth[~own].float().mean() < 0.2


@pytest.mark.parametrize("arm", CONTRASTIVE)
def test_a_true_caption_of_another_image_is_no_negative_of_a_contrastive_loss(arm, batch, pool):
    torch.manual_seed(0)
    loss_of = build_loss(arm, nn.ModuleDict(), pool)
    pooled = torch.randn(BATCH, WIDTH)
    masked = loss_of(pooled, batch)[0]
    own = torch.eye(BATCH, dtype=torch.bool).repeat(1, CAPTIONS_PER_IMAGE)
    naive = SimpleNamespace(words=batch.words, truth=lambda: own, rows=batch.rows)
    assert masked < loss_of(pooled, naive)[0]  # fewer terms, each of them positive
    alone = SimpleNamespace(words=batch.words, truth=lambda: torch.ones_like(own), rows=batch.rows)
    assert loss_of(pooled, alone)[0] < masked


@pytest.mark.parametrize("arch", ["resnet", "pvt"])
def test_arms_start_from_the_same_weights_and_see_the_same_images(arch, pool, monkeypatch, tmp_path):
    starts, seen = {}, {}

    class Gauge:
        def measure(self, encoder):
            return {}

    def step(encoder, loss_of, batch, optimisers):
        seen.setdefault(arm, []).append((batch.rows.tolist(), batch.captions))
        starts.setdefault(arm, {k: v.clone() for k, v in encoder.state_dict().items()})
        return 0.0, 0.0

    monkeypatch.setattr(pretrain, "SignProbe", Gauge)
    monkeypatch.setattr(pretrain, "_train_step", step)
    for arm in ARMS:
        pretrain.train_arm(arch, arm, 0, pool, tmp_path / arm, steps=2)
    assert set(seen) == set(ARMS) and all(seen[arm] == seen[ARMS[0]] for arm in ARMS)
    for arm in ARMS:
        assert all(torch.equal(v, starts[ARMS[0]][k]) for k, v in starts[arm].items())


def test_labels_are_classes_of_the_dominant_object(pool, batch):
    loss_of = build_loss("label-classification", heads := nn.ModuleDict(), pool)
    with torch.no_grad():
        heads["classes"].weight.zero_()
        heads["classes"].weight[:, :NUM_CLASSES] = torch.eye(NUM_CLASSES)
    pooled = torch.zeros(BATCH, WIDTH)
    pooled[torch.arange(BATCH), [class_of(pool.scenes[i]) for i in batch.rows]] = 50.0
    value, hit = loss_of(pooled, batch)
    assert hit == 1 and value < 1e-3
