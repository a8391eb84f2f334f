from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from made_clip import make_clip

from dualforce_model import config as configs
from dualforce_model import metadata
from dualforce_model.config import ConfigError
from dualforce_model.errors import BadInput
from dualforce_model.features import FEATURES
from dualforce_model.metadata import MetadataConfig
from dualforce_model.metadata.split import assign, draw, group_of
from dualforce_model.store import read_provenance, read_tensors, write_tensors

FRAMES = {"ann-s0t0": 9, "ann-s1t0": 14, "bob-s0t0": 10, "cy-s0t0": 25}
FILES = ("metadata.parquet", "stats.json", "metadata.json")


def put(run, name, clip_id, arrays, /, statistics=True, **changes):
    feature = FEATURES[name]
    config = feature.config()
    provenance = {
        "identity": f"{name}/{clip_id}",
        "clip_id": clip_id,
        "feature": name,
        "backend": config.backend,
        "version": feature.version,
        "config": configs.to_dict(config),
    }
    if statistics:
        provenance["statistics"] = feature.statistics(arrays)
    write_tensors(run / "features" / name / f"{clip_id}.safetensors", arrays, {**provenance, **changes})


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """Real features of small clips with noise for pictures and sound."""
    run = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for clip_id, frames in FRAMES.items():
        pictures = rng.integers(0, 255, (frames, 32, 32, 3), dtype=np.uint8)
        valid = np.ones(frames, bool)
        valid[3] = clip_id != "bob-s0t0"
        sound = (0.1 * rng.standard_normal(frames * 640)).astype(np.float32)
        clip = make_clip(run / "clips", clip_id, pictures, sound, valid=valid)
        for name, feature in FEATURES.items():
            put(run, name, clip_id, feature.extract(clip, feature.config()))
    return run


@pytest.fixture
def run(extracted, tmp_path):
    shutil.copytree(extracted / "features", tmp_path / "features")
    return tmp_path


def clips(frames=None):
    return [
        {"clip_id": clip_id, "source_id": clip_id[:-5], "source": f"{clip_id[:-5]}.mp4", "frames": count}
        for clip_id, count in (frames or FRAMES).items()
    ]


def build(run, entries=None, face_crop=None, **config):
    folders = {name: run / "features" / name for name in FEATURES}
    return metadata.build(run, clips() if entries is None else entries, folders, MetadataConfig(**config), face_crop)


def read(run):
    return (
        pd.read_parquet(run / "metadata.parquet"),
        json.loads((run / "metadata.json").read_text()),
        json.loads((run / "stats.json").read_text()),
    )


def test_a_sound_run_becomes_a_dataset(run):
    rows = build(run)
    assert [row["clip_id"] for row in rows] == sorted(FRAMES)
    assert {row["status"] for row in rows} == {"accepted"}
    table, card, stats = read(run)
    assert table["clip_id"].tolist() == sorted(FRAMES)
    assert table["frames"].tolist() == [FRAMES[c] for c in sorted(FRAMES)]
    assert table["latents"].tolist() == [3, 4, 3, 7]
    assert all((run / path).exists() for name in FEATURES for path in table[name])
    assert table["video"][0] == "clips/ann-s0t0.mp4"
    assert card["format"] == metadata.FORMAT
    assert (card["size"], card["latent_size"], card["latent_channels"]) == (32, 4, 16)
    assert (card["struct_dim"], card["flame_dim"], card["audio_dim"], card["reference_count"]) == (72, 159, 80, 4)
    assert card["features"]["audio_features"]["backend"] == "log_mel"
    assert sum(side["clips"] for side in card["counts"].values()) == 4
    assert sum(side["frames"] for side in card["counts"].values()) == sum(FRAMES.values())
    assert {name: len(s["mean"]) for name, s in stats.items()} == {
        "latents": 16,
        "struct": 72,
        "flame": 159,
        "audio": 80,
    }


