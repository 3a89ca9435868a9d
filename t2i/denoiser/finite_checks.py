"""Checks for NaN and infinities in weights, latents and pixels, which otherwise give black images.

B batch rows, C channels, H W latent size, Y X image size.
"""

import torch
from torch import Tensor, nn

from t2i.errors import GenerationError, ModelError

HALF_PRECISION_REMEDY = (
    "Half precision (float16) reaches 65,504: load the model with dtype=torch.float32."
)


def check_weights_finite(what: str, model: nn.Module) -> None:
    """Raise ModelError if a weight of `model` is NaN or infinite.

    what : origin of the weights, for the message

    One pass over the memory, without a copy. Offloaded weights and weights of integer types are
    skipped.
    """
    for name, weight in model.state_dict().items():
        if not isinstance(weight, Tensor) or weight.is_meta or not weight.is_floating_point():
            continue
        if weight.numel() == 0 or all(bound.isfinite() for bound in torch.aminmax(weight)):
            continue
        count = int((~weight.isfinite()).sum())
        half = f" {HALF_PRECISION_REMEDY}" if weight.dtype == torch.float16 else ""
        raise ModelError(
            f"Refused {what}: of its weight {name}, {count} of {weight.numel()} numbers are NaN or "
            "infinite, and every picture would be black. Copy or download it again; if it was "
            f"trained here, take a checkpoint from before the training went wrong.{half}"
        )


class FiniteLatentsCheck:
    """Check of a run's latents that raises for the first step with NaN or infinite numbers: at once
    on the CPU, at the end of the run on a GPU.

    On a GPU, reading each result at once would synchronize at every step: flags are collected there
    and read at the end of the run.
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.flags: list[tuple[Tensor, str]] = []

    def record_inputs(self, latents_BCHW: Tensor, text_BTD: Tensor) -> None:
        """Record whether a run's initial latents and prompt embeddings are finite, for
        `raise_first_problem`.
        """
        self.record_whether_finite(
            latents_BCHW,
            "The latents that the run begins from have numbers that are NaN or infinite. Check "
            "latents= and the picture that was given; a picture's latents overflow where an "
            f"autoencoder encodes in half precision. {HALF_PRECISION_REMEDY}",
        )
        self.record_whether_finite(
            text_BTD,
            "The embeddings of the prompt have numbers that are NaN or infinite. Check "
            "prompt_embeds=, learned words and LoRAs of the text encoder, and the weights of the "
            f"text encoder. {HALF_PRECISION_REMEDY}",
        )

    def record_step(self, latents_BCHW: Tensor, step: int) -> None:
        """Record whether a run's latents are finite after a step of the scheduler, for
        `raise_first_problem`.
        """
        self.record_whether_finite(
            latents_BCHW,
            f"The latents became NaN or infinite in step {step + 1} of {self.num_steps}, in the "
            "pass of the denoiser or in the sampler. Check the weights and LoRAs that were given; "
            f"lower the guidance; try another sampler. {HALF_PRECISION_REMEDY}",
        )

    def record_after_callbacks(self, latents_BCHW: Tensor, step: int) -> None:
        """Record whether a run's latents are finite after the step callbacks, for
        `raise_first_problem`.
        """
        self.record_whether_finite(
            latents_BCHW,
            f"The latents became NaN or infinite after step {step + 1} of {self.num_steps}, in a "
            "callback or in an edit: check what callback_on_step_end returns.",
        )

    def record_whether_finite(self, numbers: Tensor, problem: str) -> None:
        """Record whether a tensor's numbers are all finite, with the error message `problem` for
        the case that they are not; on the CPU raise at once.
        """
        self.flags.append((numbers.isfinite().all(), problem))
        if numbers.device.type == "cpu":
            self.raise_first_problem()

    def raise_first_problem(self) -> None:
        """Raise GenerationError for the first recorded tensor of a run with NaN or infinite
        numbers; if there is none, discard the records.
        """
        if self.flags and not torch.stack([flag for flag, _ in self.flags]).all():
            raise GenerationError(next(problem for flag, problem in self.flags if not flag))
        self.flags.clear()


def check_pixels_finite(pixels_B3YX: Tensor) -> None:
    """Raise GenerationError for decoded pixels that are NaN or infinite."""
    if pixels_B3YX.isfinite().all():
        return
    black = [row for row, one in enumerate(pixels_B3YX) if not one.isfinite().all()]
    of = f" of picture {', '.join(map(str, black))}" if len(pixels_B3YX) > 1 else ""
    remedy = "Check the weights of the autoencoder, and the latents if they were given."
    if pixels_B3YX.dtype == torch.float16:
        remedy = (
            "Autoencoders such as SDXL's overflow in half precision: decode in full precision, "
            "with pipe.vae.to(torch.float32)."
        )
    raise GenerationError(
        f"The pixels{of} became NaN or infinite when the latents, which were sound, were decoded. "
        f"{remedy}"
    )
