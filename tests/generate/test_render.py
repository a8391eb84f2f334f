"""From files to a file: bytes, streams, synchrony, and what is refused; the checkpoint folder is all that is needed."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import pandas as pd
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from safetensors.numpy import save_file
from worded import random_text

from dualforce_model import config as strict
from dualforce_model.errors import BadInput, Rejected
from dualforce_model.faces import FaceCropConfig
from dualforce_model.features import face_square, liveportrait
from dualforce_model.features.networks import liveportrait as published
from dualforce_model.generate import GenerateConfig, views
from dualforce_model.generate.__main__ import main
from dualforce_model.generate.inputs import read_picture, read_sound
from dualforce_model.generate.origin import Origin, framing_of
from dualforce_model.generate.render import Extras, crop_face, generate
from dualforce_model.generate.talker import Talker
from dualforce_model.media import read_audio
from dualforce_model.serve import ServeConfig
from dualforce_model.serve.studio import Studio
from dualforce_model.train import checkpoint as checkpoints
from dualforce_model.weights import MissingWeightsError
from tasks.generate import sample_clip
from tasks.run import RunError

ROOT = Path(__file__).resolve().parents[2]
QUICK = GenerateConfig(steps=1)


def test_same_input_same_bytes(checkpoint, picture, speech, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        assert generate(checkpoint, picture, speech, tmp_path / name, QUICK).frames == 31
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    generate(checkpoint, picture, speech, tmp_path / "c.mp4", GenerateConfig(steps=1, seed=5))
    assert (tmp_path / "a.mp4").read_bytes() != (tmp_path / "c.mp4").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "c.mp4"]


def test_sound_and_pictures_are_together_to_within_20_ms(talker, picture, tmp_path):
    """Clicks at known instants, measured in the muxed file, as a player hears them (edit lists applied)."""
    clicks = np.array([0.25, 0.9, 1.5, 2.2])
    sound = 1e-3 * np.random.default_rng(0).standard_normal(40000).astype(np.float32)
    for click in clicks:
        sound[round(click * 16000) :][:16] = 0.9
    made = generate(talker, picture, sound, tmp_path / "out.mp4", QUICK)
    with av.open(str(made.path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        times = [float(frame.time) for frame in container.decode(video)]
    np.testing.assert_allclose(times, np.arange(63) / 25, atol=1e-6)
    raw = subprocess.run(
        [get_ffmpeg_exe(), "-v", "error", "-i", str(made.path), "-f", "f32le", "-ac", "1", "-ar", "16000", "-"],
        capture_output=True,
        check=True,
    ).stdout
    heard = np.abs(np.frombuffer(raw, np.float32))
    assert abs(len(heard) / 16000 - 63 / 25) < 0.1
    for click in clicks:
        around = slice(round((click - 0.1) * 16000), round((click + 0.1) * 16000))
        found = (around.start + heard[around].argmax()) / 16000
        assert abs(found - click) < 0.02


def test_a_real_picture_and_any_sound_file_through_the_command(checkpoint, shared_data, tmp_path):
    """From a copy of the checkpoint folder alone, elsewhere: no run folder is needed."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, copy)
    arguments = ["--checkpoint", copy, "--image", shared_data / "images" / "lp_s9.jpg"]
    arguments += ["--audio", shared_data / "audio" / "echomimic_en.wav", "-o", tmp_path / "out.mp4"]
    arguments += ["--steps", "1", "--seed", "3", "--set", "seconds=1"]
    done = subprocess.run(
        [sys.executable, "-m", "dualforce_model.generate", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'out.mp4'}: 1.00 s\n"
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 25


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_what_may_be_shown_beside_and_measured(talker, picture, speech, tmp_path):
    plain = generate(talker, picture, speech, tmp_path / "plain.mp4", QUICK)
    whole = Extras(side_by_side=True, overlay=True, drift=True)
    made = generate(talker, picture, speech, tmp_path / "all.mp4", QUICK, extras=whole)
    frames, both = decoded(plain.path), decoded(made.path)
    assert frames.shape == (31, 96, 96, 3)
    assert both.shape == (31, 96, 192, 3)
    assert np.abs(both[:, :, :96].astype(int) - picture).mean() < 4  # the picture, through the encoder
    moved = np.abs(both[:, :, 96:].astype(int) - frames).max(-1) > 60
    assert 21 <= moved[0].sum() < 21 * 40  # dots, and otherwise the same frames
    assert np.abs(both[:, :, 96:].astype(int) - frames).mean() < 12
    assert plain.drift is None
    facts = json.loads(made.save_drift().read_text())
    assert facts == made.drift
    assert [row["to_s"] for row in facts["rows"]] == [1.24]
    assert facts["rows"][0]["reference_similarity"] > 0.5


def test_dots_stand_where_the_keypoints_are(run_folder, clip):
    from dualforce_model.features.struct_latents import keypoints_of
    from dualforce_model.store import read_tensors

    face = read_tensors(run_folder / "features" / "struct_latents" / f"{clip.clip_id}.safetensors")["struct"][3]
    blank = np.zeros((96, 96, 3), np.uint8)
    place = views.keypoints({"features": {"struct_latents": {"config": {"backend": "mediapipe"}}}}, blank)
    shown = views.with_landmarks(blank, place(face))
    lit = np.argwhere(shown.any(-1))[:, ::-1]
    points = keypoints_of(face[None], 96)[0, :, :2]
    assert len(lit) > 100
    assert not blank.any()
    for point in points:
        assert np.hypot(*(lit - point).T).min() < 1.5
    for spot in lit:
        assert np.hypot(*(points - spot).T).min() < 3.5
    for where in ((np.nan, 40), (40, 40), (-40, 40), (40, 0)):  # a face that is nowhere is drawn nowhere
        far = face.copy()
        far[6:8] = where
        assert not views.with_landmarks(blank, place(far)).any()


def test_liveportrait_s_keypoints_stand_where_its_network_puts_them(
    talker, clip, picture, speech, tmp_path, monkeypatch
):
    """Random weights, with keypoints small enough to lie in the picture; what is laid out is LivePortrait's own formula."""
    torch.manual_seed(0)
    network = published.MotionExtractor()
    with torch.no_grad():
        network.detector.fc_kp.bias.uniform_(-0.3, 0.3)
    path = tmp_path / "liveportrait" / published.FILE
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path))
    landmarks = clip.read_landmarks()
    square = liveportrait.square_of(
        landmarks["landmarks"][:1], landmarks["valid"][:1]
    )  # of the first frame, the picture
    crop = torch.from_numpy(face_square.take(picture, square, 256)).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        out = network.eval()(crop)
    angles = [published.degrees(out[name]) for name in ("pitch", "yaw", "roll")]
    rotation, scale, shift = published.rotation(*angles), out["scale"], out["t"] * torch.tensor([1, 1, 0])
    wanted = scale * (out["kp"].view(1, 21, 3) @ rotation + out["exp"].view(1, 21, 3)) + shift
    wanted = square[:2] + wanted[0, :, :2].numpy() * square[2] / 2
    features = json.loads(json.dumps(talker.card["features"]))
    features["struct_latents"]["config"] = {"backend": "liveportrait"}
    by = {**talker.card, "features": features}
    face = liveportrait.pack(*(v.numpy() for v in (rotation, out["exp"], shift, scale)))[0]
    found = views.keypoints(by, picture)(face)
    np.testing.assert_allclose(found, wanted, atol=1.5)  # the picture's face is found anew, not within the clip
    assert np.ptp(found, axis=0).min() > 5
    made = generate(replace(talker, card=by), picture, speech, tmp_path / "x.mp4", QUICK, extras=Extras(overlay=True))
    assert made.frames == 31
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path / "nothing"))
    with pytest.raises(MissingWeightsError, match="dualforce weights fetch liveportrait"):
        views.keypoints(by, picture)


