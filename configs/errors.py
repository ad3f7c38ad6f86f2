class ConfigError(ValueError):
    """A key, a value or a file of the configuration is wrong; the message is for the user."""
