"""Parser of ComfyUI's graph: from the sampler its links lead to prompts, size and model."""

from collections import ChainMap
from collections.abc import Mapping
from itertools import islice

from t2i.cli.metadata.comfyui_graph import (
    ComfyUIGraph,
    ComfyUINode,
    parse_prompt_graph,
    parse_workflow_graph,
)
from t2i.cli.metadata.parsed_metadata import (
    ImageMetadata,
    Json,
    MetadataSettings,
    MetadataValueParser,
    parse_json_object,
)
from t2i.errors import DataError

TOOL_NAME = "ComfyUI"
TEXT_INPUTS = ("text", "text_g", "t5xxl", "clip_l", "clip_g", "text_l")
"""Names of a text encoder's prompt input, the most complete first."""
CUSTOM_SAMPLER_INPUTS = ("noise", "guider", "sampler", "sigmas")
"""Inputs of a custom sampler, linked to the nodes that hold its settings."""
SPACING_BY_NODE = {"KarrasScheduler": "karras", "ExponentialScheduler": "exponential"}
"""Class of a scheduler node -> spacing of the noise levels."""
MAX_SAMPLERS = 20
"""Maximum number of samplers of a graph that are examined."""
CHECKPOINT_INPUTS = ("ckpt_name", "unet_name", "model_name")
"""Names of a loader's input that names the checkpoint."""
IGNORED_NODES = {
    *("VAEDecode", "VAEDecodeTiled", "VAELoader", "SaveImage", "PreviewImage", "CLIPLoader"),
    *("DualCLIPLoader", "TripleCLIPLoader", "Note", "MarkdownNote", "Reroute"),
}
"""Nodes without influence on the image's settings."""


def find_comfyui_metadata(texts: Mapping[str, str]) -> ImageMetadata | None:
    """Return the generation metadata of the ComfyUI graph among an image's texts, or None.

    Raises DataError for a graph that cannot be parsed. `prompt` is the graph as it ran; `workflow`
    the editor's page, read where that is missing.
    """
    if "prompt" in texts:
        text = texts["prompt"]
        return parse_comfyui_graph(parse_prompt_graph(parse_json_object("prompt", text)), text)
    if "workflow" in texts:
        text = texts["workflow"]
        return parse_comfyui_graph(parse_workflow_graph(parse_json_object("workflow", text)), text)
    return None


def parse_comfyui_graph(graph: ComfyUIGraph, raw: str) -> ImageMetadata:
    """Parse a ComfyUI graph into image metadata, following links upstream from a sampler.

    raw : the text that the graph was parsed from
    Raises DataError for a graph without a sampler.
    """
    parser = MetadataValueParser()
    samplers = _find_samplers(graph)
    # Of several that follow on one another, the one that starts from noise says the most.
    starts = {node.name: _find_latent_source(graph, node) for node in samplers}
    sampler = next((node for node in samplers if _is_empty_latent(starts[node.name])), samplers[0])
    for other in samplers:
        if other is not sampler:
            parser.record_not_understood(
                f"node {other.name}", f"{other.class_type} samples once more"
            )

    seen = {sampler.name, *(node.name for node in _linked_parts(graph, sampler))}
    prompt = _collect_prompt(graph, sampler, "positive", parser, seen)
    negative_prompt = _collect_prompt(graph, sampler, "negative", parser, seen)
    model = _find_model(graph, sampler, parser, seen)
    size = _parse_start(graph, starts[sampler.name], parser, seen)
    settings = _parse_settings(graph, sampler, size, model, parser)
    for node in graph.nodes.values():
        if (
            node.name not in seen
            and node.class_type not in IGNORED_NODES
            and node.name not in starts
        ):
            parser.record_not_understood(f"node {node.name}", node.class_type)
    return parser.build_metadata(TOOL_NAME, prompt, negative_prompt, settings, raw)


def _find_samplers(graph: ComfyUIGraph) -> list[ComfyUINode]:
    whole = (_merge_parts(graph, node) for node in graph.nodes.values())
    samplers = list(islice(filter(_is_sampler, whole), MAX_SAMPLERS))
    if not samplers:
        kinds = sorted({node.class_type for node in graph.nodes.values()})
        raise DataError(f"ComfyUI: a graph without a sampler among {', '.join(kinds):.80}")
    return samplers


def _find_model(
    graph: ComfyUIGraph, sampler: ComfyUINode, parser: MetadataValueParser, seen: set[str]
) -> Json:
    """Return the name of the checkpoint upstream of the sampler; other nodes there are reported."""
    for node in graph.iter_upstream(sampler, ("model",)):
        seen.add(node.name)
        for key in CHECKPOINT_INPUTS:
            if model := graph.resolve_value(node, key):
                return model
        values = {
            key: v for key, v in node.inputs.items() if not graph.find_linked_node_and_output(v)
        }
        parser.record_not_understood(node.class_type, values)
    return None