def test_a_given_motion_through_the_command(checkpoint, run_folder, clip, tmp_path, capsys):
    Image.fromarray(next(iter(clip.frames()))).resize((400, 400)).save(tmp_path / "face.png")
    motion = run_folder / "features" / "struct_latents" / "good_hdtf_may_512_25-s0t0.safetensors"
    arguments = ["--checkpoint", checkpoint, "--image", tmp_path / "face.png", "--audio", clip.video]
    arguments += ["-o", tmp_path / "out.mp4", "--steps", "1", "--set", "seconds=0.4", "--motion", motion, "--drift"]
    assert main([*map(str, arguments)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'out.mp4'}: 0.40 s, driven for 0.40 s",
        str(tmp_path / "out.drift.json"),
    ]


def test_the_workflows_command_says_and_does_the_same(
    checkpoint_with_text, picture, clip, tmp_path, capsys, monkeypatch
):
    from flows.cli import main as command

    Image.fromarray(picture).resize((400, 400)).save(tmp_path / "face.png")
    save_file({"text": random_text(4)}, tmp_path / "words.safetensors")
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path / "no weights"))

    def call(*more: object) -> int:
        given = ["--checkpoint", checkpoint_with_text, "--image", tmp_path / "face.png", "--audio", clip.video]
        given += ["--steps", 1]
        given += ["--set", "seconds=0.2", "-o", tmp_path / "out.mp4", *more]
        monkeypatch.setattr(sys, "argv", ["dualforce", "generate", *map(str, given)])
        with pytest.raises(SystemExit) as left:
            command()
        return int(left.value.code or 0)

    steered = ["--text", tmp_path / "words.safetensors", "--set", "guidance_text=2", "--side-by-side"]
    assert call(*steered) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.mp4'}: 0.20 s\n"
    assert decoded(tmp_path / "out.mp4").shape == (5, 96, 192, 3)
    for wrong, message in (
        (["--text", "somebody laughs"], "dualforce weights fetch umt5_xxl"),
        (["--text", tmp_path / "face.png.safetensors"], "holds no text embedding"),
        (["--set", "guidance_text=2"], "no text is given"),
        (["--set", "stepz=2"], "did you mean 'steps'"),
        (["--device", "cuda:99"], "there is no cuda:99"),
        (["--device", "meta"], "'meta' is no device to generate on: cpu, cuda, cuda:1"),
        (["--motion", tmp_path / "face.png"], "face.png"),
    ):
        assert call(*wrong) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_any_rate_and_channels_become_16_khz_mono(tmp_path):
    """A tone left and silence right, 44.1 kHz AAC: as long, at the same pitch, and as the face crop hears it."""
    rate, path = 44100, tmp_path / "tone.m4a"
    time = np.arange(2 * rate) / rate
    tone = np.stack([0.5 * np.sin(2 * np.pi * 440 * time), 0 * time]).astype(np.float32)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(tone, "fltp", "stereo")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    heard = read_sound(path, 600)
    assert abs(len(heard) / 16000 - 2) < 0.08  # AAC fills up whole frames
    middle = heard[8000:24000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 440
    np.testing.assert_allclose(heard[:30000], read_audio(path, 0.0, 30000)[0], atol=1e-6)
    assert len(read_sound(path, 600, seconds=0.5)) == 8000


def test_the_video_tower_alone_talks_too(checkpoint_without_struct, picture, speech, run_folder, tmp_path):
    made = generate(checkpoint_without_struct, picture, speech, tmp_path / "out.mp4", QUICK)
    assert made.frames == 31
    out = tmp_path / "out.mp4"
    driven = Extras(motion=run_folder / "features" / "struct_latents" / "good_hdtf_may_512_25-s0t0.safetensors")
    assert refused(checkpoint_without_struct, picture, speech, out, device="cuda:99", extras=driven) == "no_struct"
    assert refused(checkpoint_without_struct, picture, speech, out, extras=Extras(overlay=True)) == "no_landmarks"


def refused(*arguments, kind=BadInput, **named) -> str:
    with pytest.raises(kind) as error:
        generate(*arguments, **named)
    return error.value.reason


def test_bad_sound_is_refused_before_anything_is_loaded(picture, speech, shared_data, tmp_path):
    nowhere, out = tmp_path / "no checkpoint", tmp_path / "out.mp4"
    text = tmp_path / "speech.wav"
    text.write_text("words")
    for sound, reason in (
        (np.zeros(0, np.float32), "empty_audio"),
        (np.zeros(16000, np.float32), "silent_audio"),
        (np.full(16000, np.nan, np.float32), "bad_audio"),
        (np.ones(16000, np.int16), "bad_audio"),
        (np.ones((2, 16000), np.float32), "bad_audio"),
        (np.ones(601 * 16000, np.float32), "too_long"),
        (tmp_path / "missing.wav", "no_sound"),
        (text, "no_sound"),
        (shared_data / "images" / "lp_s9.jpg", "no_sound"),
    ):
        assert refused(nowhere, picture, sound, out) == reason
    assert refused(nowhere, picture, speech, tmp_path / "out.avi") == "wrong_output"
    long = shared_data / "audio" / "hdtf_RD_Radio31_000_en.wav"
    assert refused(nowhere, picture, long, out, GenerateConfig(max_seconds=5)) == "too_long"
    assert refused(nowhere, picture, long, out, GenerateConfig(max_seconds=5, seconds=4)) == "no_checkpoint"
    assert not out.exists()


def test_bad_pictures_are_refused(checkpoint, speech, shared_data, tmp_path):
    out, pixel = tmp_path / "out.mp4", tmp_path / "pixel.png"
    Image.new("RGB", (1, 1)).save(pixel)
    assert refused(checkpoint, tmp_path / "missing.png", speech, out) == "no_picture"
    assert refused(checkpoint, shared_data / "audio" / "echomimic_en.wav", speech, out) == "no_picture"
    assert refused(checkpoint, pixel, speech, out, kind=Rejected) == "no_face"
    group = shared_data / "images" / "insightface_t1_group.jpg"
    assert refused(checkpoint, group, speech, out, kind=Rejected) == "several_faces"


def test_two_hours_are_refused_at_once_with_what_to_do(picture, tmp_path):
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 1, 4000, 1, "NONE", ""))
        file.writeframes(b"\x80")
    header = bytearray(path.read_bytes()[:44])
    header[4:8], header[40:44] = struct.pack("<I", 36 + 28_800_000), struct.pack("<I", 28_800_000)
    with open(path, "wb") as raw:
        raw.write(header)
        raw.truncate(44 + 28_800_000)  # silence that takes no room
    with pytest.raises(BadInput, match=r"120\.0 min.*limit is 10 min.*max_seconds") as error:
        generate(tmp_path / "no checkpoint", picture, path, tmp_path / "out.mp4")
    assert error.value.reason == "too_long"


