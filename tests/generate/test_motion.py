"""Motion from a file: templates at any rate, feature files, videos through the workflow's own extractor; refusals."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from safetensors.numpy import load_file, save_file

from dualforce_model.errors import BadInput, Rejected
from dualforce_model.features.liveportrait import unpack
from dualforce_model.features.struct_latents import SCALE, rotation_of
from dualforce_model.generate.motion import Motion, read_motion, resampled, slots_of


def card(talker, backend: str) -> dict:
    """The checkpoint's card, as if its struct stream had been made by `backend`."""
    features = json.loads(json.dumps(talker.card["features"]))
    features["struct_latents"]["config"] = {"backend": backend}
    return {**talker.card, "features": features}


def refused(path, facts, kind=BadInput) -> str:
    with pytest.raises(kind) as error:
        read_motion(path, facts)
    return error.value.reason


@pytest.mark.parametrize(("name", "frames"), [("laugh", 54), ("shake_face", 116), ("d7", 148)])
def test_templates_drive_at_25_frames_a_second(talker, shared_data, name, frames):
    """Rates of 25, 20 and 30; 54, 93 and 178 frames."""
    path = shared_data / "templates" / f"liveportrait_{name}.safetensors"
    motion = read_motion(path, card(talker, "liveportrait"))
    assert motion.struct.shape == (frames, 72)
    assert motion.valid.all()
    stored, back = load_file(path), unpack(motion.struct)
    rate = {"laugh": 25, "shake_face": 20, "d7": 30}[name]
    for frame in range(0, frames, 5):  # every fifth instant of 25 falls on a stored frame at any of these rates
        at = frame * rate / 25
        assert at == int(at)
        for part in ("R", "exp", "t", "scale"):
            np.testing.assert_allclose(back[part][frame], stored[part][int(at)], atol=2e-3)


