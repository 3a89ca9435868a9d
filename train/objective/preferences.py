"""Preference loss: raises the likelihood of the better of two pictures of one prompt.

Wallace et al. (2023), Diffusion-DPO, arXiv 2311.12908, Equation 14. B batch rows.
"""

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import logsigmoid


class PreferenceConfig(BaseModel):
    """Configuration of learning from preference pairs (Diffusion-DPO); its key is part of a
    target's configuration, which inherits it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preference_beta: float = Field(0.0, ge=0)
    """Strength of the tie to the base model in learning from pairs, 2000 to 5000 in the paper;
    0 trains on single pictures instead."""


def compute_preference_loss(better_B: Tensor, worse_B: Tensor, beta: float) -> Tensor:
    """Return the Diffusion-DPO loss -log sigmoid(-beta / 2 (better - worse)), (B,).

    better_B, worse_B : error of the trained model less that of the base model, on the two pictures
        of a pair under the same noise

    Equation 14 with beta T omega(lambda) as one number, halved as the authors' own code does. The
    errors are those of the run's objective, so omega is its weight: the paper's is constant over
    the error of the noise, eps. Predicting v, |eps - eps'|^2 = alpha^2 |v - v'|^2, so a constant
    weight on v is 1 / alpha^2 on eps: strong noise, where a layout is decided, counts for more.
    """
    return -logsigmoid(-beta / 2 * (better_B - worse_B))
