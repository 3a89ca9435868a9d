"""Folders of recorded sources written by earlier commits still open.

recorded_source_v2 was written at commit 12ee288 (torch 2, diffusers 0.42) by
`PromptEditPipeline(**tiny_sd_components()).remember(Prompt("a (red:1.5) apple", "a1111"),
folder=..., seed=7, num_inference_steps=2, height=16, width=16, max_positions=16,
negative_prompt="a cat")`.
"""

import shutil
from pathlib import Path

import torch
from diffusers.configuration_utils import FrozenDict

from pipelines.prompt_to_prompt.prompt_edit import PromptEditPipeline
from pipelines.prompt_to_prompt.recorded_source import load_recorded_source
from pipelines.run.run_provenance import collect_run_provenance
from t2i.text.prompt import Prompt
from tests.tiny import tiny_sd_components

FOLDER = Path(__file__).parent / "recorded_source_v2"


def test_a_folder_of_an_earlier_commit_is_read(tmp_path):
    """Prompt, facts, latents and the recorded rows of every step are those that were written."""
    kept = load_recorded_source(shutil.copytree(FOLDER, tmp_path / "kept"))
    assert kept.prompt == Prompt("a (red:1.5) apple", "a1111")
    assert kept.facts["seed"] == 7
    assert kept.facts["negative_prompt"] == {"text": "a cat"}
    assert kept.bytes == 32256
    assert kept.image.size == (16, 16)
    assert kept.noise is None
    assert torch.equal(kept.latents_after_step(1), kept.latents)
    site = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    row = kept.get_recorded_qkv(site, 0)
    assert row is not None
    assert row.query.shape[0] == row.key.shape[0] == 1
    assert kept.get_recorded_qkv("no.such.site", 0) is None


def test_a_source_of_an_earlier_commit_is_edited(tmp_path):
    """The pipeline draws a target from the recorded rows of a folder of an earlier commit."""
    kept = load_recorded_source(shutil.copytree(FOLDER, tmp_path / "kept"))
    pipe = PromptEditPipeline(**tiny_sd_components())
    pipe.set_progress_bar_config(disable=True)
    # Initial weights may change with torch's random numbers, and the digest of the scheduler's
    # config depended on the process; the recorded values stay.
    here = collect_run_provenance(pipe, {})
    kept.facts |= {name: here[name] for name in ("model", "sampler_config")}
    source, target = pipe(kept, Prompt("a (red:1.5) dog", "a1111"), output_type="latent").images
    assert torch.equal(source[None], kept.latents)
    assert torch.isfinite(target).all()
    assert not torch.equal(source, target)


def test_facts_do_not_depend_on_the_order_of_the_schedulers_defaults():
    """diffusers lists the defaulted config keys in another order in each process."""
    pipe = PromptEditPipeline(**tiny_sd_components())
    before = collect_run_provenance(pipe, {})
    config = pipe.scheduler.config
    defaulted = list(reversed(config["_use_default_values"]))
    assert len(defaulted) > 1
    pipe.scheduler._internal_dict = FrozenDict({**config, "_use_default_values": defaulted})
    assert collect_run_provenance(pipe, {}) == before
