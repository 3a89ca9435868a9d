"""Checks that raise a session's errors: unusable edits, missing sites, wrong prompts, no effect.

B rows of one prompt, N heads, K key positions, E width of a head.
"""

from collections.abc import Sequence

from t2i.attention.compute.recorded_rows import RecordedAttentionInputs, RecordedRun
from t2i.attention.compute.tap import AttentionInputs
from t2i.attention.denoiser_pass import DenoiserPass
from t2i.attention.edits.base.edit import Edit
from t2i.attention.probes.convention_sites import describe_convention_needs
from t2i.attention.session.participant import RegisteredParticipant
from t2i.attention.site import Site, as_sites, build_no_site_message
from t2i.errors import ArgumentError, AttentionError
from t2i.terminal import plural
from t2i.text.token_windows import EncoderInput

GIBIBYTE = 1 << 30
MIN_RELATIVE_KEY_DIFFERENCE = 0.05
"""Least difference between the keys of two texts, as a share of the largest key."""
CONTROL_REMEDY = (
    "Sites that begin with 'control' are those in the ControlNets of a run: of our pipelines, "
    "pipe(..., controls=[...]), or of diffusers' own ControlNet pipelines; a T2I-Adapter has none."
)
CALLBACK_REMEDY = "pass callback_on_step_end=attn.on_step_end to the pipeline"


def check_edit_is_supported(edit: object, driven_by_callback: bool) -> None:
    """Raise ArgumentError for an object that is no attention edit, AttentionError for an edit that
    this kind of pipeline cannot run.

    An edit that needs extra passes needs a pipeline whose loop the session takes part in.
    """
    if not isinstance(edit, Edit):
        raise ArgumentError(
            f"Got a {type(edit).__name__}, expected an edit, such as Replace(source=0)."
        )
    if edit.needs_extra_passes and driven_by_callback:
        raise AttentionError(
            f"{type(edit).__name__} needs passes of the denoiser before each step, which only our "
            "pipelines can give it: t2i.load(path), or TextToImagePipeline(...) around the same "
            "parts."
        )


def check_attend_prompts_match_pipeline(
    own: tuple[EncoderInput, ...] | None, of_pipeline: tuple[EncoderInput, ...]
) -> None:
    """Raise ArgumentError unless the prompts given to attend() are those that the pipeline was
    called with.
    """
    if own is not None and of_pipeline and of_pipeline != own:
        raise ArgumentError(
            f"attend() got the prompts {list(own)}, but the pipeline was called with "
            f"{list(of_pipeline)}: leave out prompts=, the session takes them from the pipeline."
        )


def check_sites_and_memory(
    entries: Sequence[RegisteredParticipant],
    sites: Sequence[Site],
    denoiser_pass: DenoiserPass,
    budget: int,
    undiscovered_controls: Sequence[int] = (),
) -> None:
    """Raise AttentionError for a probe or an edit that selects no site of the model, or if the
    probes need more memory than the budget (bytes).

    undiscovered_controls : controls that begin to act at a later step, whose sites are not known
        yet
    """
    for entry in entries:
        check_not_all_skipped(entry, sites, denoiser_pass)
        if any(map(entry.selects_site, sites)):
            continue
        if any(map(entry.acts_in_control_network, undiscovered_controls)):
            continue
        message = build_no_site_message(entry.participant, sites)
        if as_sites(entry.participant.sites).is_limited_to_control_networks:
            message += f" {CONTROL_REMEDY}"
        message += "".join(describe_convention_needs(one.convention) for one in entry.probes)
        raise AttentionError(message)
    kept = sum(entry.estimate_probe_bytes(sites, denoiser_pass) for entry in entries)
    if kept > budget:
        raise AttentionError(
            f"The probes would keep {kept / GIBIBYTE:.2f} GiB in this run, and the budget is "
            f"{budget / GIBIBYTE:.2f} GiB: probe fewer sites, steps or words, leave out raw=True, "
            "or raise attend(..., budget=bytes)."
        )


def check_not_all_skipped(
    entry: RegisteredParticipant, sites: Sequence[Site], denoiser_pass: DenoiserPass
) -> None:
    """Raise AttentionError for a probe or an edit of which the steps are all such at which the
    run's caches leave out the attention of its sites.
    """
    skipped, num_steps = denoiser_pass.skipped_calls, denoiser_pass.num_steps
    if skipped is None:
        return
    for one in entry.list_readers_and_writers():
        steps = [step for step in range(num_steps) if one.acts_at_step(step, num_steps)]
        own = [site for site in sites if one.acts_at_site(site)]
        computed = sorted(
            {step for site in own for step in skipped.list_computed_passes(site.name)}
        )
        if own and steps and not set(steps) & set(computed):
            places = plural(len(own), "site")
            raise AttentionError(
                f"{one} acts at the steps {steps[0]} to {steps[-1]}, at all of which the cache "
                f"{skipped.description} leaves out the attention of {places}. Choose steps among "
                f"those that compute it ({', '.join(map(str, computed))}), choose other sites, or "
                "leave the cache out."
            )