def test_bad_input_is_refused_before_a_device_is_touched(checkpoint, picture, speech, shared_data, tmp_path):
    """The device asked for does not exist, and that is the last thing that anyone hears of."""
    out, group = tmp_path / "out.mp4", shared_data / "images" / "insightface_t1_group.jpg"
    nowhere = {"device": "cuda:99"}
    assert refused(checkpoint, group, speech, out, kind=Rejected, **nowhere) == "several_faces"
    assert refused(checkpoint, picture, np.zeros(16000, np.float32), out, **nowhere) == "silent_audio"
    assert refused(checkpoint, picture, speech, out, GenerateConfig(guidance_text=2.0), **nowhere) == "no_text"
    assert refused(checkpoint, picture[:64, :64], speech, out, **nowhere) == "wrong_picture"
    mixed = altered(checkpoint, tmp_path / "mixed", "dataset.json", lambda f: f["card"].update(identity="0" * 32))
    assert refused(mixed, picture, speech, out, **nowhere) == "foreign_checkpoint"
    other = altered(checkpoint, tmp_path / "other", "ema/config.json", lambda f: f["video"].update(layers=3))
    assert refused(other, picture, speech, out, **nowhere) == "foreign_checkpoint"
    for device in ("cuda:99", "quantum", "meta", "mps", "cpu:7", "cuda:-1"):
        assert refused(checkpoint, picture, speech, out, device=device) == "no_device"


