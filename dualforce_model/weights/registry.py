"""Every set of published weights that a backend can use: its purpose, its source, what its licence allows."""

from __future__ import annotations

from dataclasses import dataclass

from dualforce_model.config import near_misses
from dualforce_model.weights.errors import WeightsError

HUB = "hf:"  # a source on the Hugging Face Hub: hf:<owner>/<repository>


@dataclass(frozen=True)
class File:
    """`path` below the set's folder. size (bytes) and sha256 where they are known; else the first fetch pins them.

    url: where it is when not at `<source>/<path>`. member: the file is this member (a pattern) of a zip at `url`.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    url: str | None = None
    member: str | None = None


@dataclass(frozen=True)
class Weights:
    """One set. `source`: hf:<owner>/<repository> or a web address; `revision`: branch, tag or commit of it.

    `by_hand`: how a person gets files that no program may fetch (a form to be signed, a log-in).
    """

    name: str
    purpose: str
    source: str
    revision: str
    files: tuple[File, ...]
    licence: str
    restriction: str = ""
    by_hand: str = ""


def _github(repository: str, commit: str) -> str:
    return f"https://raw.githubusercontent.com/{repository}/{commit}"


_WAN = "hf:Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
_RESEARCH = "non-commercial research only"

_ALL = (
    Weights(
        "wan_vae",
        "video_latents and reference, backend wan_vae; the decoder of generation",
        _WAN,
        "main",
        (File("vae/config.json"), File("vae/diffusion_pytorch_model.safetensors")),
        "Apache-2.0",
    ),
    Weights(
        "liveportrait",
        "struct_latents, backend liveportrait",
        "hf:KlingTeam/LivePortrait",
        "main",
        (File("liveportrait/base_models/motion_extractor.pth"),),
        "MIT",
    ),
    Weights(
        "emoca",
        "flame, backend emoca",
        "https://download.is.tue.mpg.de/emoca/assets/EMOCA/models",
        "EMOCA (2022)",
        (
            File(
                "emoca.ckpt",
                url="https://download.is.tue.mpg.de/emoca/assets/EMOCA/models/EMOCA.zip",
                member="*/detail/checkpoints/*.ckpt",
            ),
        ),
        "EMOCA licence (Max Planck Society)",
        f"{_RESEARCH}; register and agree at https://emoca.is.tue.mpg.de first",
    ),
    Weights(
        "deca",
        "flame, backend deca",
        "https://deca.is.tue.mpg.de",
        "DECA (2021)",
        (File("deca_model.tar"),),
        "DECA licence (Max Planck Society)",
        f"{_RESEARCH}; register and agree at https://deca.is.tue.mpg.de first",
        by_hand="get deca_model.tar by the link in https://github.com/yfeng95/DECA#prepare-data",
    ),
    Weights(
        "hubert_large",
        "audio_features, backend hubert",
        "hf:facebook/hubert-large-ll60k",
        "main",
        (File("config.json"), File("preprocessor_config.json"), File("pytorch_model.bin")),
        "Apache-2.0",
    ),
    Weights(
        "umt5_xxl",
        "text embeddings",
        _WAN,
        "main",
        (
            File("text_encoder/config.json"),
            File("text_encoder/model.safetensors.index.json"),
            *(File(f"text_encoder/model-{part:05d}-of-00005.safetensors") for part in range(1, 6)),
            *(
                File(f"tokenizer/{name}")
                for name in ("special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json")
            ),
        ),
        "Apache-2.0",
    ),
    Weights(
        "buffalo_l",
        "faces, detector insightface (SCRFD-10G); identity embedding (ArcFace ResNet-50)",
        "https://github.com/deepinsight/insightface/releases/download/v0.7",
        "v0.7",
        tuple(
            File(
                name,
                url="https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
                member=f"*{name}",
            )
            for name in ("det_10g.onnx", "w600k_r50.onnx")
        ),
        "InsightFace model licence",
        _RESEARCH,
    ),
    Weights(
        "scrfd_500m",
        "faces, detector insightface, small and quick",
        _github("hpc203/scrfd-opencv", "eee7bf1ee0dbe9615d8d8caaa53702e0d2dca001"),
        "eee7bf1e",
        (
            File(
                "scrfd_500m_kps.onnx",
                2_524_095,
                "517cb1980c72422e676738fc45431700fb7cbee56d0f825b623ee427b3e5ce58",
                url=_github(
                    "hpc203/scrfd-opencv", "eee7bf1ee0dbe9615d8d8caaa53702e0d2dca001/weights/scrfd_500m_kps.onnx"
                ),
            ),
        ),
        "InsightFace model licence",
        _RESEARCH,
    ),
    Weights(
        "face_landmarker",
        "faces, landmarks with 52 blendshapes and the head's matrix",
        _github("BadToBest/EchoMimic", "76cdab1a08cf5f10d9f9fa88957b976e4ea863f8"),
        "76cdab1a",
        (
            File(
                "face_landmarker_v2_with_blendshapes.task",
                3_758_596,
                "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
                url=_github(
                    "BadToBest/EchoMimic",
                    "76cdab1a08cf5f10d9f9fa88957b976e4ea863f8/src/utils/mp_models/face_landmarker_v2_with_blendshapes.task",
                ),
            ),
        ),
        "Apache-2.0",
    ),
    Weights(
        "silero_vad",
        "quality, speech ratio by silero",
        _github("snakers4/silero-vad", "806dcba3f0b5d95282d0889a074954a2f8c6397b"),
        "806dcba3",
        (
            File(
                "silero_vad_16k_op15.onnx",
                1_289_603,
                "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
                url=_github(
                    "snakers4/silero-vad",
                    "806dcba3f0b5d95282d0889a074954a2f8c6397b/src/silero_vad/data/silero_vad_16k_op15.onnx",
                ),
            ),
        ),
        "MIT",
    ),
)

WEIGHTS: dict[str, Weights] = {weights.name: weights for weights in _ALL}


def named(name: str) -> Weights:
    """The set called `name`. Raises WeightsError with near misses."""
    if name not in WEIGHTS:
        raise WeightsError(f"no weights are called {name!r}{near_misses(name, WEIGHTS)}")
    return WEIGHTS[name]
