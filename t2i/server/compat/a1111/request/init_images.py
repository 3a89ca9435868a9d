"""The picture and the mask of img2img: uploaded for its job, and opened again to paste the drawn
part into the picture.

Both are decoded at most a few at once over the whole server, and not kept decoded in between.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from t2i.errors import ArgumentError
from t2i.pictures import build_png_text_chunks, open_picture
from t2i.server.compat.a1111.request.bodies import Img2ImgBody
from t2i.server.compat.a1111.request.encoded_pictures import decode_base64
from t2i.server.compat.a1111.request.inpainting import (
    InpaintingPlan,
    choose_size,
    crop_to_aspect_if_asked,
    plan_inpainting,
)
from t2i.server.compat.early_checks import check_job_fields_without_pictures
from t2i.server.jobs.job_service import JobService


def upload_init_images_as_job_fields(
    body: Img2ImgBody, fields: dict[str, Any], owner: str, service: JobService
) -> dict[str, str]:
    """Store the init image, and the mask, of an A1111 img2img body as uploads, and return the
    fields of its jobs that name them.

    fields : the others of its jobs, which are checked before a picture is decoded

    Raises T2IError for what is no picture, and for settings that are not done here.
    """
    count = len(body.init_images or [])
    if count != 1:
        raise ArgumentError(
            f"Got {count} init_images: expected one, as base64. Send a request for each picture."
        )
    check_job_fields_without_pictures(fields, service)
    uploads = service.uploads
    original = uploads.add(_decode_init_image(body), "init_images.png", owner)
    width, height = choose_size((original.width, original.height), body)
    check_job_fields_without_pictures(fields | {"width": width, "height": height}, service)
    if body.mask:
        mask = uploads.add(decode_base64("mask", body.mask), "mask.png", owner)
        with uploads.decoding:
            plan = _plan(original.path, mask.path, body)
            encoded = [encode_png(picture, {}) for picture in plan.build_inputs()]
        return {
            name: uploads.add(data, f"{name}.png", owner).id
            for name, data in zip(("image", "mask"), encoded, strict=True)
        }
    with uploads.decoding:
        picture = open_picture(original.path)
        shaped = crop_to_aspect_if_asked(picture, body)
        if shaped is picture:
            return {"image": original.id}
        data = encode_png(shaped, {})
    return {"image": uploads.add(data, "image.png", owner).id}


def paste_into_init_image(
    drawn: Path, texts: dict[str, str], body: Img2ImgBody, service: JobService
) -> bytes:
    """Return the PNG of the init image of a masked A1111 img2img body, with a drawn image pasted
    into its masked part.

    texts : metadata of the PNG
    """
    with service.uploads.decoding, tempfile.TemporaryDirectory() as folder:
        picture, mask = Path(folder) / "init_images", Path(folder) / "mask"
        picture.write_bytes(_decode_init_image(body))
        mask.write_bytes(decode_base64("mask", body.mask or ""))
        plan = _plan(picture, mask, body)
        return encode_png(plan.paste(open_picture(drawn).convert("RGB")), texts)


def encode_png(picture: Image.Image, texts: dict[str, str]) -> bytes:
    """Return the bytes of an image as a PNG with metadata texts."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", pnginfo=build_png_text_chunks(texts, "image"))
    return stream.getvalue()


def _decode_init_image(body: Img2ImgBody) -> bytes:
    (text,) = body.init_images or []
    return decode_base64("init_images", text)


def _plan(picture: Path, mask: Path, body: Img2ImgBody) -> InpaintingPlan:
    # Here, for it imports torch, which the server's process needs for this alone.
    from pipelines.images.input_images import to_opaque_rgb

    return plan_inpainting(to_opaque_rgb(open_picture(picture)), open_picture(mask), body)
