"""Prompts typed without quotes."""

import shlex

import pytest

from tests.cli.command import Cli


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (
            "generate a heart above a star --seed 8",
            "Got unexpected extra argument(s) (heart above a star) Put the prompt into quotes: t2i "
            'generate "a heart above a star" --seed 8\n',
        ),
        ("inspect a cat", 'quotes: t2i inspect "a cat"\n'),
        ("inspect --words cat a cat", 'quotes: t2i inspect "a heart above a star"\n'),
        ("generate 'a $5 \"cat\"' there", 'quotes: t2i generate "a \\$5 \\"cat\\" there"\n'),
        ("invert cat.jpg a cat --out x", 't2i invert cat.jpg "a cat" --out x\n'),
        ("edit a cat a dog", 'Put each prompt into quotes: t2i edit "a cat" "a dog"\n'),
    ],
)
def test_the_command_to_type_is_named(cli: Cli, typed: str, hint: str) -> None:
    done = cli(*shlex.split(typed))
    assert done.code == 2
    assert hint in done.err


def test_other_slips_are_not_about_quotes(cli: Cli) -> None:
    assert "quotes" not in cli("generate", "a cat", "--sead", "8").err
    assert "quotes" not in cli("models", "all", "of", "them").err