def test_what_takes_long_to_read_comes_after_all_that_can_be_known_before(
    checkpoint, checkpoint_with_text, checkpoint_without_struct, picture, speech, shared_data, tmp_path
):
    """The motion is a video without a face, the text needs weights that are not there: neither is looked at."""
    slow = Extras(motion=shared_data / "clips" / "bad_noface_7frames_2fps.mp4", text="somebody laughs")
    here, out = {"extras": slow, "device": "cpu"}, tmp_path / "out.mp4"
    assert refused(checkpoint_with_text, picture, speech, out, **{**here, "device": "cuda:99"}) == "no_device"
    short = altered(checkpoint_with_text, tmp_path / "short", "ema/config.json", lambda f: f.update(window=2))
    assert refused(short, picture, speech, out, GenerateConfig(window=3), **here) == "wrong_window"
    assert refused(checkpoint_without_struct, picture, speech, out, extras=Extras(motion=slow.motion)) == "no_struct"
    assert refused(checkpoint, picture, speech, out, **here) == "untrained_text"
    assert refused(checkpoint_with_text, picture[:64, :64], speech, out, **here) == "wrong_picture"
    template = shared_data / "templates" / "liveportrait_laugh.safetensors"
    assert refused(checkpoint, picture, speech, out, device="cpu", extras=Extras(motion=template)) == "other_motion"
    for text, reason in (("  ", "no_text"), (tmp_path / "holes.safetensors", "wrong_text")):
        save_file({"text": np.full((3, 24), np.nan, np.float32)}, tmp_path / "holes.safetensors")
        given = Extras(text=str(text))
        assert refused(checkpoint_with_text, picture, speech, out, device="cpu", extras=given) == reason


