"""Loss functions: tensors and numbers in, scalars out. No state, no device, no config."""
