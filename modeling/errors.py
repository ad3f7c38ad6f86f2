class ModelError(ValueError):
    """A network, a weight file or a layer got something it cannot use; the message is for the user."""
