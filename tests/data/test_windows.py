"""Windows: exactly the slices that belong together, on the slot grid, standardised, masked; corrupt files are named."""

import json
import shutil

import numpy as np
import pytest
import torch

from dualforce_model.data import BatchOrder, Clip, Dataset, Place, WindowReader, Windows, collate
from dualforce_model.data.windows import finite, stored
from dualforce_model.errors import BadInput
from dualforce_model.store import read_provenance, read_tensors, write_tensors

LEFT, AHEAD = 16, 4  # audio features heard before and after


@pytest.fixture(scope="session")
def dataset(run_folder) -> Dataset:
    return Dataset.open(run_folder)


def reader(dataset, frames=5) -> WindowReader:
    return WindowReader(dataset.card, frames, LEFT, AHEAD)


def whole(clip: Clip) -> dict[str, np.ndarray]:
    files = {name: read_tensors(path) for name, path in clip.files.items()}
    return {
        "video": files["video_latents"]["latents"].astype(np.float32),
        "struct": files["struct_latents"]["struct"],
        "struct_valid": files["struct_latents"]["valid"],
        "flame": files["flame"]["flame"],
        "flame_valid": files["flame"]["valid"],
        "audio": files["audio_features"]["audio"],
        "reference": files["reference"]["latents"],
    }


def scaled(x, stats):
    return (x - np.asarray(stats["mean"], np.float32)) / np.asarray(stats["std"], np.float32)


@pytest.mark.parametrize("start", [0, 1, 17, 26, 27])
def test_a_window_equals_the_same_part_of_the_whole_files(dataset, start):
    clip = next(c for c in dataset.clips["train"] if c.latents == 32)
    sample, full, stats = reader(dataset).read(clip, start, 0.6), whole(clip), dataset.card["stats"]
    np.testing.assert_array_equal(sample["video"], full["video"][:, start : start + 5])
    np.testing.assert_array_equal(sample["reference"], full["reference"][2])
    for f in range(5):
        for slot in range(4):
            raw = 4 * (start + f) + slot - 3
            if raw < 0:  # the empty slots of latent 0
                assert not sample["struct_valid"][f, slot]
                assert not sample["flame_valid"][f, slot].any()
                assert not sample["struct"][f, slot].any()
                continue
            assert sample["struct_valid"][f, slot] == full["struct_valid"][raw]
            np.testing.assert_allclose(
                sample["struct"][f, slot], scaled(full["struct"][raw], stats["struct"]), atol=1e-5
            )
            np.testing.assert_array_equal(sample["flame_valid"][f, slot], full["flame_valid"][raw])
            known = full["flame_valid"][raw]
            expected = np.where(known, scaled(full["flame"][raw], stats["flame"]), 0)
            np.testing.assert_allclose(sample["flame"][f, slot], expected, atol=1e-4)
    assert sample["audio"].shape == (LEFT + 8 * 5 + AHEAD, 80)
    for i in range(len(sample["audio"])):
        feature = 8 * start - 6 - LEFT + i
        inside = 0 <= feature < len(full["audio"])
        assert sample["audio_valid"][i] == inside
        expected = scaled(full["audio"][feature], stats["audio"]) if inside else np.zeros(80)
        np.testing.assert_allclose(sample["audio"][i], expected, atol=1e-5)
    assert sample["start"] == start
    assert sample["frame_valid"].all()


def test_a_clip_shorter_than_the_window_is_masked_not_stretched(dataset):
    clip = next(c for c in dataset.clips["train"] if c.latents == 32)
    sample = reader(dataset, 40).read(clip, 0, 0.0)
    np.testing.assert_array_equal(sample["frame_valid"], np.arange(40) < 32)
    assert sample["video"].shape[1] == 40
    assert not sample["video"][:, 32:].any()
    assert not sample["struct_valid"][32:].any()
    assert not sample["audio_valid"][LEFT + 6 + 2 * clip.frames :].any()


def test_standardised_features_have_the_statistics_of_the_train_split(dataset):
    values = [reader(dataset, c.latents).read(c, 0, 0.0) for c in dataset.clips["train"]]
    struct = torch.cat([v["struct"][v["struct_valid"]] for v in values])
    assert struct.mean(0).abs().max() < 0.05  # up to three last raw frames belong to no latent
    assert (struct.std(0) - 1).abs().max() < 0.1


def test_only_the_window_is_read(dataset, tmp_path):
    """What lies outside of the window may be broken: it is not looked at."""
    clip = next(c for c in dataset.clips["train"] if c.latents == 32)
    path = tmp_path / "latents.safetensors"
    shutil.copy(clip.files["video_latents"], path)
    latents = read_tensors(path)["latents"]
    header = path.stat().st_size - latents.nbytes
    broken = latents.copy()
    broken[:, :10], broken[:, 15:] = np.nan, np.nan
    path.write_bytes(path.read_bytes()[:header] + broken.tobytes())
    index, shape = (slice(None), slice(10, 15)), (16, 5, *latents.shape[2:])
    with stored(path) as file:
        np.testing.assert_array_equal(file.slice("latents", index, shape), latents[:, 10:15])
        with pytest.raises(BadInput, match="not finite"):
            file.slice("latents", (slice(None), slice(11, 16)), shape)