def test_between_frames_heads_turn_at_an_even_rate():
    angle = np.array([0.0, 0.4, 0.8])
    struct = np.zeros((3, 72), np.float32)
    struct[:, 0], struct[:, 1], struct[:, 3], struct[:, 4] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    struct[:, 8] = 1, 2, 3
    turned = resampled(struct, 12.5)
    assert len(turned) == 5
    found = np.arctan2(rotation_of(turned)[:, 1, 0], rotation_of(turned)[:, 0, 0])
    np.testing.assert_allclose(found, [0, 0.2, 0.4, 0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(turned[:, 8], [1, 1.5, 2, 2.5, 3])


def test_slots_are_those_of_the_dataset():
    motion = Motion(np.arange(11 * 72, dtype=np.float32).reshape(11, 72), np.arange(11) != 3)
    struct, known = slots_of(motion)
    assert struct.shape == (3, 4, 72)
    assert known.tolist() == [True, False, True]
    np.testing.assert_array_equal(struct.reshape(12, 72)[3:], motion.struct[:9])
    assert not struct[0, :3].any()


def test_a_video_is_measured_by_the_workflows_extractor(talker, shared_data, run_folder):
    motion = read_motion(shared_data / "clips" / "good_hdtf_may_512_25.mp4", talker.card)
    stored = load_file(run_folder / "features" / "struct_latents" / "good_hdtf_may_512_25-s0t0.safetensors")
    np.testing.assert_array_equal(motion.struct, stored["struct"])
    np.testing.assert_array_equal(motion.valid, stored["valid"])


def test_a_feature_file_is_taken_as_it_is(talker, run_folder):
    path = run_folder / "features" / "struct_latents" / "good_hdtf_may_512_25-s0t0.safetensors"
    motion = read_motion(path, talker.card)
    np.testing.assert_array_equal(motion.struct, load_file(path)["struct"])
    assert refused(path, card(talker, "liveportrait")) == "other_motion"


def test_feature_files_of_another_shape_are_refused(talker, tmp_path):
    struct, valid = np.zeros((40, 72), np.float32), np.ones(40, bool)
    made = json.dumps({"backend": "mediapipe"})
    for n, (arrays, header) in enumerate(
        (
            ({"struct": struct[:, :70], "valid": valid}, made),
            ({"struct": struct, "valid": valid[:30]}, made),
            ({"struct": struct[:0], "valid": valid[:0]}, made),
            ({"struct": struct[0], "valid": valid}, made),
            ({"struct": np.float32(1), "valid": valid}, made),
            ({"struct": struct * np.nan, "valid": valid}, made),
            ({"struct": struct, "valid": valid}, "mediapipe"),
            ({"struct": struct, "valid": valid}, "[1]"),
        )
    ):
        path = tmp_path / f"{n}.safetensors"
        save_file({name: np.asarray(array) for name, array in arrays.items()}, path, metadata={"dualforce": header})
        assert refused(path, talker.card) == "no_motion"
    save_file({"struct": struct, "valid": valid}, path, metadata={"dualforce": made})
    assert len(read_motion(path, talker.card).struct) == 40


def remade(out, *arguments):
    """A video made by ffmpeg, small and quick."""
    quick = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "20", "-pix_fmt", "yuv420p"]
    subprocess.run([get_ffmpeg_exe(), "-v", "error", *map(str, arguments), *quick, out], check=True)
    return out


def test_a_video_drives_as_long_as_it_lasts(talker, shared_data, tmp_path):
    """More than a minute, which the workflow would cut in two; three pictures a second, so that it is soon measured."""
    may = shared_data / "clips" / "good_hdtf_may_512_25.mp4"
    long = remade(
        tmp_path / "long.mp4", "-stream_loop", 20, "-i", may, "-t", 64, "-r", 3, "-vf", "scale=256:256", "-an"
    )
    motion = read_motion(long, talker.card)
    assert abs(len(motion.struct) - 64 * 25) < 10
    assert motion.valid.mean() > 0.9


def test_a_sound_that_ends_early_does_not_end_the_motion(talker, shared_data, tmp_path):
    may = shared_data / "clips" / "good_hdtf_may_512_25.mp4"
    whole = read_motion(may, talker.card)
    subprocess.run(
        [get_ffmpeg_exe(), "-v", "error", "-i", may, "-af", "atrim=0:1", "-c:v", "copy", tmp_path / "short.mp4"],
        check=True,
    )
    found = read_motion(tmp_path / "short.mp4", talker.card)
    np.testing.assert_array_equal(found.struct, whole.struct)
    np.testing.assert_array_equal(found.valid, whole.valid)


def test_a_face_that_comes_late_drives_from_then_on(talker, shared_data, tmp_path):
    may = shared_data / "clips" / "good_hdtf_may_512_25.mp4"
    whole = read_motion(may, talker.card)
    late = remade(tmp_path / "late.mp4", "-i", may, "-vf", "tpad=start_duration=2:color=gray", "-an", "-t", 4)
    motion = read_motion(late, talker.card)
    assert len(motion.struct) == len(motion.valid) == 100
    assert not motion.valid[:50].any()
    assert motion.valid[60:].all()
    turned = [np.abs(motion.struct[50 + n : 90 + n, :9] - whole.struct[:40, :9]).mean() for n in (0, 10)]
    assert turned[0] < 0.5 * turned[1]  # in step with what is shown
    _, known = slots_of(motion)
    assert not known[:12].any()  # and the model goes by itself until then


def test_a_video_is_framed_as_the_run_framed_its_clips(talker, shared_data, tmp_path):
    """The same head is larger in a tighter crop."""
    may = shared_data / "clips" / "good_hdtf_may_512_25.mp4"
    short = remade(tmp_path / "short.mp4", "-i", may, "-t", 1, "-an")
    wide = read_motion(short, talker.card)
    close = read_motion(short, {**talker.card, "face_crop": {"margin": 1.5}})
    assert close.struct[:, SCALE].mean() > 1.15 * wide.struct[:, SCALE].mean()


def test_what_cannot_drive_is_refused(talker, shared_data, run_folder, tmp_path):
    clips, template = shared_data / "clips", shared_data / "templates" / "liveportrait_laugh.safetensors"
    assert refused(template, talker.card) == "other_motion"
    assert refused(clips / "bad_noface_7frames_2fps.mp4", talker.card, Rejected) == "no_face"
    assert refused(clips / "bad_twofaces_ovi_1344x704_24.mp4", talker.card) == "several_clips"
    assert refused(tmp_path / "nothing.mp4", talker.card) == "no_motion"
    words = tmp_path / "words.safetensors"
    words.write_text("words")
    assert refused(words, talker.card) == "no_motion"
    like, parts = card(talker, "liveportrait"), load_file(template)
    for name, arrays, header in (
        ("rateless", parts, {}),
        ("rate", parts, {"fps": "0"}),
        ("other", {"R": parts["R"]}, {"fps": "25"}),
        ("short", parts | {"t": parts["t"][:3]}, {"fps": "25"}),
        ("hole", parts | {"exp": parts["exp"] * np.nan}, {"fps": "25"}),
        ("unmeasured", parts | {"R": parts["R"] * np.nan}, {"fps": "20"}),
        ("unturned", parts | {"R": parts["R"] * 0}, {"fps": "20"}),
        ("flat", parts | {"R": parts["R"].reshape(-1, 9)}, {"fps": "25"}),
        ("never", parts, {"fps": "nan"}),
        ("at once", parts, {"fps": "inf"}),
    ):
        save_file(arrays, tmp_path / f"{name}.safetensors", metadata=header)
        assert refused(tmp_path / f"{name}.safetensors", like) == "no_motion"
    older = card(talker, "mediapipe")
    older["features"]["struct_latents"]["version"] = "0"
    shutil.copy(clips / "good_hdtf_may_512_25.mp4", tmp_path / "may.mp4")
    assert refused(tmp_path / "may.mp4", older) == "foreign_checkpoint"