def check_recorded_run_fits(
    recorded: RecordedRun, denoiser_pass: DenoiserPass, latent_size: tuple[int, int] | None
) -> None:
    """Raise ArgumentError for a run of another number of steps, or with latents (H, W) of another
    size, than the recorded source that it is to read.
    """
    if denoiser_pass.num_steps != recorded.num_steps:
        raise ArgumentError(
            f"Got a run of {plural(denoiser_pass.num_steps, 'step')} with a source recorded for "
            f"{recorded.num_steps}: each step reads that of the source with its noise. Record the "
            "source with the num_inference_steps, sampler and strength of the run."
        )
    height, width = recorded.latents_after_step(denoiser_pass.step).shape[-2:]
    if latent_size is not None and latent_size != (height, width):
        raise ArgumentError(
            f"Got a run with latents of {latent_size[1]}x{latent_size[0]} and a source recorded "
            f"with {width}x{height}: attention reads it position by position. Record the source "
            "with the height and width of the run."
        )


def check_pass_of_source_recorded(
    recorded: RecordedAttentionInputs | None, site: Site, denoiser_pass: DenoiserPass
) -> None:
    """Raise AttentionError at a site that a cache left out when the source was recorded, but that
    the edit's own pass computes: its text has changed there, as by a step callback.
    """
    skipped = denoiser_pass.skipped_calls
    is_always_recorded = site.kind != "self" and site.control_number is None
    if recorded is None and skipped is not None and is_always_recorded:
        raise AttentionError(
            f"Step {denoiser_pass.step} computes {site.name}, but the recorded source left it out "
            f"there with its cache {skipped.description}: the text of this run has changed, that "
            "of the source has not. Leave the change out, or record the source without a cache."
        )


def check_images_of_prompt_share_text(
    denoiser_pass: DenoiserPass, site: Site, call: AttentionInputs
) -> None:
    """Raise ArgumentError where the images of one prompt attend to different text keys, so that the
    session's prompts cannot be those of the call.
    """
    if site.kind != "cross" or denoiser_pass.num_recorded:
        return
    if len(call.key) != denoiser_pass.num_rows:
        return
    for prompt in range(denoiser_pass.num_prompts):
        key_BNKE = call.key[list(denoiser_pass.cond_rows_of_prompt(prompt))]
        if len(key_BNKE) < 2:
            continue
        difference = (key_BNKE - key_BNKE[:1]).abs().max()
        if difference > MIN_RELATIVE_KEY_DIFFERENCE * key_BNKE.abs().max():
            raise ArgumentError(
                f"attend() got {plural(denoiser_pass.num_prompts, 'prompt')}, but the "
                f"{plural(len(key_BNKE), 'picture')} of prompt {prompt} attend to different "
                "texts: give it the prompts of the call, one for each of its texts."
            )


def check_step_callback_ran(entries: Sequence[RegisteredParticipant]) -> None:
    """Raise AttentionError if an edit of latents waits for a callback that has not come.

    Called when the second step begins and the pipeline has not called back.
    """
    for entry in entries:
        if entry.participant.edits_latents and not entry.has_acted_or_does_nothing:
            raise AttentionError(f"{entry.participant} never fired: {CALLBACK_REMEDY}.")


def check_all_participants_acted(
    entries: Sequence[RegisteredParticipant], last: DenoiserPass | None, called_back: bool
) -> None:
    """Raise AttentionError for a probe or an edit that never acted; `last` is the last pass."""
    idle = [entry for entry in entries if not entry.has_acted_or_does_nothing]
    if not idle:
        return
    if last is None:
        raise AttentionError(
            f"{idle[0].participant} never fired: no picture was made inside the `with` block, or "
            "by another pipeline than the one that was given to attend(), or in another thread."
        )
    hint = (
        CALLBACK_REMEDY
        if idle[0].participant.edits_latents and not called_back
        else f"the run had {plural(last.num_steps, 'step')}; look at its steps, words and prompts"
    )
    raise AttentionError(f"{idle[0].participant} never fired: {hint}.")
