"""Target: a fine-tune of a finished model that learns to draw in few steps (consistency
distillation).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from diffusers import LCMScheduler
from torch import Tensor

from pipelines.text_to_image import TextToImagePipeline
from t2i.conditioning.conditioning import Conditioning
from t2i.denoiser.families import sd
from t2i.denoiser.schedulers import Scheduler
from train.batches.micro_batch import MicroBatch
from train.objective.consistency import ConsistencyDistillation
from train.objective.objective import NoiseLevel, ObjectiveConfig
from train.targets.conditioning import zero_text_embeddings
from train.targets.denoising import NoisyLatentsWithTarget
from train.targets.finetune import FineTuneTarget, FineTuneTargetConfig
from train.targets.reference_model import computing_without_gradients


class DistilledFineTuneTarget(FineTuneTarget):
    """Target that distils the sampler of a finished model into some of its parts: weights, adapters
    or new words.

    Raises ArgumentError for a base model of flow matching.
    """

    def __init__(
        self,
        pipe: TextToImagePipeline,
        config: FineTuneTargetConfig,
        objective: ObjectiveConfig,
        seed: int,
        batch_size: int,
    ) -> None:
        super().__init__(pipe, config, objective, seed, batch_size)
        self._distillation = ConsistencyDistillation(self.objective, config.consistency_steps)
        self._zero_uncond = (
            pipe.text_encoder_2 is not None and pipe.config["force_zeros_for_empty_prompt"]
        )

    def build_scheduler(self) -> Scheduler:
        """Return LCM's scheduler of the base model's noise schedule."""
        config, steps = self._scheduler.config, self.config.consistency_steps
        lcm: Scheduler = LCMScheduler.from_config(config, original_inference_steps=steps)
        return lcm

    def compute_learning_losses(self, batch: MicroBatch, noised: NoisyLatentsWithTarget) -> Tensor:
        """Return the consistency loss of each row, (B,): the distance between the clean latents
        that the student predicts before a step of the base model's sampler, and, without
        gradients, after it.
        """
        distillation = self._distillation
        level, after = noised.level, distillation.noise_level_after_step(noised.level)
        scale_B = self.config.sample_guidance_scales(self.seed, batch.step, batch.slots)
        scale_B = scale_B.to(self.device)
        captions = self._captions(batch)
        with torch.set_grad_enabled(bool(self._trained_encoders()) and torch.is_grad_enabled()):
            conditioning = self._build_guided_conditioning(batch, captions, scale_B)
        student_BCHW = distillation.predict_end_of_trajectory(
            self._denoise(noised, conditioning), noised.noisy_BCHW, level
        )
        assert self._reference is not None
        with self._reference.using_base_weights():
            cond_BCHW = self._denoise(
                noised, self._build_guided_conditioning(batch, captions, scale_B)
            )
            uncond_BCHW = cond_BCHW
            if not self._reads_guidance_scale:
                uncond_BCHW = self._denoise(noised, self._build_uncond_conditioning(batch))
        stepped_BCHW = distillation.solve_step(
            cond_BCHW, uncond_BCHW, scale_B, noised.noisy_BCHW, level
        )
        with computing_without_gradients():
            output_BCHW = self.predict(stepped_BCHW, after.timestep_B, conditioning)
        teacher_BCHW = distillation.predict_end_of_trajectory(output_BCHW, stepped_BCHW, after)
        weight_B1HW = self._loss_weights(batch, student_BCHW)
        loss_B = distillation.compute_losses(student_BCHW, teacher_BCHW, level, weight_B1HW)
        return loss_B if batch.weights_B is None else loss_B * batch.weights_B

    def _noise_level(self, batch: MicroBatch) -> NoiseLevel:
        """Return the random noise level of each row, one where a solver step begins."""
        return self._distillation.noise_level_at_quantile(self._sample_quantiles(batch))

    def _build_guided_conditioning(
        self, batch: MicroBatch, captions: Sequence[str], guidance_scale_B: Tensor
    ) -> Conditioning:
        """Return the conditioning of a batch, with the guidance scale for a UNet that reads it."""
        conditioning = self._build_conditioning(batch, captions)
        if not self._reads_guidance_scale:
            return conditioning
        width = self.unet.config["time_cond_proj_dim"]
        embedding_BD = sd.embed_guidance_scale(guidance_scale_B, width, conditioning.text_BTD)
        return replace(
            conditioning, extra={**conditioning.extra, "guidance_embedding": embedding_BD}
        )

    @property
    def _reads_guidance_scale(self) -> bool:
        return self.unet.config["time_cond_proj_dim"] is not None

    def _build_uncond_conditioning(self, batch: MicroBatch) -> Conditioning:
        """Return the conditioning of the base model's unconditional rows: of the empty caption, or
        of zeros where an SDXL pipeline has `force_zeros_for_empty_prompt`.
        """
        conditioning = self._build_conditioning(batch, [""] * len(batch.captions))
        return zero_text_embeddings(conditioning) if self._zero_uncond else conditioning
