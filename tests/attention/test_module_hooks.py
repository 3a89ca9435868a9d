"""A module's forward is wrapped by blocks of several threads, and restored by the last."""

import sys
import threading
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import nn

from t2i.attention.hooks import module_hooks
from t2i.attention.hooks.module_hooks import wrapping_forward


def doubled(forward, args, kwargs):
    return 2 * forward(*args, **kwargs)


class DictionaryThatCallsBeforeDeleting(WeakKeyDictionary):
    """As if another thread called the module just as its forward is restored."""

    calls: tuple = ()

    def __delitem__(self, module):
        for call in self.calls:
            call()
        super().__delitem__(module)
        for call in self.calls:
            call()


@pytest.mark.parametrize("own", [False, True])
def test_a_call_while_the_forward_is_restored_runs_it_once(monkeypatch, own):
    module, x, seen = nn.Linear(2, 2), torch.ones(1, 2), []
    if own:  # as accelerate leaves one
        module.forward = module.forward
    expected = module(x)
    patches = DictionaryThatCallsBeforeDeleting()
    monkeypatch.setattr(module_hooks, "_patched", patches)
    with wrapping_forward(module, doubled):
        assert torch.equal(module(x), 2 * expected)
        replaced = module.forward
        patches.calls = (lambda: seen.append(replaced(x)), lambda: seen.append(module(x)))
    assert len(seen) == 4
    assert all(torch.equal(one, expected) for one in seen)
    assert ("forward" in vars(module)) is own


def test_threads_that_wrap_and_call_one_module_get_what_they_get_alone():
    module, x = nn.Linear(2, 2), torch.ones(1, 2)
    expected, wrong = module(x), []

    def work():
        for _ in range(300):
            with wrapping_forward(module, lambda forward, args, kwargs: forward(*args, **kwargs)):
                found = module(x)
            if not torch.equal(found, expected) or not torch.equal(module(x), expected):
                wrong.append(found)

    def guarded():
        try:
            work()
        except BaseException as error:
            wrong.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=guarded) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []
    assert "forward" not in vars(module)
