"""Names of the control pictures, which no edit made and with which the edited ones are compared."""

NO_EDIT = "no edit"
COMPOSED_TARGET = "composed target"
AUTOENCODER = "autoencoder alone"
DRAWN_ANEW = "drawn anew"
CONTROLS = (NO_EDIT, COMPOSED_TARGET, AUTOENCODER, DRAWN_ANEW)
"""The source itself; the right result, and so the ceiling of success; the source encoded and
decoded, the ceiling of what is kept; and the target's prompt drawn without the source."""
