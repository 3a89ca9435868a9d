"""Names of the baseline pictures, which no edit made; edited ones are compared with them."""

NO_EDIT = "no edit"
COMPOSED_TARGET = "composed target"
AUTOENCODER = "autoencoder alone"
REGENERATED = "drawn anew"
BASELINES = (NO_EDIT, COMPOSED_TARGET, AUTOENCODER, REGENERATED)
"""The source itself; the right result, and so the ceiling of success; the source encoded and
decoded, the ceiling of what is kept; and the target's prompt drawn without the source."""
