"""A run of a few seconds, from files as a user writes them: 40 thousand weights, 32 pixels."""

import json
from contextlib import AbstractContextManager
from pathlib import Path

from accelerate import Accelerator

from t2i.denoiser.build import NewModelConfig
from t2i.run_folder import StopSignalHandler
from tests.train.states import assert_equal_bit_for_bit, newest
from train.checkpoint import TrainingState
from train.config.load_config import load_run_config
from train.config.run_config import RunConfig
from train.loop import TrainingRun
from train.parallel.processes import build_accelerator, open_accelerator

TOKENIZER = Path(__file__).resolve().parents[2] / "t2i" / "assets" / "tokenizer"

MODEL = f"""
[vae]
kind = "AutoencoderTiny"
latent_channels = 4
encoder_block_out_channels = [8, 8, 8, 8]
decoder_block_out_channels = [8, 8, 8, 8]
num_encoder_blocks = [0, 1, 1, 1]
num_decoder_blocks = [1, 1, 1, 0]
[unet]
sample_size = 4
block_out_channels = [8, 16]
norm_num_groups = 4
layers_per_block = 1
down_block_types = ["CrossAttnDownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "CrossAttnUpBlock2D"]
attention_head_dim = 2
[text_encoder]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
[tokenizer]
folder = {json.dumps(str(TOKENIZER))}
length = 32
"""

RUN = """
model = "model.toml"
seed = 3
[target]
kind = "denoiser"
[objective]
prediction = "v_prediction"
zero_terminal_snr = true
[data]
kind = "scenes"
size = 32
length = 10
[train]
steps = 4
batch_size = 4
device = "cpu"
log_every = 1
checkpoint_every = 4
[optimizer]
learning_rate = 1e-3
# Above the rounding of the gradients, which Adam would blow up to whole steps.
eps = 1e-5
[rate]
warmup = 2
decay = "cosine"
[ema]
decay = 0.9
"""


def write_run(folder: Path, run: str = RUN, model: str = MODEL) -> Path:
    """The run's TOML, beside the model's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(model)
    path = folder / "tiny.toml"
    path.write_text(run)
    return path


def tiny_run(folder: Path, *overrides: str) -> RunConfig:
    return load_run_config(write_run(folder), overrides)


def tiny_model(folder: Path) -> NewModelConfig:
    write_run(folder)
    return NewModelConfig.load_toml(folder / "model.toml")


def train_only(config: RunConfig, out: Path) -> TrainingState:
    """Train to the last step, without the model that a whole run writes; return the checkpoint."""
    with accelerated_for(config) as accelerator:
        assert TrainingRun(config, out, accelerator).run(StopSignalHandler())
    return newest(out)


def assert_goes_on_bit_for_bit(folder: Path, *overrides: str) -> None:
    """Assert that a tiny run which stops in its middle and goes on ends as one that never stops."""
    overrides = (*overrides, "rate.decay=none")
    whole = train_only(tiny_run(folder, *overrides), folder / "whole")
    train_only(tiny_run(folder, *overrides, "train.steps=2"), folder / "halved")
    halved = train_only(tiny_run(folder, *overrides), folder / "halved")
    assert_equal_bit_for_bit(whole, halved)


def accelerator_for(config: RunConfig) -> Accelerator:
    """Build the accelerator of a run; the caller cleans up."""
    return build_accelerator(config.train, config.optimizer.name)


def accelerated_for(config: RunConfig) -> AbstractContextManager[Accelerator]:
    """Give the accelerator of a run within a block, as the run has it."""
    return open_accelerator(config.train, config.optimizer.name)
