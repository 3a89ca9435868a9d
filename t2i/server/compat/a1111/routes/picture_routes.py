"""Route of A1111's API about the metadata of a picture: png-info."""

import tempfile
from pathlib import Path

from fastapi import APIRouter

from t2i.cli.metadata.embedded_texts import read_embedded_texts
from t2i.cli.metadata.reading import read_metadata
from t2i.errors import DataError
from t2i.server.compat.a1111.answers.error_route import ERROR_RESPONSES, A1111Route
from t2i.server.compat.a1111.answers.generation_info import build_a1111_settings
from t2i.server.compat.a1111.answers.response_schemas import PictureInfo
from t2i.server.compat.a1111.request.bodies import PictureBody
from t2i.server.compat.a1111.request.encoded_pictures import decode_base64

router = APIRouter(
    prefix="/sdapi/v1", tags=["A1111"], route_class=A1111Route, responses=ERROR_RESPONSES
)


@router.post("/png-info")
def read_picture_info(body: PictureBody) -> PictureInfo:
    """Return how a picture was made, by the metadata of t2i, A1111, ComfyUI, InvokeAI or Fooocus.

    All is empty for a picture without metadata.
    """
    data = decode_base64("image", body.image)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(data)
        try:
            texts = read_embedded_texts(path).texts
        except DataError as error:
            raise DataError(str(error).replace(str(path), "The image")) from None
        try:
            parameters = build_a1111_settings(read_metadata(path))
        except DataError:
            parameters = {}
    return PictureInfo(info=texts.get("parameters", ""), items=texts, parameters=parameters)