def test_statistics_are_those_of_the_training_clips(run):
    build(run, val_share=0.4)
    table, _, stats = read(run)
    assert set(table["split"]) == {"train", "val"}
    training = table[table["split"] == "train"]["clip_id"]

    def whole(name):
        return [read_tensors(run / "features" / name / f"{clip_id}.safetensors") for clip_id in training]

    struct = np.concatenate([t["struct"][t["valid"]] for t in whole("struct_latents")]).astype(float)
    audio = np.concatenate([t["audio"] for t in whole("audio_features")]).astype(float)
    latents = np.concatenate([t["latents"].reshape(16, -1) for t in whole("video_latents")], axis=1).astype(float)
    for name, values in (("struct", struct), ("audio", audio), ("latents", latents.T)):
        np.testing.assert_allclose(stats[name]["mean"], values.mean(0), atol=1e-6)
        assert set(stats[name]["count"]) == {len(values)}
        steady = values.std(0) < 1e-6
        np.testing.assert_allclose(stats[name]["std"], np.where(steady, 1, values.std(0)), rtol=1e-5)
    assert stats["flame"]["count"][:150] == [0] * 150
    assert stats["flame"]["mean"][:150] == [0.0] * 150
    assert stats["flame"]["std"][:150] == [1.0] * 150
    assert stats["flame"]["count"][150] == len(struct)


def test_a_rerun_gives_the_same_bytes_in_any_order(run):
    build(run)
    before = [hashlib.sha256((run / name).read_bytes()).hexdigest() for name in FILES]
    build(run, clips()[::-1])
    assert [hashlib.sha256((run / name).read_bytes()).hexdigest() for name in FILES] == before


def test_another_dataset_has_another_identity(run):
    build(run)
    first = read(run)[1]["identity"]
    build(run, clips()[:3])
    second = read(run)[1]["identity"]
    audio = read_tensors(run / "features" / "audio_features" / "bob-s0t0.safetensors")
    put(run, "audio_features", "bob-s0t0", {"audio": audio["audio"] + 1})
    build(run, clips()[:3])
    assert len({first, second, read(run)[1]["identity"]}) == 3


def test_the_card_says_how_faces_were_framed(run):
    build(run)
    plain = read(run)[1]
    assert "face_crop" not in plain
    wide = {"backend": "mediapipe", "margin": 2.5, "shift_up": 0.1}
    build(run, face_crop=wide)
    assert read(run)[1] == {**plain, "face_crop": wide}  # and nothing else is another


def damage(run, how):
    path = run / "features" / "struct_latents" / "bob-s0t0.safetensors"
    arrays = read_tensors(path)
    if how == "missing_feature":
        path.unlink()
    elif how == "corrupt_feature":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "foreign_feature":
        put(run, "struct_latents", "bob-s0t0", arrays, clip_id="ann-s0t0")
    elif how == "wrong_shape":
        put(run, "struct_latents", "bob-s0t0", {k: v[:-1] for k, v in arrays.items()})
    elif how == "wrong_type":
        put(run, "struct_latents", "bob-s0t0", {**arrays, "struct": arrays["struct"].astype(np.float16)})
    elif how == "not_finite":
        arrays["struct"][2, 5] = np.nan
        put(run, "struct_latents", "bob-s0t0", arrays, statistics=False)
    elif how == "no_header":
        from safetensors.numpy import save_file

        save_file(arrays, path)


@pytest.mark.parametrize(
    "how",
    ["missing_feature", "corrupt_feature", "foreign_feature", "wrong_shape", "wrong_type", "not_finite", "no_header"],
)
def test_a_broken_clip_is_a_row_with_a_reason_and_nothing_else(run, how):
    damage(run, how)
    rows = {row["clip_id"]: row for row in build(run)}
    bad = rows.pop("bob-s0t0")
    reason = {"wrong_type": "wrong_shape", "no_header": "corrupt_feature"}.get(how, how)
    assert (bad["status"], bad["reason"], bad["split"]) == ("failed", reason, "")
    assert "bob-s0t0.safetensors" in bad["message"]
    assert "struct_latents" in bad["message"]
    assert {row["status"] for row in rows.values()} == {"accepted"}
    table, card, _ = read(run)
    assert "bob-s0t0" not in set(table["clip_id"])
    assert card["refused"] == {reason: 1}


def test_a_clip_that_is_longer_than_its_features_is_refused(run):
    rows = build(run, clips({**FRAMES, "bob-s0t0": 11}))
    assert [row["reason"] for row in rows if row["status"] == "failed"] == ["wrong_shape"]


