"""What a session refuses: whoever would wait in vain, keep too much, or hear another's text.

B rows of one prompt, N heads, K key positions, E width of a head.
"""

from collections.abc import Sequence

from t2i.attention.compute.tap import Call
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import Edit
from t2i.attention.session.participant import ParticipantEntry
from t2i.attention.site import Site, no_site
from t2i.errors import ArgumentError, AttentionError
from t2i.terminal import several
from t2i.text.token_layout import Readable

GIBIBYTE = 1 << 30
OTHER_TEXT = 0.05
"""Of the largest key: how far the keys of two texts are apart at least, rounding aside."""
CALLBACK = "pass callback_on_step_end=attn.on_step_end to the pipeline"


def check_edit(edit: object, driven_by_callback: bool) -> None:
    if not isinstance(edit, Edit):
        raise ArgumentError(
            f"Got a {type(edit).__name__}, expected an edit, such as Replace(source=0)."
        )
    if edit.looks and driven_by_callback:
        raise AttentionError(
            f"{type(edit).__name__} needs passes of the denoiser before each step, which only our "
            "pipelines can give it: t2i.load(path), or TextToImagePipeline(...) around the same "
            "parts."
        )


def check_told(known: tuple[Readable, ...] | None, told: tuple[Readable, ...]) -> None:
    """What the pipeline tells is what attend() was told, if both were told anything."""
    if known is not None and told and told != known:
        raise ArgumentError(
            f"attend() was told the prompts {list(known)}, and the pipeline was called with "
            f"{list(told)}: leave prompts= out, the pipeline tells them."
        )


def check_sites(
    listed: Sequence[ParticipantEntry],
    sites: Sequence[Site],
    denoiser_pass: DenoiserPass,
    budget: int,
) -> None:
    """Once the sites are known: everybody has one, and what is kept has room."""
    for one in listed:
        if not any(one.wants(site) for site in sites):
            raise AttentionError(no_site(one.what, sites))
    kept = sum(one.bytes(sites, denoiser_pass) for one in listed)
    if kept > budget:
        raise AttentionError(
            f"The probes would keep {kept / GIBIBYTE:.2f} GiB in this run, and the budget is "
            f"{budget / GIBIBYTE:.2f} GiB: probe fewer sites, steps or words, leave out raw=True, "
            "or raise attend(..., budget=bytes)."
        )


def check_texts(denoiser_pass: DenoiserPass, site: Site, call: Call) -> None:
    """The pictures of a prompt hear the same text, or the prompts are not those of the call."""
    if (
        site.kind != "cross"
        or len(call.key) != denoiser_pass.num_rows
        or denoiser_pass.num_recorded
    ):
        return
    for prompt in range(denoiser_pass.num_prompts):
        key_BNKE = call.key[list(denoiser_pass.cond_rows(prompt))]
        if len(key_BNKE) < 2:
            continue
        difference = (key_BNKE - key_BNKE[:1]).abs().max()
        if difference > OTHER_TEXT * key_BNKE.abs().max():
            raise ArgumentError(
                f"attend() was told {several(denoiser_pass.num_prompts, 'prompt')}, but the "
                f"{several(len(key_BNKE), 'picture')} of number {prompt} hear different texts: "
                "give it the prompts of the call, one for each of its texts."
            )


def check_called_back(listed: Sequence[ParticipantEntry]) -> None:
    """The second step begins, and the pipeline has not called back: nobody needs it to."""
    for one in listed:
        if one.needs_callback and not one.at_work:
            raise AttentionError(f"{one.what} never fired: {CALLBACK}.")


def check_fired(
    listed: Sequence[ParticipantEntry], last: DenoiserPass | None, called_back: bool
) -> None:
    """The session ends: everybody has been at work."""
    idle = [one for one in listed if not one.at_work]
    if not idle:
        return
    if last is None:
        raise AttentionError(
            f"{idle[0].what} never fired: no picture was made inside the `with` block, or by "
            "another pipeline than the one that was given to attend(), or in another thread."
        )
    hint = (
        CALLBACK
        if idle[0].needs_callback and not called_back
        else f"the run had {several(last.num_steps, 'step')}; look at its steps, words and prompts"
    )
    raise AttentionError(f"{idle[0].what} never fired: {hint}.")
