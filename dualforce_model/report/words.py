"""Words of the report: reasons in plain language, names made visible, numbers made short."""

from __future__ import annotations

import math
import unicodedata

REASONS = {
    "several_faces": "More than one face is seen",
    "other_person": "The face becomes somebody else's",
    "no_face": "No human face is seen",
    "blurry": "The face is blurred",
    "near_still": "The face hardly moves: a still picture",
    "no_audio": "There is no sound track",
    "silent_audio": "The sound track is silent",
    "audio_out_of_sync": "Sound and mouth don't go together",
    "too_short": "Too short",
    "truncated": "The end of the file is missing",
    "empty_file": "The file is empty",
    "not_a_video": "The file is not a video",
    "no_video_stream": "The file has no picture",
    "no_permission": "The file may not be read",
    "symlink_loop": "The link leads nowhere but to itself",
    "name_not_utf8": "The file name can't be shown",
    "unreadable": "The file can't be read",
    "corrupt": "The file is damaged",
    "undecodable": "The picture can't be decoded",
    "damaged_clip": "The cropped clip was damaged",
    "face_too_small": "The face is too small",
    "too_dark": "The face is too dark",
    "too_bright": "The face is too bright",
    "low_contrast": "The face has too little contrast",
    "face_too_small_in_crop": "The face is small within its crop: it moves too far",
    "face_lost": "The face is not seen all the time",
    "extreme_pose": "The head is turned too far",
    "frozen_picture": "The picture freezes",
    "damaged_video": "Parts of the picture are damaged",
    "audio_missing_part": "The sound does not last as long as the picture",
    "no_speech": "Nobody speaks",
    "gone": "The video is gone",
    "private": "The video is private",
    "region": "The video is not shown in this country",
    "age": "The video is for adults, seen after signing in",
    "sign_in": "The video is seen after signing in",
    "throttled": "The host sends no more for now",
    "host_refusing": "The host refused everything and was left alone",
    "network": "The connection failed",
    "listed_time_missing": "The list's times lie outside of the video",
    "denied": "On the deny-list",
    "not_tried_yet": "Not tried yet",
    "list_no_times": "The list gives no times",
    "list_no_link": "The list gives no link",
    "audio_undecodable": "The sound can't be decoded",
    "broken_times": "The file's time stamps make no sense",
    "too_long": "Too long",
    "low_frame_rate": "Too few pictures a second",
    "jittery": "The face jumps about",
    "caption_empty": "The caption says nothing",
    "caption_too_long": "The caption is too long",
    "caption_twice": "Several captions say different things",
    "caption_unknown": "Captions name nothing in this run",
}
STAGES = {
    "download": "videos fetched",
    "source": "sources read",
    "face_crop": "face crop",
    "quality": "quality filter",
    "video_latents": "video latents",
    "struct_latents": "struct latents",
    "flame": "FLAME parameters",
    "audio_features": "audio features",
    "reference": "reference pictures",
    "text": "captions embedded",
    "metadata": "metadata",
    "train_video": "video pretraining",
    "train": "training",
    "train_few": "few-step tuning",
    "generate": "generation",
}
# Characters that would turn the text around it: a file name may hold them to look like another one.
TURNING = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(reason: str) -> str:
    """A reason as a person would say it; an unknown one with its underscores taken out."""
    return REASONS.get(reason, reason.replace("_", " ").capitalize())


def visible(name: object) -> str:
    """A name with line breaks and other invisible characters written out, so that nothing hides in it."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cs") or c in TURNING else c
        for c in str(name)
    )


def short(value: object) -> str:
    """A number with three significant digits, `yes`/`no` for a truth value, `not measured` for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{value:.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"
    return visible(value)


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def visible_lines(text: str) -> str:
    """Like `visible`, but a text of several lines stays one."""
    return "\n".join(visible(line) for line in text.split("\n"))
