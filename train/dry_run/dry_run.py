"""`--dry-run`: the plan of a run, as a table or as the resolved config in JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from t2i.errors import T2IError
from t2i.terminal import plural, print_result_line
from train.config.run_config import RunConfig
from train.data.pictures import Pictures
from train.data.registry import build_dataset
from train.dry_run.memory_forecast import ParameterAndMemoryForecast, forecast_parameters_and_memory
from train.targets.control_network import ControlTargetConfig
from train.targets.denoiser import ScratchDenoiserTargetConfig
from train.targets.finetune import FineTuneTargetConfig, PartConfig
from train.targets.parts.adapters import AdapterPartConfig
from train.targets.parts.full_weights import FullWeightsPartConfig

UNKNOWN_TIME_TEXT = "known after the first steps, with the time left"
ADAPTER_NAMES = {"lora": "LoRA", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}
CONTROL_NAMES = {"controlnet": "ControlNet", "t2i-adapter": "T2I-Adapter"}
PlanNumbers = dict[str, Any]


def print_dry_run(config: RunConfig, *, as_json: bool) -> None:
    """Print the plan of a training run, after reading its models and data; nothing is written."""
    expected = build_plan_numbers(config, forecast_parameters_and_memory(config))
    if as_json:
        document = config.model_dump(mode="json") | {"expected": expected}
        print_result_line(json.dumps(document, indent=2, ensure_ascii=False))
        return
    lines = [*format_plan_table_rows(config, expected)]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print_result_line(f"{name:{width}}  {value}")


def build_plan_numbers(config: RunConfig, expected: ParameterAndMemoryForecast) -> PlanNumbers:
    """Build the numbers of a dry run's plan (parameters, epochs, sheets, memory); None for
    unknown ones.
    """
    train = config.train
    facts: PlanNumbers = {
        "trained": summarize_planned_parameter_groups(config, expected),
        "parameters": expected.parameters,
    }
    facts |= {
        "not_counted": expected.missing or None,
        "data": count_dataset_examples_and_epochs(config),
    }
    sheets = train.steps // config.samples.every if config.samples.every else 0
    final = bool(not config.samples.every or train.steps % config.samples.every)
    facts["sheets"] = sheets + final if config.has_sample_sheets else 0
    facts["checkpoints"] = -(-train.steps // train.checkpoint_every)
    facts["memory_bytes"] = None
    if expected.memory is not None:
        least, most = expected.memory.estimate_range()
        facts["memory_bytes"] = {"from": least, "to": most, **asdict(expected.memory)}
    return facts


def summarize_planned_parameter_groups(
    config: RunConfig, expected: ParameterAndMemoryForecast
) -> list[PlanNumbers]:
    """Return a dict for each parameter group of a planned training run: what it trains, its number
    of parameters and its learning rate.
    """
    target, usual = config.target, config.optimizer.learning_rate
    named: list[tuple[str, float | None]]
    if isinstance(target, FineTuneTargetConfig):
        named = [(describe_trained_part(part), part.learning_rate) for part in target.parts]
    elif isinstance(target, ScratchDenoiserTargetConfig):
        both = "UNet and text encoder" if target.train_text_encoder else "UNet"
        named = [(f"{both}, from {'weights' if target.unet else 'nothing'}", None)]
    elif isinstance(target, ControlTargetConfig):
        kind = CONTROL_NAMES[target.kind]
        named = [(f"{kind}, from {'weights' if target.network else 'the UNet'}", None)]
        if target.kind == "t2i-adapter" and target.network is None:
            named = [(f"{kind}, from nothing", None)]
    else:
        named = [(target.kind, None)]
    numbers = expected.trained or (None,) * len(named)
    return [
        {"what": what, "parameters": number, "learning_rate": usual if rate is None else rate}
        for (what, rate), number in zip(named, numbers, strict=True)
    ]


def describe_trained_part(part: PartConfig) -> str:
    """Describe a trained part of a fine-tune for the plan, as "LoRA of rank 8 on unet"."""
    if isinstance(part, AdapterPartConfig):
        kind = "dora" if part.dora else part.method
        return f"{ADAPTER_NAMES[kind]} of rank {part.rank} on {part.of}"
    if isinstance(part, FullWeightsPartConfig):
        return f"{part.of} in full" if part.modules == ("*",) else f"{part.of}, some modules"
    return f"new {'word' if len(part.words) == 1 else 'words'} " + " ".join(
        word.word for word in part.words
    )


def count_dataset_examples_and_epochs(config: RunConfig) -> PlanNumbers:
    """Load the data of a planned run and return its number of training examples and of epochs as a
    dict; a dict with the problem if the data cannot be read.
    """
    try:
        samples = build_dataset(config.data)
    except T2IError as error:
        return {"examples": None, "epochs": None, "problem": str(error)}
    pictures = isinstance(samples, Pictures)
    visits = sum(map(len, samples.group_indices_by_shape())) if pictures else len(samples)
    visits += config.prior.count if config.prior is not None else 0
    epochs = config.train.steps * config.train.batch_size / max(visits, 1)
    return {"examples": len(samples), "epochs": round(epochs, 2), "problem": None}


def format_plan_table_rows(config: RunConfig, facts: PlanNumbers) -> Iterator[tuple[str, str]]:
    """Format the table of a dry run's plan as rows of name and text."""
    train, rate, data = config.train, config.rate, facts["data"]
    for number, part in enumerate(facts["trained"]):
        count = part["parameters"]
        counted = "" if count is None else f"{plural(count, 'parameter')}, "
        text = f"{part['what']}: {counted}learning rate {part['learning_rate']:g}"
        yield "" if number else "trained", text
    if facts["not_counted"]:
        yield "", f"not counted: {facts['not_counted']}"
    else:
        base = getattr(config.target, "base", config.model and config.model.name)
        yield "of", f"{f'{base}, ' if base else ''}{plural(facts['parameters'], 'parameter')}"
    if data["problem"]:
        yield "data", data["problem"]
    else:
        noun = "picture" if config.data.kind == "pictures" else config.data.kind.rstrip("s")
        beside = f" and {plural(config.prior.count, 'class picture')}" if config.prior else ""
        visits = f"{data['epochs']:,g} epochs" if data["epochs"] != 1 else "1 epoch"
        yield "data", f"{plural(data['examples'], noun)}{beside}, {visits}"
    parts = f", in {train.accumulation} parts" if train.accumulation > 1 else ""
    yield "batch", f"{plural(train.batch_size, 'picture')} of {config.data.size} pixels{parts}"
    warm = f", warmup of {rate.warmup:,}" if rate.warmup else ""
    fall = f", then {rate.decay} decay" if rate.decay != "none" else ""
    yield "steps", f"{train.steps:,} with {config.optimizer.name}{warm}{fall}"
    every = config.samples.every
    often = f"every {plural(every, 'step')} and of the final weights" if every else "of the end"
    yield (
        "sheets",
        f"{facts['sheets']:,}, {often}" if config.has_sample_sheets else "none: no samples.prompts",
    )
    kept = f"the newest {train.keep} stay" if train.keep > 1 else "the newest stays"
    made = facts["checkpoints"]
    yield "checkpoints", f"{made:,}, every {plural(train.checkpoint_every, 'step')}; {kept}"
    if (memory := facts["memory_bytes"]) is not None:
        yield "memory", format_memory_forecast(memory)
    yield "time", UNKNOWN_TIME_TEXT


def format_memory_forecast(memory: PlanNumbers) -> str:
    """Format the memory forecast of a dry run as text: its range and its parts."""
    sums = ("weights", "gradients", "moments", "averages")
    of = ", ".join(f"{name} {format_bytes(memory[name])}" for name in sums)
    if memory["activations"] is None:
        return f"at least {format_bytes(memory['from'])} ({of}; activations could not be counted)"
    step = f"a step's activations {format_bytes(memory['activations'])} and up"
    span = f"{format_bytes(memory['from'])} to {format_bytes(memory['to'])}"
    return f"{span} ({of}, {step}; the rest the libraries)"


def format_bytes(number: int) -> str:
    """Format a number of bytes in GB or MB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:,.0f} MB"
