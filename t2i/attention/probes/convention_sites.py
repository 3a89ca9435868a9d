"""Attention sites that the conventions of heat maps read."""

from t2i.attention.probes.heat_maps import Convention
from t2i.attention.site import Site, Sites

CONVENTION_SITES: dict[Convention, Sites] = {
    "daam": Sites(kind="cross", place=("up", "down")),
    "refined": Sites(kind="cross", place="up"),
    "concept_attention": Sites(kind="joint"),
}
"""Sites that a convention reads where the probe names none; others read all. Of joint attention
"refined" reads all sites."""
CONVENTION_NEEDS: dict[Convention, str] = {
    "daam": "reads the cross-attention of a UNet's encoder and decoder",
    "refined": "needs self-attention in the decoder of a UNet, or joint attention",
    "concept_attention": "compares the outputs of joint attention, as in SD3 and Flux",
}


def convention_reads_site(convention: Convention, site: Site, chosen: Sites | None) -> bool:
    """Return True for a site whose attention to the text a convention of heat maps reads.

    chosen : the sites that the probe names; None for the convention's own
    """
    if site.kind == "self" or (convention == "concept_attention" and site.kind != "joint"):
        return False
    if chosen is not None:
        return chosen.matches(site)
    if convention == "refined" and site.kind == "joint":
        return site.control_number is None
    return CONVENTION_SITES.get(convention, Sites()).matches(site)


def describe_convention_needs(convention: Convention) -> str:
    """Return what a model must have for a convention, for the error where none of its sites has it;
    empty for conventions that need no more than a text.
    """
    needs = CONVENTION_NEEDS.get(convention)
    return "" if needs is None else f' convention="{convention}" {needs}: choose another one.'