def test_a_model_of_short_memory_generates_by_default(checkpoint_of_short_memory, picture, speech, tmp_path):
    checkpoint, out = checkpoint_of_short_memory, tmp_path / "out.mp4"
    assert generate(checkpoint, picture, speech, out, QUICK, device="cpu").frames == 31
    first = out.read_bytes()
    generate(checkpoint, picture, speech, out, GenerateConfig(steps=1, window=2), device="cpu")
    assert out.read_bytes() == first
    assert refused(checkpoint, picture, speech, out, GenerateConfig(window=3), device="cuda:99") == "wrong_window"
    talker = Talker.load(checkpoint, "cpu")
    talker.prepare(QUICK)
    assert [rollout.cache.window for rollouts in talker.idle.values() for rollout in rollouts] == [2]
    with pytest.raises(BadInput, match="at most 2 latents, got 3"):
        talker.prepare(GenerateConfig(window=3))
    assert refused(talker, picture, speech, out, GenerateConfig(window=3)) == "wrong_window"


@pytest.mark.parametrize("name", ["audio", "reference", "text"])
def test_no_guidance_by_what_training_never_left_out(checkpoint_with_text, picture, speech, tmp_path, name):
    always = altered(checkpoint_with_text, tmp_path, "state.json", lambda f: f["config"]["drops"].update({name: 0.0}))
    save_file({"text": random_text(3)}, tmp_path / "words.safetensors")
    config, out = GenerateConfig(steps=1, **{f"guidance_{name}": 2.0}), tmp_path / "out.mp4"
    words = Extras(text=str(tmp_path / "words.safetensors"))
    assert refused(always, picture, speech, out, config, device="cuda:99", extras=words) == "never_dropped"
    talker = Talker.load(always, "cpu")
    assert refused(talker, picture, speech, out, config, extras=words) == "never_dropped"
    assert generate(talker, picture, speech[:3200], out, QUICK, extras=words).frames == 5


def test_where_no_video_can_be_is_said_before_anything_is_loaded(picture, speech, tmp_path):
    nowhere = tmp_path / "no checkpoint"
    (tmp_path / "dir.mp4").mkdir()
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "dir.mp4", tmp_path / "file" / "out.mp4", tmp_path / "file" / "deeper" / "out.mp4"):
        assert refused(nowhere, picture, speech, out) == "wrong_output"
    assert refused(nowhere, picture, speech, tmp_path / "new" / "newer" / "out.mp4") == "no_checkpoint"
    assert not (tmp_path / "new").exists()


