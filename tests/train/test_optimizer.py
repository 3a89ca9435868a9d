"""Five optimizers: what they do, what they refuse, and that they resume to the bit."""

import json
import sys

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn

from t2i.errors import ArgumentError
from train.checkpoint import pack_optimizer_state, restore_optimizer_state
from train.optim.ema import EMAConfig
from train.optim.learning_rate import LearningRateScheduleConfig, compute_learning_rate_factor
from train.optim.optimizer import (
    OptimizerConfig,
    ParameterGroup,
    build_optimizer,
    check_schedulefree_config,
    set_learning_rates,
    using_schedulefree_average,
)

HERE = ["adamw", "adafactor", "prodigy", "schedulefree"]
"""Those that run without a GPU."""
ONE_RATE = ["prodigy"]


def of(name: str, **settings: object) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"name": name, **settings})


class Small(nn.Module):
    """A convolution laid out channels last, a matrix, a bias, a scalar, and zeros as LoRA has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3)
        self.down = nn.Linear(5, 4)
        self.up = nn.Parameter(torch.zeros(2, 4))
        self.scale = nn.Parameter(torch.tensor(1.3))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        hidden_BCHW = self.conv(pixels_BCHW).tanh()
        out: Tensor = self.down(hidden_BCHW.mean((2, 3))) @ self.up.T * self.scale
        return out

    def groups(self, other_rate: float | None) -> list[ParameterGroup]:
        return [
            ParameterGroup("conv", [*self.conv.parameters()]),
            ParameterGroup("rest", [*self.down.parameters(), self.up, self.scale], other_rate, 0.0),
        ]


def built(name: str, model: Small) -> torch.optim.Optimizer:
    settings = {"learning_rate": 1.0} if name == "prodigy" else {"learning_rate": 1e-2}
    return build_optimizer(of(name, **settings), model.groups(None if name in ONE_RATE else 3e-3))


def step(model: Small, optimizer: torch.optim.Optimizer, number: int, change: str = "") -> None:
    """One step that is a function of its number alone."""
    set_learning_rates(
        optimizer, compute_learning_rate_factor(number, 40, LearningRateScheduleConfig(warmup=3))
    )
    torch.manual_seed(100 + number)
    loss = (model(torch.randn(4, 3, 6, 6)) - torch.randn(4, 2)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    if change == "tensors":
        as_tensors(optimizer)
    optimizer.step()


def as_tensors(optimizer: torch.optim.Optimizer) -> None:
    """What a sharded Prodigy does: the values of its groups become tensors."""
    for group in optimizer.param_groups:
        for key in ("d_numerator", "weight_sum"):
            if key in group:
                group[key] = torch.as_tensor(group[key], dtype=torch.float64)


def through_a_file(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, object]]:
    tensors, numbers = pack_optimizer_state(optimizer)
    whole = {name: value.contiguous() for name, value in tensors.items()}
    return load(save(whole)), json.loads(json.dumps(numbers, allow_nan=False))


def everything(model: Small, optimizer: torch.optim.Optimizer) -> dict[str, object]:
    groups = optimizer.state_dict()["param_groups"]
    tensors, numbers = pack_optimizer_state(optimizer)
    return {**model.state_dict(), **tensors, **numbers, "groups": groups}


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, other[name]), name  # type: ignore[arg-type]
        else:
            assert value == other[name], name


@pytest.mark.parametrize("change", ["", "tensors"])
@pytest.mark.parametrize("name", HERE)
def test_a_resumed_optimizer_goes_on_bit_for_bit(name: str, change: str) -> None:
    whole = Small()
    optimizer = built(name, whole)
    for number in range(12):
        step(whole, optimizer, number, change)

    first = Small()
    optimizer_1 = built(name, first)
    for number in range(7):
        step(first, optimizer_1, number, change)
    second = Small()
    second.load_state_dict(first.state_dict())
    optimizer_2 = built(name, second)
    restore_optimizer_state(optimizer_2, *through_a_file(optimizer_1))
    for number in range(7, 12):
        step(second, optimizer_2, number, change)

    assert_same(everything(second, optimizer_2), everything(whole, optimizer))
    # and the steps did something, so that the claim is one
    assert not torch.equal(whole.up, Small().up)


@pytest.mark.parametrize("name", HERE)
def test_a_state_forgotten_would_be_noticed(name: str) -> None:
    model = Small()
    optimizer = built(name, model)
    for number in range(5):
        step(model, optimizer, number)
    tensors, numbers = through_a_file(optimizer)
    twin = Small()
    twin.load_state_dict(model.state_dict())
    forgetful = built(name, twin)
    groups = {key: value for key, value in numbers.items() if not key.startswith("group.")}
    with_groups = len(groups) < len(numbers)
    assert with_groups == (name in ("prodigy", "schedulefree"))
    if with_groups:
        restore_optimizer_state(forgetful, tensors, groups)
    if name == "schedulefree":
        forgetful.train()  # type: ignore[attr-defined]
    step(model, optimizer, 5)
    step(twin, forgetful, 5)
    assert not torch.equal(model.conv.weight, twin.conv.weight)


def test_an_older_checkpoint_without_groups_loads() -> None:
    model = Small()
    optimizer = built("adamw", model)
    step(model, optimizer, 0)
    tensors, numbers = pack_optimizer_state(optimizer)
    assert not [key for key in {*tensors, *numbers} if key.startswith("group.")]


def test_what_a_used_optimizer_knew_is_gone_once_another_state_is_given() -> None:
    model = Small()
    fresh = built("prodigy", model)
    used = built("prodigy", model)
    step(model, used, 0)
    step(model, used, 1)
    restore_optimizer_state(used, *pack_optimizer_state(fresh))
    assert used.param_groups[0]["k"] == 0
    assert used.param_groups[0]["d"] == fresh.param_groups[0]["d"]
    assert not used.state


def test_a_table_within_a_parameters_state_is_kept() -> None:
    class Nested(torch.optim.SGD):
        """Keeps its tensors in a table, as bitsandbytes does in files."""

        def state_dict(self) -> dict[str, object]:  # type: ignore[override]
            table = {"state1": torch.arange(3, dtype=torch.uint8), "absmax1": torch.ones(1)}
            return {**super().state_dict(), "state": {0: {"step": 4, "quantised": table}}}

        def load_state_dict(self, state_dict: dict[str, object]) -> None:  # type: ignore[override]
            self.given = state_dict["state"]

    optimizer = Nested([nn.Parameter(torch.zeros(3))], lr=1.0)
    tensors, numbers = pack_optimizer_state(optimizer)
    assert tensors.keys() == {"0.quantised.state1", "0.quantised.absmax1"}
    restore_optimizer_state(optimizer, tensors, numbers)
    given = optimizer.given[0]
    assert given["step"] == 4
    assert given["quantised"]["state1"].dtype == torch.uint8
    assert given["quantised"]["state1"].tolist() == [0, 1, 2]


def quadratic(config: OptimizerConfig, gradients: list[float]) -> float:
    """Where a weight that starts at 2 is after these gradients, one a step."""
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = build_optimizer(config, [ParameterGroup("one", [weight])])
    set_learning_rates(optimizer, 1.0)
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return weight.item()


def test_adamw_is_the_published_one() -> None:
    at, m, v = 2.0, 0.0, 0.0
    gradients = [0.3, -0.2, 0.5]
    for n, g in enumerate(gradients, 1):
        at *= 1 - 0.1 * 0.02
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        at -= 0.1 * (m / (1 - 0.8**n)) / ((v / (1 - 0.9**n)) ** 0.5 + 1e-8)
    config = of("adamw", learning_rate=0.1, betas=(0.8, 0.9), weight_decay=0.02)
    assert quadratic(config, gradients) == pytest.approx(at, abs=1e-14)


def test_schedule_free_is_the_published_one() -> None:
    # x is the average of the fast z, the gradient is taken at y between them
    x = z = y = 2.0
    v = 0.0
    gradients = [0.3, -0.2, 0.5]
    for n, g in enumerate(gradients, 1):
        v = 0.9 * v + 0.1 * g * g
        change = g / ((v / (1 - 0.9**n)) ** 0.5 + 1e-8) + 0.02 * y
        z -= 0.1 * change
        x += (z - x) / n
        y = 0.2 * z + 0.8 * x
    config = of("schedulefree", learning_rate=0.1, betas=(0.8, 0.9), weight_decay=0.02)
    assert quadratic(config, gradients) == pytest.approx(y, abs=1e-14)

    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = build_optimizer(config, [ParameterGroup("one", [weight])])
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    with using_schedulefree_average(optimizer):
        assert weight.item() == pytest.approx(x, abs=1e-14)
    assert weight.item() == pytest.approx(y, abs=1e-14)


def test_adafactor_takes_the_rate_it_is_given() -> None:
    # In the first step the second moment is g^2, and the update is clipped to root mean square 1.
    config = of("adafactor", learning_rate=0.05, weight_decay=0.0)
    assert quadratic(config, [0.3]) == pytest.approx(2 - 0.05, abs=1e-9)


def test_prodigy_finds_a_rate_that_reaches_the_minimum() -> None:
    weight = nn.Parameter(torch.full((4,), 5.0))
    optimizer = build_optimizer(of("prodigy", weight_decay=0.0), [ParameterGroup("one", [weight])])
    distances = []
    for _ in range(300):
        set_learning_rates(optimizer, 1.0)
        weight.grad = 2 * weight.detach()
        optimizer.step()
        distances.append(weight.abs().max().item())
    assert distances[0] == pytest.approx(5, abs=1e-3)
    assert min(distances) < 0.1


def test_prodigy_is_given_rate_1_unless_another_is_asked_for() -> None:
    assert of("prodigy").learning_rate == 1
    assert of("prodigy", learning_rate=0.5).learning_rate == 0.5
    assert of("adamw").learning_rate == 1e-4


def test_a_configuration_read_back_is_the_same() -> None:
    for name in (*HERE, "adamw8bit"):
        config = of(name)
        assert OptimizerConfig.model_validate_json(config.model_dump_json()) == config


def test_each_group_has_its_own_rate_times_the_factor_of_the_step() -> None:
    model = Small()
    optimizer = build_optimizer(of("adamw", learning_rate=0.2), model.groups(0.03))
    for factor in (0.25, 1.0, 0.5):
        set_learning_rates(optimizer, factor)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.2 * factor, 0.03 * factor])
    assert [group["name"] for group in optimizer.param_groups] == ["conv", "rest"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


def test_one_group_steps_as_adamw_always_did_bit_for_bit() -> None:
    model, twin = Small(), Small()
    optimizer = build_optimizer(
        of("adamw", learning_rate=1e-2), [ParameterGroup("all", [*model.parameters()])]
    )
    plain = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.01)
    for number in range(3):
        step(model, optimizer, number)
        torch.manual_seed(100 + number)
        plain.param_groups[0]["lr"] = 1e-2 * compute_learning_rate_factor(
            number, 40, LearningRateScheduleConfig(warmup=3)
        )
        plain.zero_grad()
        (twin(torch.randn(4, 3, 6, 6)) - torch.randn(4, 2)).pow(2).mean().backward()
        plain.step()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", HERE)
def test_averaged_gives_the_very_same_weights_back(name: str) -> None:
    model = Small()
    optimizer = built(name, model)
    for number in range(4):
        step(model, optimizer, number)
    before = {
        key: value.clone()
        for key, value in everything(model, optimizer).items()
        if isinstance(value, Tensor)
    }

    def fail() -> None:
        with using_schedulefree_average(optimizer):
            raise RuntimeError("while drawing")

    with using_schedulefree_average(optimizer):
        within = model.conv.weight.detach().clone()
    with pytest.raises(RuntimeError, match="while drawing"):
        fail()
    assert torch.equal(within, model.conv.weight) == (name != "schedulefree")
    after = everything(model, optimizer)
    assert all(torch.equal(value, after[key]) for key, value in before.items())  # type: ignore[arg-type]
    step(model, optimizer, 4)


def test_averaged_before_the_first_step_is_the_weights() -> None:
    model = Small()
    with using_schedulefree_average(built("schedulefree", model)):
        assert torch.equal(model.conv.weight, Small().conv.weight)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("adamw8bit", "bitsandbytes", "bitsandbytes"),
        ("prodigy", "prodigyopt", "optimizers"),
        ("schedulefree", "schedulefree", "optimizers"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.optim", None)
    with pytest.raises(ArgumentError, match=rf"{name}.*{package}: pip install .*\[{extra}\]"):
        built(name, Small())


def test_8_bits_on_a_cpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library = type(sys)("bitsandbytes.optim")
    library.AdamW8bit = torch.optim.AdamW  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", type(sys)("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", library)
    with pytest.raises(ArgumentError, match="needs an accelerator"):
        built("adamw8bit", Small())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="8-bit moments need a GPU")
def test_8_bit_adamw_resumes_bit_for_bit() -> None:
    pytest.importorskip("bitsandbytes")

    def stepped(weight: nn.Parameter, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            weight.grad = torch.cos(weight.detach() * 3 + number)
            optimizer.step()

    def fresh(start: Tensor) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        weight = nn.Parameter(start.clone())
        return weight, build_optimizer(
            of("adamw8bit", learning_rate=1e-2), [ParameterGroup("one", [weight])]
        )

    start = torch.linspace(-1, 1, 128 * 128, device="cuda").view(128, 128)
    whole, optimizer = fresh(start)
    stepped(whole, optimizer, range(8))
    first, optimizer_1 = fresh(start)
    stepped(first, optimizer_1, range(5))
    second, optimizer_2 = fresh(first.detach())
    restore_optimizer_state(optimizer_2, *through_a_file(optimizer_1))
    stepped(second, optimizer_2, range(5, 8))
    assert torch.equal(second, whole)


def test_prodigy_with_two_rates_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"one step size for all.*'conv': 1.0, 'rest': 0.5"):
        build_optimizer(of("prodigy"), Small().groups(0.5))


def test_prodigy_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    build_optimizer(of("prodigy", weight_decay=0.1), Small().groups(None))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamw", "d_coef": 2.0}, "d_coef is set, and adamw does not read it.*prodigy"),
        ({"name": "adafactor", "betas": (0.5, 0.9)}, "betas is set, and adafactor"),
        ({"name": "prodigy", "fused": True}, r"fused is set, and prodigy .*\(adamw\)"),
        ({"name": "schedulefree", "betas": (0.0, 0.9)}, r"betas\[0\] = 0 with name = 'schedulef"),
        ({"name": "sgd"}, "'adamw', 'adamw8bit', 'adafactor', 'prodigy' or 'schedulefree'"),
    ],
)
def test_what_an_optimizer_cannot_use_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OptimizerConfig.model_validate(settings)


def test_schedule_free_with_a_falling_rate_or_a_second_average_is_refused() -> None:
    config, none = of("schedulefree"), EMAConfig(kind="none")
    check_schedulefree_config(config, LearningRateScheduleConfig(warmup=10), none)
    check_schedulefree_config(of("adamw"), LearningRateScheduleConfig(decay="cosine"), EMAConfig())
    with pytest.raises(ValueError, match=r"rate.decay = 'cosine' .*set rate.decay = 'none'"):
        check_schedulefree_config(config, LearningRateScheduleConfig(decay="cosine"), none)
    with pytest.raises(ValueError, match=r"ema.kind = 'decay' .*set ema.kind = 'none'"):
        check_schedulefree_config(config, LearningRateScheduleConfig(), EMAConfig())


def test_fused_is_taken_when_asked_for() -> None:
    optimizer = build_optimizer(of("adamw", fused=True), Small().groups(None))
    assert optimizer.defaults["fused"] is True
    assert not build_optimizer(of("adamw"), Small().groups(None)).defaults["fused"]
