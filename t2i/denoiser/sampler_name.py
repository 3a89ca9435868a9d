"""The form in which samplers are looked up by name."""


def normalize_sampler_name(name: str) -> str:
    """Normalize a sampler's name, such as "k-dpmpp-2m-karras" to "dpm++ 2m karras".

    Letters are lower case, words are separated by one space, and a leading "k" is left out.
    """
    words = name.lower().replace("_", " ").replace("-", " ").replace("dpmpp", "dpm++").split()
    return " ".join(words[1:] if words[:1] == ["k"] else words)