def test_a_folder_that_may_not_be_written_into_is_said(picture, speech):
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "closed").mkdir(mode=0o555)
        (Path(folder) / "secret").mkdir(mode=0o000)
        child = os.fork()
        if not child:  # root may write anywhere: somebody else asks
            found = []
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                outs = [Path(folder) / name / "out.mp4" for name in ("closed", "secret", "secret/deeper")]
                found = [refused(Path(folder) / "no", picture, speech, out) for out in outs]
            finally:
                os._exit(found != ["wrong_output"] * 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_pictures_are_framed_as_the_run_framed_its_clips(checkpoint, shared_data):
    """margin 2 leaves more around a face than 1.4; a card that says nothing is of a run with the defaults."""
    whole = read_picture(shared_data / "images" / "lp_s9.jpg")
    card = dict(Origin.read(checkpoint).card)
    assert "face_crop" not in card
    assert framing_of(card) == FaceCropConfig(size=96)
    close = framing_of(card | {"face_crop": strict.to_dict(FaceCropConfig(size=512, margin=1.4))})
    assert close == FaceCropConfig(size=96, margin=1.4)
    assert np.abs(crop_face(whole, 96).astype(int) - crop_face(whole, 96, close)).mean() > 5


def test_a_run_with_another_margin_generates_with_it(checkpoint, speech, shared_data, tmp_path):
    image = shared_data / "images" / "lp_s9.jpg"
    wide = altered(checkpoint, tmp_path / "wide", "dataset.json", lambda f: f["card"].update(face_crop={"margin": 1.4}))
    made = generate(wide, image, speech[:3200], tmp_path / "out.mp4", QUICK, extras=Extras(side_by_side=True))
    shown = decoded(made.path)[0, :, :96].astype(int)
    close = crop_face(read_picture(image), 96, FaceCropConfig(margin=1.4))
    assert np.abs(shown - close).mean() < 4  # through the encoder
    assert np.abs(shown - crop_face(read_picture(image), 96)).mean() > 5
    wrong = altered(checkpoint, tmp_path / "wrong", "dataset.json", lambda f: f["card"].update(face_crop={"margn": 1}))
    assert refused(wrong, image, speech, tmp_path / "out.mp4") == "foreign_checkpoint"


def test_a_server_has_the_same_window_and_framing(checkpoint_of_short_memory, tmp_path):
    def change(facts):
        facts["card"].update(face_crop={"margin": 1.4})

    tight = altered(checkpoint_of_short_memory, tmp_path, "dataset.json", change)
    studio = Studio(tight, ServeConfig(sessions=1, generate=QUICK), "cpu")
    try:
        assert studio.framing == FaceCropConfig(size=96, margin=1.4)
    finally:
        studio.close()
    with pytest.raises(BadInput, match="at most 2 latents"):
        Studio(tight, ServeConfig(sessions=1, generate=GenerateConfig(window=3)), "cuda:99")


def test_sixteen_bits_of_grey_are_scaled(tmp_path):
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(grey).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(
        read_picture(tmp_path / "deep.png"), (grey // 256).astype(np.uint8)[..., None].repeat(3, 2)
    )


def test_a_dataset_without_a_clip_is_said(tmp_path):
    pd.DataFrame({"clip_id": [], "split": []}).to_parquet(tmp_path / "metadata.parquet")
    with pytest.raises(RunError, match=r"metadata\.parquet holds no clip"):
        sample_clip(tmp_path)
    table = {"clip_id": ["a", "c", "b"], "split": ["train", "val", "val"]}
    pd.DataFrame(table).to_parquet(tmp_path / "metadata.parquet")
    assert sample_clip(tmp_path).clip_id == "b"


def altered(checkpoint: Path, root: Path, file: str, change) -> Path:
    """A whole checkpoint, one of whose JSON files says something else."""

    def fill(folder: Path) -> None:
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        (folder / "COMPLETE").unlink()
        facts = json.loads((folder / file).read_text())
        change(facts)
        (folder / file).write_text(json.dumps(facts))

    return checkpoints.write(root, 12, fill)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("dataset.json", lambda f: f["card"].update(identity="0" * 32), "the statistics are of 000"),
        (
            "dataset.json",
            lambda f: f["card"]["features"]["audio_features"].update(version="0"),
            "audio_features of version",
        ),
        ("dataset.json", lambda f: f["card"]["stats"]["audio"].update(mean=[0.0] * 7), "7"),
        ("state.json", lambda f: f["config"].update(stepz=1), "unknown key 'stepz'"),
        ("ema/config.json", lambda f: f["video"].update(layers=3), "lacks"),
        ("ema/config.json", lambda f: f["video"].update(layers=1), "which this model has not"),
        ("ema/config.json", lambda f: f["video"].update(ffn=80), "the model's"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(checkpoint, picture, speech, tmp_path, file, change, message):
    changed = altered(checkpoint, tmp_path, file, change)
    with pytest.raises(BadInput, match=message) as error:
        generate(changed, picture, speech, tmp_path / "out.mp4")
    assert error.value.reason == "foreign_checkpoint"


def test_a_folder_that_is_no_checkpoint_or_damaged_is_refused(checkpoint, picture, speech, tmp_path):
    out = tmp_path / "out.mp4"
    assert refused(tmp_path, picture, speech, out) == "no_checkpoint"
    damaged = tmp_path / "step-000012"
    shutil.copytree(checkpoint, damaged)
    (damaged / "dataset.json").write_text("{}")
    assert refused(damaged, picture, speech, out) == "damaged_checkpoint"


def test_the_command_says_what_is_wrong(checkpoint, shared_data, tmp_path, capsys):
    arguments = ["--checkpoint", checkpoint, "--image", shared_data / "images" / "lp_s9.jpg", "--audio", tmp_path]
    assert main([*map(str, arguments), "-o", str(tmp_path / "out.mp4")]) == 2
    assert "cannot read sound" in capsys.readouterr().err
    assert main([*map(str, arguments), "--set", "stepz=3"]) == 2
    assert "unknown key 'stepz'; did you mean 'steps'" in capsys.readouterr().err