def _parse_start(
    graph: ComfyUIGraph, start: ComfyUINode | None, parser: MetadataValueParser, seen: set[str]
) -> tuple[int | None, int | None]:
    """Return width and height of the empty latents that sampling starts from."""
    if start is not None and _is_empty_latent(start):
        seen.add(start.name)
        width, height = (graph.resolve_value(start, side) for side in ("width", "height"))
        return parser.parse_width_and_height(width, height)
    if start is not None:
        why = f"{start.class_type}: the picture did not begin from noise"
        parser.record_not_understood(f"node {start.name}", why)
    return None, None


def _parse_settings(
    graph: ComfyUIGraph,
    sampler: ComfyUINode,
    size: tuple[int | None, int | None],
    model: Json,
    parser: MetadataValueParser,
) -> MetadataSettings:
    def value(key: str) -> Json:
        return graph.resolve_value(sampler, key)

    settings = MetadataSettings(
        num_inference_steps=parser.parse_steps(value("steps")),
        sampler=parser.parse_sampler(value("sampler_name"), value("scheduler")),
        guidance_scale=parser.parse_float("cfg", value("cfg")),
        seed=parser.parse_seed(value("seed" if "seed" in sampler.inputs else "noise_seed")),
        width=size[0],
        height=size[1],
        model=parser.parse_string("model", model),
    )
    if value("denoise") not in (None, 1, "1"):
        parser.record_not_understood("denoise", value("denoise"))
    if value("start_at_step") not in (None, 0, "0"):
        parser.record_not_understood("start_at_step", value("start_at_step"))
    return settings


def _linked_parts(graph: ComfyUIGraph, node: ComfyUINode) -> list[ComfyUINode]:
    links = (
        graph.find_linked_node_and_output(node.inputs[key])
        for key in CUSTOM_SAMPLER_INPUTS
        if key in node.inputs
    )
    return [link[0] for link in links if link is not None]


def _merge_parts(graph: ComfyUIGraph, node: ComfyUINode) -> ComfyUINode:
    """Return a sampler with the inputs of the nodes that its seed, guidance or steps come from."""
    parts = _linked_parts(graph, node)
    more: dict[str, Json] = {}
    for part in parts:
        if part.class_type in SPACING_BY_NODE:
            more["scheduler"] = SPACING_BY_NODE[part.class_type]
        if "conditioning" in part.inputs:
            more["positive"] = part.inputs["conditioning"]
    # One view of all of them: copies would add up where a thousand nodes share a large part.
    inputs = ChainMap(*(one.inputs for one in (node, *parts)), more)
    return ComfyUINode(node.name, node.class_type, inputs)


def _is_sampler(node: ComfyUINode) -> bool:
    return "positive" in node.inputs and ("seed" in node.inputs or "noise_seed" in node.inputs)


def _find_latent_source(graph: ComfyUIGraph, sampler: ComfyUINode) -> ComfyUINode | None:
    """Return the last node upstream of the latents: empty latents, or an image that was loaded."""
    last = None
    for last in graph.iter_upstream(sampler, ("latent_image", "samples", "pixels", "image")):
        if _is_empty_latent(last):
            break
    return last


def _is_empty_latent(node: ComfyUINode | None) -> bool:
    return node is not None and "Empty" in node.class_type and "Latent" in node.class_type


def _collect_prompt(
    graph: ComfyUIGraph,
    sampler: ComfyUINode,
    role: str,
    parser: MetadataValueParser,
    seen: set[str],
) -> str:
    """Return the texts upstream of the input `role`, one on a line for several encoders."""
    found: list[str] = []
    visited: set[str] = set()
    links = [sampler.inputs.get(role)]
    while links:
        target = graph.find_linked_node_and_output(links.pop())
        if target is None or target[0].name in visited:
            continue
        node, output = target
        visited.add(node.name)
        if "TextEncode" in node.class_type:
            found += _encoder_texts(graph, node, parser)
            continue
        if node.class_type == "ConditioningZeroOut":
            continue
        # Some nodes take both roles and give both out, the positive one first.
        both = ("positive", "negative")[output : output + 1] if "positive" in node.inputs else ()
        wanted = [key for key in node.inputs if key in both or key.startswith("conditioning")]
        only = graph.find_only_linked_node_and_output(node)
        if wanted:
            links += [node.inputs[key] for key in reversed(wanted)]
        elif only is not None:
            links.append([only[0].name, only[1]])
        if node.class_type not in IGNORED_NODES:
            parser.record_not_understood(
                f"node {node.name}", f"{node.class_type} changes what the {role} prompt does"
            )
    seen |= visited
    return "\n".join(found)


def _encoder_texts(
    graph: ComfyUIGraph, encoder: ComfyUINode, parser: MetadataValueParser
) -> list[str]:
    values = [graph.resolve_value(encoder, key) for key in TEXT_INPUTS if key in encoder.inputs]
    texts = [value for value in values if isinstance(value, str)]
    if not texts:
        parser.record_not_understood(
            f"node {encoder.name}", f"{encoder.class_type} gets its text from another node"
        )
    for other in texts[1:]:
        if other not in ("", texts[0]):
            parser.record_not_understood(
                f"node {encoder.name}", f"{encoder.class_type} reads a second text: {other}"
            )
    return texts[:1]
