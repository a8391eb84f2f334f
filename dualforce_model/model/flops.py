"""The arithmetic of one pass, counted: 2 per multiply-add, attention only where a query may see a key.

B batch, F latents, N video tokens and M struct tokens per latent, S text tokens, D width.
A training step counts three forward passes (backward is two); recomputation is not counted as work done.
"""

from __future__ import annotations

from dualforce_model.configs.shape import ModelConfig, TowerConfig


def forward_flops(config: ModelConfig, frames: int, batch: int, tokens: int, text: int) -> dict[str, float]:
    """FLOPs of one forward pass by part; `tokens` = N, `text` = S."""
    F, B, N, M, S = frames, batch, tokens, config.struct_tokens, text
    W = config.window or F
    seen = sum(min(f + 1, W) for f in range(F))  # pairs of frames
    count = {"reference": 0.0, "video linear": 0.0, "video attention": 0.0, "struct": 0.0, "bridge": 0.0}

    def linear(rows: float, inputs: int, outputs: int) -> float:
        return 2.0 * rows * inputs * outputs

    def attention(pairs: float, width: int) -> float:
        return 4.0 * pairs * width  # logits, and weights times values

    def conditions(size: TowerConfig, rows: int) -> float:
        D, sound = size.width, B * (8 * (F - 1) + config.audio_span)
        text_work = linear(rows, D, 2 * D) + linear(B * S, D, 2 * D) + attention(rows * S, D)
        audio_work = linear(rows, D, 2 * D) + linear(sound, D, 2 * D) + attention(rows * config.audio_span, D)
        front = linear(B * S, config.text_dim, D) + linear(B * S, D, D)
        front += linear(sound, config.audio_dim, D) + linear(sound, D, D) if size.audio_layers else 0
        return size.layers * text_work + size.audio_layers * audio_work + front

    video, D = config.video, config.video.width
    rows, area = B * F * N, config.patch**2
    body = linear(rows, D, 4 * D) + linear(rows, D, 2 * video.ffn)
    ends = linear(rows, D, (config.video_inputs + config.latent_channels) * area)
    count["video linear"] = video.layers * body + ends + conditions(video, rows) + _noise(B * F, D)
    count["video attention"] = video.layers * attention(B * N * N * (seen + F), D)  # the sink is one more frame to all
    still = linear(B * N, D, 4 * D) + linear(B * N, D, 2 * video.ffn) + attention(B * N * N, D)
    count["reference"] = (video.layers - 1) * still + linear(B * N, D, 3 * D)
    count["reference"] += linear(B * N, config.video_inputs * area, D) + _noise(B, D)
    if config.struct is None:
        return count
    struct, E = config.struct, config.struct.width
    rows = B * F * M
    body = linear(rows, E, 4 * E) + linear(rows, E, 2 * struct.ffn) + attention(B * M * M * seen, E)
    ends = 2 * linear(rows, E, config.struct_inputs)
    count["struct"] = struct.layers * body + ends + conditions(struct, rows) + _noise(B * F, E)
    bridges = len(config.bridge_layers)
    if config.bridge.direction != "video_to_struct":
        work = linear(B * F * N, D, 2 * D) + linear(B * F * M, E, 2 * D) + attention(B * N * M * seen, D)
        count["bridge"] += bridges * work
    if config.bridge.direction != "struct_to_video":
        work = linear(B * F * M, E, 2 * E) + linear(B * (F + 1) * N, D, 2 * E) + attention(B * M * N * (seen + F), E)
        count["bridge"] += bridges * work
    return count


def _noise(rows: int, width: int) -> float:
    return 2.0 * rows * (256 * width + 7 * width * width)


def step_flops(config: ModelConfig, frames: int, batch: int, tokens: int, text: int) -> float:
    """FLOPs of a training step: forward, and twice that backward."""
    return 3 * sum(forward_flops(config, frames, batch, tokens, text).values())
