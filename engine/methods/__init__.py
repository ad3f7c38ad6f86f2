"""One module a method: ``build_extractor(cfg)`` for evaluation, ``build(cfg, data)`` for training."""
