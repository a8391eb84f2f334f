from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from dualforce_model import config
from dualforce_model.config import ConfigError


@dataclass(frozen=True)
class Room:
    min_face_px: float = 128
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    where: Path | None = None

    def __post_init__(self) -> None:
        if self.min_face_px < 0:
            raise ConfigError("min_face_px must not be negative")


@dataclass(frozen=True)
class House:
    name: str = "x"
    quality: Room = field(default_factory=Room)


def test_nested_values_and_overrides():
    values = config.override({"quality": {"kind": "b"}}, ["quality.min_face_px=120", "quality.sizes=[3]"], House)
    house = config.build(House, values)
    assert house.quality == Room(120.0, "b", (3,))
    assert config.build(House, config.to_dict(house)) == house


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("quality.min_face=1", ["quality.min_face", "did you mean", "quality.min_face_px"]),
        ("min_face_px=1", ["quality.min_face_px"]),
        ("quality.kind=c", ["quality.kind", "'c'", "'a'", "'b'"]),
        ("quality.min_face_px=[1]", ["quality.min_face_px"]),
        ("quality.min_face_px=-1", ["quality", "negative"]),
        ("name", ["KEY=VALUE"]),
    ],
)
def test_wrong_overrides_name_the_key_and_what_is_accepted(assignment, words):
    with pytest.raises(ConfigError) as error:
        config.build(House, config.override({}, [assignment], House))
    assert all(word in str(error.value) for word in words)


def test_unknown_key_in_a_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("qualty: {kind: b}\n")
    with pytest.raises(ConfigError, match="unknown key 'qualty'; did you mean 'quality'"):
        config.load(House, path)


def test_yaml_number_without_dot_is_a_number():
    assert config.build(House, {"quality": {"min_face_px": "1e-4"}}).quality.min_face_px == 1e-4


@pytest.mark.parametrize("name", ["a b", "it's: 'x' # y", "line\nbreak", "ünï 🎬", "[1, 2]", "null"])
def test_quoted_text_survives_an_override(name):
    values = config.override({}, [f"name={config.quoted(name)}"], House)
    assert config.build(House, values).name == name
