"""The methods by name. A new one is a module, a line here, a YAML, a section of defaults and a test."""

from __future__ import annotations

from types import ModuleType

from engine.methods import camera_aware, central_feature, disentangle, ecn, m3l

METHODS: dict[str, ModuleType] = {
    "camera_aware": camera_aware,
    "ecn": ecn,
    "disentangle": disentangle,
    "m3l": m3l,
    "central_feature": central_feature,
}
