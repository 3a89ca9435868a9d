"""Graph of ComfyUI's nodes and links. It may hold cycles and dead ends."""

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass

from t2i.cli.metadata.parsed_metadata import Json
from t2i.errors import DataError

WIDGET_NAMES = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        *("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
        *("start_at_step", "end_at_step", "return_with_leftover_noise"),
    ),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "RandomNoise": ("noise_seed",),
    "CFGGuider": ("cfg",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": ("", "", "", "", "", "", "text_g", "text_l"),
    "EmptyLatentImage": ("width", "height"),
    "EmptySD3LatentImage": ("width", "height"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "PrimitiveNode": ("value",),
}
"""Kind of node -> names of its values, which the editor's page stores unnamed in this order."""


@dataclass(frozen=True, slots=True)
class ComfyUINode:
    """Node of a ComfyUI graph: its name, class_type and inputs."""

    name: str
    class_type: str
    inputs: MutableMapping[str, Json]


@dataclass(frozen=True, slots=True)
class ComfyUIGraph:
    """Graph of ComfyUI nodes by name, with its links."""

    nodes: Mapping[str, ComfyUINode]

    def find_linked_node_and_output(self, value: Json) -> tuple[ComfyUINode, int] | None:
        """Return the node and output that an input's value links to; None if it is no link."""
        if not isinstance(value, list) or len(value) != 2:
            return None
        name, output = value
        if not isinstance(name, (str, int)) or not isinstance(output, int):
            return None
        node = self.nodes.get(str(name))
        return None if node is None else (node, output)

    def resolve_value(self, node: ComfyUINode, key: str) -> Json:
        """Return the value of a node's input, following links from node to node."""
        keys, seen = (key, "value"), {node.name}
        while True:
            value = next((node.inputs[k] for k in keys if k in node.inputs), None)
            target = self.find_linked_node_and_output(value)
            if target is None:
                return None if isinstance(value, (list, dict)) else value
            node = target[0]
            if node.name in seen:
                return None
            seen.add(node.name)

    def iter_upstream(self, node: ComfyUINode, keys: tuple[str, ...]) -> Iterator[ComfyUINode]:
        """Yield the nodes upstream of a node, following the first of `keys` that is a link."""
        seen = {node.name}
        while True:
            links = (
                self.find_linked_node_and_output(node.inputs[key])
                for key in keys
                if key in node.inputs
            )
            target = next(filter(None, links), None) or self.find_only_linked_node_and_output(node)
            if target is None or target[0].name in seen:
                return
            node = target[0]
            seen.add(node.name)
            yield node

    def find_only_linked_node_and_output(self, node: ComfyUINode) -> tuple[ComfyUINode, int] | None:
        """Return the node and output of the only link among a node's inputs; None if not one."""
        links = [
            found
            for value in node.inputs.values()
            if (found := self.find_linked_node_and_output(value))
        ]
        return links[0] if len(links) == 1 else None


def parse_prompt_graph(values: Mapping[str, Json]) -> ComfyUIGraph:
    """Parse ComfyUI's API-format graph ("prompt"). Raises DataError for another format.

    {"3": {"class_type": "KSampler", "inputs": {"steps": 20, "model": ["4", 0]}}}
    """
    nodes = {}
    for name, entry in values.items():
        if isinstance(entry, dict):
            kind, inputs = entry.get("class_type"), entry.get("inputs")
            if isinstance(kind, str) and isinstance(inputs, dict):
                nodes[name] = ComfyUINode(name, kind, inputs)
    if not nodes:
        raise DataError("prompt: JSON, but no graph of ComfyUI: no entry has class_type and inputs")
    return ComfyUIGraph(nodes)


def parse_workflow_graph(values: Mapping[str, Json]) -> ComfyUIGraph:
    """Parse ComfyUI's editor graph ("workflow"). Raises DataError for another format.

    {"nodes": [{"id": 3, "type": ..., "inputs": [{"name", "link"}], "widgets_values": []}],
    "links": [[link, node, output, ...]]}
    """
    entries, table = values.get("nodes"), values.get("links")
    if not isinstance(entries, list) or not isinstance(table, list):
        raise DataError("workflow: JSON, but no graph of ComfyUI: no lists 'nodes' and 'links'")
    links: dict[int, Json] = {
        row[0]: [row[1], row[2]]
        for row in table
        if isinstance(row, list) and len(row) >= 3 and isinstance(row[0], int)
    }
    nodes = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), (int, str)):
            continue
        if not isinstance(entry.get("type"), str):
            continue
        name, kind = str(entry["id"]), str(entry["type"])
        inputs: dict[str, Json] = {}
        widgets, slots = entry.get("widgets_values"), entry.get("inputs")
        if isinstance(widgets, dict):
            inputs |= widgets
        elif isinstance(widgets, list):
            pairs = zip(WIDGET_NAMES.get(kind, ()), widgets, strict=False)
            inputs |= {key: value for key, value in pairs if key}
        for slot in slots if isinstance(slots, list) else []:
            if isinstance(slot, dict) and isinstance(slot.get("name"), str):
                link = slot.get("link")
                if isinstance(link, int) and link in links:
                    inputs[str(slot["name"])] = links[link]
        nodes[name] = ComfyUINode(name, kind, inputs)
    if not nodes:
        raise DataError("workflow: a ComfyUI graph without nodes")
    return ComfyUIGraph(nodes)
