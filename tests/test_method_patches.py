"""Replaced methods are shared by overlapping blocks and restored as the very same objects."""

import threading

import pytest
from torch import nn

from t2i.method_patches import MethodPatches


def doubled(original):
    return lambda x: 2 * original(x)


@pytest.fixture
def patches():
    return MethodPatches("forward")


def test_a_method_of_the_class_is_replaced_and_restored(patches):
    layer = nn.Identity()
    with patches.replacing(layer, doubled) as original:
        assert layer.forward(3) == 6
        assert original(3) == 3
    assert "forward" not in vars(layer)
    assert layer.forward(3) == 3


def test_the_objects_own_method_is_put_back_after_an_exception(patches):
    layer = nn.Identity()
    layer.forward = own = lambda x: x + 1

    def fail_within() -> None:
        with patches.replacing(layer, doubled):
            assert layer.forward(3) == 8
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert layer.forward is own


def test_overlapping_blocks_of_two_threads_share_one_replacement(patches):
    layer = nn.Identity()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with patches.replacing(layer, doubled):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(10)
    with patches.replacing(layer, doubled):
        assert layer.forward(3) == 6
    assert layer.forward(3) == 6  # the other block is still open
    leave.set()
    thread.join()
    assert layer.forward(3) == 3


def test_two_purposes_nest_on_one_object(patches):
    layer = nn.Identity()
    with patches.replacing(layer, doubled), MethodPatches("forward").replacing(layer, doubled):
        assert layer.forward(3) == 12
    assert layer.forward(3) == 3
