"""Texts in windows and batches: whole, masked, absent where nobody said anything, and absent altogether without any."""

import numpy as np
import pytest
import torch
from worded import WIDTH, put, random_text, worded

from dualforce_model.data import BatchOrder, Dataset, Place, WindowReader, Windows, collate
from dualforce_model.data.windows import padded
from dualforce_model.errors import BadInput
from dualforce_model.store import read_tensors

ONE, OTHER = "good_hdtf_may", "good_hdtf_aoc"  # of the train split
TEXT = random_text(21)


@pytest.fixture
def dataset(run_folder, tmp_path) -> Dataset:
    return Dataset.open(worded(run_folder, tmp_path / "run", {ONE: TEXT}))


def clip_of(dataset, name):
    return next(clip for clip in dataset.clips["train"] if clip.clip_id.startswith(name))


def read(dataset, name, start=0):
    return {**WindowReader(dataset.card, 3, 16, 4).read(clip_of(dataset, name), start, 0.0), "skipped": []}


def test_every_window_of_a_clip_has_all_of_its_text(dataset):
    for start in (0, 11):
        text = read(dataset, ONE, start)["text"]
        assert text.dtype == torch.float16
        np.testing.assert_array_equal(text, TEXT)
    assert read(dataset, OTHER)["text"].shape == (0, WIDTH)


def test_a_batch_pads_its_texts_and_masks_what_is_none(dataset):
    samples = [read(dataset, ONE), read(dataset, OTHER)]
    batch = collate(samples)
    assert batch["text"].shape == (2, 32, WIDTH)
    np.testing.assert_array_equal(batch["text"][0, :21], TEXT)
    assert not batch["text"][0, 21:].any()
    np.testing.assert_array_equal(batch["text_mask"], np.stack([np.arange(32) < 21, np.zeros(32, bool)]))
    assert collate(samples[1:])["text"].shape == (1, 1, WIDTH)


@pytest.mark.parametrize(("longest", "S"), [(0, 1), (1, 16), (16, 16), (17, 32), (512, 512)])
def test_batches_of_texts_have_few_lengths(longest, S):
    whole, mask = padded([torch.ones(longest, 3), torch.ones(longest // 2, 3)])
    assert whole.shape == (2, S, 3)
    assert mask.sum(1).tolist() == [longest, longest // 2]


def test_without_a_word_about_any_clip_batches_know_of_no_text(run_folder):
    dataset = Dataset.open(run_folder)
    batch = collate([read(dataset, ONE), read(dataset, OTHER)])
    assert not {"text", "text_mask"} & batch.keys()
    assert "text_dim" not in dataset.card


@pytest.mark.parametrize("harm", ["truncated", "missing", "no numbers", "other width", "other backend"])
def test_a_text_that_is_not_what_the_dataset_says_is_named(dataset, tmp_path, harm):
    clip = clip_of(dataset, ONE)
    path, message = clip.files["text"], "run the feature's stage again"
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "missing":
        path.unlink()
    elif harm == "no numbers":
        put(tmp_path / "run", ONE, np.full((2, WIDTH), np.nan))
        message = "not finite"
    elif harm == "other width":
        put(tmp_path / "run", ONE, np.zeros((2, WIDTH + 1)))
        message = "slice has shape"
    else:
        put(tmp_path / "run", ONE, read_tensors(path)["text"], backend="clip")
        message = "was made with backend 'clip', its dataset with 'umt5'"
    with pytest.raises(BadInput, match=message):
        read(dataset, ONE)
    clips = dataset.clips["train"]
    order = BatchOrder(tuple(clip.latents for clip in clips), ((3, 2),), 1)
    windows = Windows(clips, order, [WindowReader(dataset.card, 3, 16, 4)])
    taken = [windows[Place(0, position)] for position in range(4)]
    assert {sample["clip_id"] for sample in taken} == {clip_of(dataset, OTHER).clip_id}