@pytest.fixture
def copy(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    return tmp_path / "run"


def all_windows(clips, dataset) -> Windows:
    return Windows(clips, BatchOrder(tuple(c.latents for c in clips), ((5, 4),), 1), [reader(dataset)])


def other_backend(path):
    """The same numbers, said to be made by another extractor."""
    made_by = {k: v for k, v in read_provenance(path).items() if k != "data_sha256"}
    write_tensors(path, read_tensors(path), {**made_by, "backend": "liveportrait"})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("truncated", "run the feature's stage again"),
        ("missing", "run the feature's stage again"),
        ("text", "run the feature's stage again"),
        ("other feature", "was made with"),
        ("other backend", "was made with backend 'liveportrait', its dataset with 'mediapipe'"),
    ],
)
def test_a_corrupt_file_is_named_and_the_next_window_stands_in(copy, harm, message):
    dataset = Dataset.open(copy)
    clips = dataset.clips["train"]
    path = clips[0].files["struct_latents"]
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "missing":
        path.unlink()
    elif harm == "text":
        path.write_text("not a tensor")
    elif harm == "other backend":
        other_backend(path)
    else:
        shutil.copy(clips[1].files["flame"], path)
    windows = all_windows(clips, dataset)
    order = windows.order.orders[0]
    taken = [windows[Place(0, p)] for p in range(order.epoch_length)]
    assert {s["clip_id"] for s in taken} == {clips[1].clip_id}
    hit = [p for p in range(order.epoch_length) if order.window(p)[0] == 0]
    assert [p for p, s in enumerate(taken) if s["skipped"]] == hit
    for position in hit:
        names = {name for name, message in taken[position]["skipped"]}
        assert names == {clips[0].clip_id}
        assert message in taken[position]["skipped"][0][1]
    again = all_windows(clips, dataset)
    places = [Place(0, p) for p in reversed(range(order.epoch_length))]
    assert all(torch.equal(again[p]["video"], taken[p.position]["video"]) for p in places)
    assert collate(taken[:4])["skipped"] == [skip for s in taken[:4] for skip in s["skipped"]]


def test_a_dataset_without_one_readable_clip_is_an_error(copy):
    dataset = Dataset.open(copy)
    for clip in dataset.clips["train"]:
        clip.files["audio_features"].write_bytes(b"")
    with pytest.raises(BadInput, match="none of the 2 clips can be read") as error:
        all_windows(dataset.clips["train"], dataset)[Place(0, 0)]
    assert error.value.reason == "no_clips"


def test_each_bucket_has_windows_of_its_length(dataset):
    clips = dataset.clips["train"]
    assert {c.latents for c in clips} == {32, 50}, "the clips that the buckets below are made for"
    order = BatchOrder(tuple(c.latents for c in clips), ((5, 4), (40, 2)), 0)
    windows = Windows(clips, order, [reader(dataset, 5), reader(dataset, 40)])
    shapes = set()
    for step in range(8):
        batch = collate([windows[place] for place in order.batch(step)])
        shapes.add((*batch["video"].shape[:1], batch["video"].shape[2]))
        assert batch["frame_valid"].all()
    assert shapes == {(4, 5), (2, 40)}


def test_splits_are_kept_apart(dataset):
    assert [c.clip_id.partition("-")[0] for c in dataset.clips["val"]] == ["good_retalk1_700_30"]
    assert len(dataset.clips["train"]) == 2


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("metadata.json", None, "no_dataset"),
        ("metadata.json", "{", "no_dataset"),
        ("stats.json", None, "no_dataset"),
        ("metadata.parquet", "nothing", "no_dataset"),
        ("metadata.json", {"format": 99}, "other_format"),
    ],
)
def test_a_folder_that_is_no_dataset_says_so(copy, file, content, reason):
    if content is None:
        (copy / file).unlink()
    elif isinstance(content, dict):
        facts = json.loads((copy / file).read_text())
        (copy / file).write_text(json.dumps({**facts, **content}))
    else:
        (copy / file).write_text(content)
    with pytest.raises(BadInput, match=file) as error:
        Dataset.open(copy)
    assert error.value.reason == reason


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_no_number_is_found_in_every_precision(dtype):
    largest = np.finfo(dtype).max
    assert finite(np.array([0.0, -0.0, 1.5, largest, -largest, np.finfo(dtype).tiny], dtype))
    for value in (np.nan, np.inf, -np.inf):
        assert not finite(np.array([0.0, value], dtype))
