"""Networks, memories and weights. Plain arguments in, modules out; nothing here knows the config."""

from crossreid.modeling.errors import ModelError

__all__ = ["ModelError"]
