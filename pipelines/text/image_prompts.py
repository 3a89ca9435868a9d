"""Encoding of image prompts for IP-Adapters that diffusers has loaded.

B batch rows (here: images), I images of one prompt, C channels, Y X their size.
"""

from typing import Any

import torch
from diffusers.models.embeddings import (
    ImageProjection,
    IPAdapterFaceIDImageProjection,
    IPAdapterFaceIDPlusImageProjection,
    IPAdapterPlusImageProjection,
)
from torch import Tensor

from pipelines.run.call_arguments import CallArguments
from t2i.conditioning.conditioning import Branch
from t2i.denoiser.families.sd import IMAGE_PROMPT_PREFIX
from t2i.errors import ArgumentError
from t2i.terminal import plural

FaceIDProjection = IPAdapterFaceIDImageProjection | IPAdapterFaceIDPlusImageProjection
UncondAndCondEmbeddings = tuple[Tensor | None, Tensor]
"""Rows of one adapter for "uncond", if it is needed, and for every other branch."""


def encode_image_prompts(
    pipe: Any,
    call: CallArguments,
    branches: tuple[Branch, ...],
    num_images: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Encode the images for IP-Adapters as entries of `Conditioning.extra`, one tensor per adapter.

    Raises ArgumentError where the numbers of images and adapters differ.
    """
    images, embeds = call.ip_adapter_image, call.ip_adapter_image_embeds
    projection = getattr(pipe.unet, "encoder_hid_proj", None)
    layers = getattr(projection, "image_projection_layers", ())
    if images is None and embeds is None:
        if len(layers):
            raise ArgumentError(
                f"{len(layers)} IP-Adapters are loaded, but no image is given: give "
                "ip_adapter_image, or remove them with pipe.unload_ip_adapter()."
            )
        return {}
    if images is not None and embeds is not None:
        raise ArgumentError("Got both ip_adapter_image and ip_adapter_image_embeds: give one.")
    given = images if embeds is None else embeds
    given = given if isinstance(given, list | tuple) else [given]
    if len(given) != len(layers):
        raise ArgumentError(
            f"Got {plural(len(given), 'image')} or embeddings for {len(layers)} IP-Adapters: "
            "give a list with one for each; load one with pipe.load_ip_adapter(...)."
        )

    extra = {}
    for number, (one, layer) in enumerate(zip(given, layers, strict=True)):
        if isinstance(layer, IPAdapterFaceIDPlusImageProjection) and layer.clip_embeds is None:
            raise ArgumentError(
                f"IP-Adapter {number} is FaceID Plus, which reads the CLIP embedding of the face, "
                "too: set pipe.unet.encoder_hid_proj.image_projection_layers"
                f"[{number}].clip_embeds first, as in diffusers."
            )
        if embeds is None:
            uncond, cond = encode_adapter_image_as_uncond_and_cond(pipe, one, layer, device)
        else:
            check_embeddings_are_tensor(number, one)
            uncond, cond = split_image_prompt_embeddings(one.to(device), "uncond" in branches)
        check_embedding_width(number, cond, layer)
        rows = [uncond if branch == "uncond" else cond for branch in branches]
        extra[f"{IMAGE_PROMPT_PREFIX}{number}"] = torch.cat(
            [torch.cat([row] * (num_images // row.shape[0])) for row in rows if row is not None]
        )
    return extra


def encode_adapter_image_as_uncond_and_cond(
    pipe: Any, image: Any, layer: Any, device: torch.device
) -> UncondAndCondEmbeddings:
    """Encode the image of one IP-Adapter, for FaceID an embedding of a face; return the embeddings
    (1, I, ...) of an empty image and of it.
    """
    if isinstance(layer, FaceIDProjection):
        cond = check_face_embedding(image, layer).to(device, pipe.unet.dtype)
        return torch.zeros_like(cond)[None], cond[None]
    encoder = pipe.image_encoder
    if encoder is None:
        raise ArgumentError(
            "The pipeline has no image_encoder to read ip_adapter_image with: load_ip_adapter "
            "brings it (image_encoder_folder=...), or give ip_adapter_image_embeds."
        )
    if isinstance(image, Tensor) and image.ndim != 4:
        raise ArgumentError(
            f"Got a tensor of the shape {tuple(image.shape)} for an IP-Adapter that sees pictures: "
            "expected a picture, or a tensor (images, channels, height, width). The embedding of a "
            "face is for FaceID adapters."
        )
    if not isinstance(image, Tensor):
        image = pipe.feature_extractor(image, return_tensors="pt").pixel_values
    pixels_ICYX = image.to(device, encoder.dtype)
    if isinstance(layer, ImageProjection):
        cond = encoder(pixels_ICYX).image_embeds
        return torch.zeros_like(cond)[None], cond[None]
    black_ICYX = torch.zeros_like(pixels_ICYX)
    cond, uncond = (
        encoder(pixels, output_hidden_states=True).hidden_states[-2]
        for pixels in (pixels_ICYX, black_ICYX)
    )
    return uncond[None], cond[None]


def find_embedding_width(layer: Any) -> int:
    """Return the width of the embeddings that the image projection of an IP-Adapter reads."""
    if isinstance(layer, ImageProjection):
        first: Any = layer.image_embeds
    elif isinstance(layer, IPAdapterPlusImageProjection):
        first = layer.proj_in
    else:
        is_plus = isinstance(layer, IPAdapterFaceIDPlusImageProjection)
        first = (layer.proj if is_plus else layer.ff).net[0].proj
    width: int = first.in_features
    return width


def check_embeddings_are_tensor(number: int, embeddings: object) -> None:
    """Raise ArgumentError unless the embeddings of an adapter's image prompt are one tensor.

    number : of the adapter
    """
    if isinstance(embeddings, Tensor) and embeddings.ndim >= 3:
        return
    got = f"a {type(embeddings).__name__}"
    if isinstance(embeddings, Tensor):
        got = f"a tensor of the shape {tuple(embeddings.shape)}"
    raise ArgumentError(
        f"Got {got} as the embeddings of IP-Adapter {number} in ip_adapter_image_embeds: expected "
        "a tensor (rows, images, ...), as pipe.prepare_ip_adapter_image_embeds of diffusers makes. "
        "Pictures go to ip_adapter_image."
    )


def check_embedding_width(number: int, embedding: Tensor, layer: Any) -> None:
    """Raise ArgumentError for embeddings of another width than an adapter reads: those of another
    image encoder.

    number : of the adapter
    """
    width = find_embedding_width(layer)
    if embedding.shape[-1] != width:
        raise ArgumentError(
            f"IP-Adapter {number} reads embeddings of width {width}, but those of its image have "
            f"{embedding.shape[-1]}: it was trained with another image encoder. Load that one, or "
            "an adapter for this encoder."
        )


def check_face_embedding(embedding: object, layer: FaceIDProjection) -> Tensor:
    """Return the embeddings of faces for a FaceID adapter, (I, D).

    Raises ArgumentError for anything but a tensor (D,) or (I, D) of the adapter's width, of finite
    numbers.
    """
    width = find_embedding_width(layer)
    if not isinstance(embedding, Tensor) or embedding.ndim not in (1, 2):
        got = type(embedding).__name__
        if isinstance(embedding, Tensor):
            got = f"a tensor of the shape {tuple(embedding.shape)}"
        raise ArgumentError(
            f"Got {got} for a FaceID adapter, which sees no picture: expected the embedding of a "
            f"face, a tensor ({width},) or (faces, {width}), such as the normed_embedding of "
            "insightface."
        )
    if embedding.shape[-1] != width:
        raise ArgumentError(
            f"Got the embedding of a face of width {embedding.shape[-1]}, but this FaceID adapter "
            f"reads {width}: make it with the recogniser that the adapter was trained with."
        )
    if not torch.isfinite(embedding).all():
        raise ArgumentError("Got the embedding of a face with numbers that are not finite.")
    return embedding if embedding.ndim == 2 else embedding[None]


def split_image_prompt_embeddings(embeds: Tensor, guided: bool) -> UncondAndCondEmbeddings:
    """Split image prompt embeddings in diffusers' form into those for "uncond" and for the other
    branches.
    """
    if not guided:
        return None, embeds
    if embeds.shape[0] % 2:
        raise ArgumentError(
            f"Got ip_adapter_image_embeds of {plural(embeds.shape[0], 'row')}: with guidance "
            "half of them are of the empty picture, as pipe.prepare_ip_adapter_image_embeds of "
            "diffusers makes."
        )
    uncond, cond = embeds.chunk(2)
    return uncond, cond
