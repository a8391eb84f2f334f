"""The five features of a clip and their extractors. It knows clips, not how they were made or where results are kept.

Each feature is a module with a config, a `VERSION` (to be changed whenever the same clip and config give other bytes)
and `extract(clip, config)`; `FEATURES` is what the workflow, the metadata and the dataset know of them.
"""

from dualforce_model.features import (
    audio_features,
    emoca,
    flame,
    hubert,
    liveportrait,
    reference,
    struct_latents,
    video_latents,
    wan_vae,
)
from dualforce_model.features.spec import Array, Feature, Published, Summed

_WAN = {"wan_vae": Published(wan_vae.VERSION, wan_vae.WEIGHTS, gib=24)}

_ALL = (
    Feature(
        "video_latents",
        video_latents.VideoLatentsConfig,
        video_latents.VERSION,
        video_latents.extract,
        {"latents": Array("float16", (16, "F", "h", "w"))},
        Summed("latents", axis=0, stated_as="latents"),
        published=_WAN,
    ),
    Feature(
        "struct_latents",
        struct_latents.StructLatentsConfig,
        struct_latents.VERSION,
        struct_latents.extract,
        {"struct": Array("float32", ("T", struct_latents.DIM)), "valid": Array("bool", ("T",))},
        Summed("struct", axis=1, mask="valid", stated_as="struct"),
        published={"liveportrait": Published(liveportrait.VERSION, liveportrait.WEIGHTS)},
    ),
    Feature(
        "flame",
        flame.FlameConfig,
        flame.VERSION,
        flame.extract,
        {"flame": Array("float32", ("T", flame.DIM)), "valid": Array("bool", ("T", flame.DIM))},
        Summed("flame", axis=1, mask="valid", stated_as="flame"),
        published={name: Published(emoca.VERSION, weights) for name, weights in emoca.WEIGHTS.items()},
    ),
    Feature(
        "audio_features",
        audio_features.AudioFeaturesConfig,
        audio_features.VERSION,
        audio_features.extract,
        {"audio": Array("float32", ("2T", "A"))},
        Summed("audio", axis=1, stated_as="audio"),
        letters=lambda config: {"A": audio_features.width_of(config)},
        published={"hubert": Published(hubert.VERSION, hubert.WEIGHTS)},
    ),
    Feature(
        "reference",
        reference.ReferenceConfig,
        reference.VERSION,
        reference.extract,
        {"latents": Array("float16", ("K", 16, "h", "w")), "frames": Array("int64", ("K",))},
        Summed("latents", axis=1),
        letters=lambda config: {"K": config.count},
        published=_WAN,
    ),
)

FEATURES: dict[str, Feature] = {feature.name: feature for feature in _ALL}

__all__ = ["FEATURES", "Array", "Feature", "Published", "Summed"]
