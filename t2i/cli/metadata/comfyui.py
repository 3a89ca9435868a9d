"""ComfyUI: a graph of nodes. From the sampler its links lead to prompts, size and model."""

from collections import ChainMap
from collections.abc import Mapping
from itertools import islice

from t2i.cli.metadata.comfyui_graph import Graph, Node, parse_prompt_graph, parse_workflow_graph
from t2i.cli.metadata.parsed_metadata import (
    ImageMetadata,
    Json,
    MetadataParser,
    RecordedSettings,
    parse_json_object,
)
from t2i.errors import DataError

TOOL = "ComfyUI"
TEXT_INPUTS = ("text", "text_g", "t5xxl", "clip_l", "clip_g", "text_l")
"""What text encoders call their prompt, the fullest first."""
PART_INPUTS = ("noise", "guider", "sampler", "sigmas")
"""Links to nodes that say what other samplers say themselves."""
SPACINGS = {"KarrasScheduler": "karras", "ExponentialScheduler": "exponential"}
MAX_SAMPLERS = 20
"""Of one graph that are looked at."""
CHECKPOINTS = ("ckpt_name", "unet_name", "model_name")
IGNORED_NODES = {
    *("VAEDecode", "VAEDecodeTiled", "VAELoader", "SaveImage", "PreviewImage", "CLIPLoader"),
    *("DualCLIPLoader", "TripleCLIPLoader", "Note", "MarkdownNote", "Reroute"),
}
"""Nodes that need no mention."""


def read_comfyui(texts: Mapping[str, str]) -> ImageMetadata | None:
    """`prompt` is the graph as it ran; `workflow` the editor's page, read where that is missing."""
    if "prompt" in texts:
        text = texts["prompt"]
        return parse_comfyui_graph(parse_prompt_graph(parse_json_object("prompt", text)), text)
    if "workflow" in texts:
        text = texts["workflow"]
        return parse_comfyui_graph(parse_workflow_graph(parse_json_object("workflow", text)), text)
    return None


def parse_comfyui_graph(graph: Graph, raw: str) -> ImageMetadata:
    reading = MetadataParser()
    whole = (_merge_parts(graph, node) for node in graph.nodes.values())
    samplers = list(islice(filter(_is_sampler, whole), MAX_SAMPLERS))
    if not samplers:
        kinds = sorted({node.kind for node in graph.nodes.values()})
        raise DataError(f"ComfyUI: a graph without a sampler among {', '.join(kinds):.80}")
    # Of several that follow on one another, the one that starts from noise says the most.
    starts = {node.name: _find_latent_source(graph, node) for node in samplers}
    sampler = next((node for node in samplers if _is_empty_latent(starts[node.name])), samplers[0])
    for other in samplers:
        if other is not sampler:
            reading.leave(f"node {other.name}", f"{other.kind} samples once more")
    start = starts[sampler.name]

    # along the links
    seen = {sampler.name, *(node.name for node in _linked_parts(graph, sampler))}
    prompt = _collect_prompt(graph, sampler, "positive", reading, seen)
    negative_prompt = _collect_prompt(graph, sampler, "negative", reading, seen)
    model = None
    for node in graph.along(sampler, ("model",)):
        seen.add(node.name)
        model = next((value for key in CHECKPOINTS if (value := graph.value(node, key))), None)
        if model is not None:
            break
        reading.leave(node.kind, {k: v for k, v in node.inputs.items() if not graph.target(v)})

    # values
    width = height = None
    if start is not None and _is_empty_latent(start):
        seen.add(start.name)
        width, height = reading.size(graph.value(start, "width"), graph.value(start, "height"))
    elif start is not None:
        reading.leave(f"node {start.name}", f"{start.kind}: the picture did not begin from noise")
    seed = graph.value(sampler, "seed" if "seed" in sampler.inputs else "noise_seed")
    settings = RecordedSettings(
        num_inference_steps=reading.steps(graph.value(sampler, "steps")),
        sampler=reading.sampler(
            graph.value(sampler, "sampler_name"), graph.value(sampler, "scheduler")
        ),
        guidance_scale=reading.real("cfg", graph.value(sampler, "cfg")),
        seed=reading.seed(seed),
        width=width,
        height=height,
        model=reading.text("model", model),
    )
    if graph.value(sampler, "denoise") not in (None, 1, "1"):
        reading.leave("denoise", graph.value(sampler, "denoise"))
    if graph.value(sampler, "start_at_step") not in (None, 0, "0"):
        reading.leave("start_at_step", graph.value(sampler, "start_at_step"))
    for node in graph.nodes.values():
        if node.name not in seen and node.kind not in IGNORED_NODES and node.name not in starts:
            reading.leave(f"node {node.name}", node.kind)
    return reading.story(TOOL, prompt, negative_prompt, settings, raw)


