"""The two ends of a run that depend on what is trained: make the target, write what it became."""

from pathlib import Path

from t2i.denoiser.build import Components
from t2i.errors import ModelError
from train.batch import Share, batches
from train.config import RunConfig
from train.data.scenes import Scenes
from train.export import export, export_vae
from train.order import Order
from train.randomness import key
from train.targets import Autoencoder, AutoencoderConfig, Denoiser, Target

MODEL = "model"


def target_of(components: Components, config: RunConfig) -> Target:
    """The target that `config.target` describes, over fresh `components`."""
    batch_size = config.train.batch_size
    if config.target.vae is not None:
        components = finished_vae(components, config.target.vae)
    if isinstance(config.target, AutoencoderConfig):
        return Autoencoder(components, config.target, config.seed, batch_size)
    return Denoiser(components, config.target, config.objective, config.seed, batch_size)


def finished_vae(components: Components, folder: Path) -> Components:
    """The components with the autoencoder that another run finished."""
    kind = type(components.vae)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"No autoencoder in {folder} (target.vae): train it first; "
            "its run writes it when it is finished."
        )
    vae = kind.from_pretrained(folder)
    ours, theirs = components.vae.config["latent_channels"], vae.config["latent_channels"]
    if ours != theirs:
        raise ModelError(
            f"The autoencoder in {folder} has {theirs} latent channels, the model's config {ours}: "
            "train it with the same model config."
        )
    return Components(vae, components.unet, components.text_encoder, components.tokenizer)


def finish(target: Target, config: RunConfig, out: Path, steps: int) -> None:
    """Write the trained model into `out`/model, as the kind of target asks."""
    if isinstance(target, Autoencoder):
        if target.config.encoder:
            samples = Scenes(config.data)
            order = Order(len(samples), key(config.seed, "data"))
            batch = next(batches(samples, order, Share(min(64, len(samples))), range(1)))
            target.to("cpu").measure_scale(batch)
        export_vae(target.vae, out / MODEL)
        return
    assert isinstance(target, Denoiser)
    notes = {
        "defaults": {
            "steps": config.samples.steps,
            "guidance_scale": config.samples.guidance_scale,
            "sampler": "ddim",
        },
        "trained": {"steps": steps, "config": config.model_dump(mode="json")},
    }
    export(target.components, config.objective, out / MODEL, notes=notes)