def test_statistics_that_no_header_states_are_computed(run):
    build(run)
    before = read(run)[2]
    path = run / "features" / "flame" / "cy-s0t0.safetensors"
    put(run, "flame", "cy-s0t0", read_tensors(path), statistics=False)
    assert "statistics" not in read_provenance(path)
    build(run)
    assert read(run)[2] == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "0"}, ["version", '"0"']),
        ({"backend": "other"}, ["backend", '"other"']),
        ({"weights": "abc"}, ["weights", '"abc"', "null"]),
        ({"config": {"backend": "log_mel", "mels": 80, "low_hz": 50.0}}, ["config", "50.0"]),
    ],
)
def test_two_ways_of_making_are_not_mixed(run, changes, words):
    audio = read_tensors(run / "features" / "audio_features" / "cy-s0t0.safetensors")
    put(run, "audio_features", "cy-s0t0", audio, **changes)
    with pytest.raises(BadInput) as caught:
        build(run)
    assert caught.value.reason == "mixed_provenance"
    for word in ("audio_features", "ann-s0t0", "cy-s0t0", *words):
        assert word in str(caught.value)
    assert not (run / "metadata.json").exists()


def test_two_sizes_are_not_mixed(run, tmp_path):
    clip = make_clip(tmp_path / "clips", "cy-s0t0", np.full((25, 64, 64, 3), 90, np.uint8))
    for name in ("video_latents", "reference"):
        put(run, name, "cy-s0t0", FEATURES[name].extract(clip, FEATURES[name].config()))
    with pytest.raises(BadInput) as caught:
        build(run)
    assert caught.value.reason == "mixed_sizes"
    assert "32 px" in str(caught.value)
    assert "64 px" in str(caught.value)


def test_nothing_usable_is_an_error_that_says_why(run):
    shutil.rmtree(run / "features" / "reference")
    with pytest.raises(BadInput, match="missing_feature") as caught:
        build(run)
    assert caught.value.reason == "no_clips"
    with pytest.raises(BadInput, match="none of 0"):
        build(run, [])


def test_no_person_stands_on_two_sides(run):
    for seed in range(12):
        build(run, val_share=0.3, test_share=0.3, seed=seed)
        table, card, _ = read(run)
        assert (table.groupby("group")["split"].nunique() == 1).all()
        assert card["counts"]["train"]["clips"] >= 1
        assert set(table[table["source_id"] == "ann"]["group"]) == {"source:ann"}


def test_a_person_is_a_source_a_folder_or_what_is_known():
    clip = {"clip_id": "x-s0t0", "source_id": "x", "source": "people/ann/1.mp4"}
    assert group_of(clip, MetadataConfig()) == "source:x"
    assert group_of(clip, MetadataConfig(identity_from="folder")) == "folder:people/ann"
    assert group_of({**clip, "source": "1.mp4"}, MetadataConfig(identity_from="folder")) == "source:x"
    assert group_of({**clip, "identity_group": "Ann"}, MetadataConfig(identity_from="folder")) == "Ann"


def test_shares_are_kept_and_a_growing_dataset_moves_nobody():
    config = MetadataConfig(val_share=0.1, test_share=0.2)
    people = [f"person {i}" for i in range(4000)]
    sides = assign(people, config)
    counts = {side: list(sides.values()).count(side) for side in ("train", "val", "test")}
    assert abs(counts["val"] - 400) < 80
    assert abs(counts["test"] - 800) < 110
    assert all(sides[p] == side for p, side in assign(people[:50], config).items())
    assert assign(people, MetadataConfig(val_share=0.1, test_share=0.2, seed=1)) != sides


def test_a_single_person_is_trained_on(run):
    held_out = next(name for name in map(str, range(1000)) if draw(name, 0) < 0.4)
    assert assign([held_out], MetadataConfig(test_share=0.5, val_share=0.2)) == {held_out: "train"}
    one_person = [{**clip, "identity_group": held_out} for clip in clips()]
    build(run, one_person, test_share=0.5)
    called_in = read(run)
    build(run, one_person, test_share=0.0, val_share=0.0)
    drawn = read(run)
    assert set(called_in[0]["split"]) == {"train"}
    assert called_in[2] == drawn[2]  # the statistics, too, are those of all its clips


@pytest.mark.parametrize("shares", [{"val_share": -0.1}, {"val_share": 0.6, "test_share": 0.4}])
def test_shares_that_leave_nothing_are_refused(shares):
    with pytest.raises(ConfigError, match="val_share"):
        MetadataConfig(**shares)