def _linked_parts(graph: Graph, node: Node) -> list[Node]:
    links = (graph.target(node.inputs[key]) for key in PART_INPUTS if key in node.inputs)
    return [link[0] for link in links if link is not None]


def _merge_parts(graph: Graph, node: Node) -> Node:
    """A sampler that leaves seed, guidance, name or steps to nodes of their own, made whole."""
    parts = _linked_parts(graph, node)
    more: dict[str, Json] = {}
    for part in parts:
        if part.kind in SPACINGS:
            more["scheduler"] = SPACINGS[part.kind]
        if "conditioning" in part.inputs:
            more["positive"] = part.inputs["conditioning"]
    # One view of all of them: copies would add up where a thousand nodes share a large part.
    inputs = ChainMap(*(one.inputs for one in (node, *parts)), more)
    return Node(node.name, node.kind, inputs)


def _is_sampler(node: Node) -> bool:
    return "positive" in node.inputs and ("seed" in node.inputs or "noise_seed" in node.inputs)


def _find_latent_source(graph: Graph, sampler: Node) -> Node | None:
    """The last node upstream of the latents: an empty picture, or one that was loaded."""
    last = None
    for last in graph.along(sampler, ("latent_image", "samples", "pixels", "image")):
        if _is_empty_latent(last):
            break
    return last


def _is_empty_latent(node: Node | None) -> bool:
    return node is not None and "Empty" in node.kind and "Latent" in node.kind


def _collect_prompt(
    graph: Graph, sampler: Node, role: str, reading: MetadataParser, seen: set[str]
) -> str:
    """The texts upstream of the input `role`: of one encoder, or of several, one on a line."""
    found: list[str] = []
    visited: set[str] = set()
    links = [sampler.inputs.get(role)]
    while links:
        target = graph.target(links.pop())
        if target is None or target[0].name in visited:
            continue
        node, output = target
        visited.add(node.name)
        if "TextEncode" in node.kind:
            found += _encoder_texts(graph, node, reading)
            continue
        if node.kind == "ConditioningZeroOut":
            continue
        # Some nodes take both roles and give both out, the positive one first.
        both = ("positive", "negative")[output : output + 1] if "positive" in node.inputs else ()
        wanted = [key for key in node.inputs if key in both or key.startswith("conditioning")]
        only = graph.only_link(node)
        if wanted:
            links += [node.inputs[key] for key in reversed(wanted)]
        elif only is not None:
            links.append([only[0].name, only[1]])
        if node.kind not in IGNORED_NODES:
            reading.leave(f"node {node.name}", f"{node.kind} changes what the {role} prompt does")
    seen |= visited
    return "\n".join(found)


def _encoder_texts(graph: Graph, encoder: Node, reading: MetadataParser) -> list[str]:
    values = [graph.value(encoder, key) for key in TEXT_INPUTS if key in encoder.inputs]
    texts = [value for value in values if isinstance(value, str)]
    if not texts:
        reading.leave(f"node {encoder.name}", f"{encoder.kind} gets its text from another node")
    for other in texts[1:]:
        if other not in ("", texts[0]):
            reading.leave(f"node {encoder.name}", f"{encoder.kind} reads a second text: {other}")
    return texts[:1]
