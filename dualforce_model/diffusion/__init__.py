"""Diffusion forcing: noise levels per frame and stream, losses, schedules and steps. It knows velocities, not networks.

B batch, F latent frames. Clean x, noise n, sigma s in [0,1]: noisy = (1-s) x + s n, velocity = n - x (rectified flow).
"""

from dualforce_model.configs.forcing import DropRates, LossWeights, NoiseConfig
from dualforce_model.diffusion.dropout import drop_conditions
from dualforce_model.diffusion.few_step import taught
from dualforce_model.diffusion.lip import LipConfig, LipScorer
from dualforce_model.diffusion.losses import Terms, by_decile, decile_means, gradient_norms, losses
from dualforce_model.diffusion.noise import (
    Levels,
    add_noise,
    clean_estimate,
    draw_levels,
    generator_for,
    normal,
    velocity_target,
)
from dualforce_model.diffusion.recorded import Recorded
from dualforce_model.diffusion.sampler import ScheduleConfig, chunk_schedule, frame_schedule, integrate
from dualforce_model.diffusion.step import Batch, Draw, Targets, draw, draw_each, learned, terms_of, training_terms

__all__ = [
    "Batch",
    "Draw",
    "DropRates",
    "Levels",
    "LipConfig",
    "LipScorer",
    "LossWeights",
    "NoiseConfig",
    "Recorded",
    "ScheduleConfig",
    "Targets",
    "Terms",
    "add_noise",
    "by_decile",
    "chunk_schedule",
    "clean_estimate",
    "decile_means",
    "draw",
    "draw_each",
    "draw_levels",
    "drop_conditions",
    "frame_schedule",
    "generator_for",
    "gradient_norms",
    "integrate",
    "learned",
    "losses",
    "normal",
    "taught",
    "terms_of",
    "training_terms",
    "velocity_target",
]
