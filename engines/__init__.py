"""Arrays in, arrays out. Knows no Kafka and no schemas; holds the shipped models."""

from engines.base import Array, Arrays, Engine, EngineError, EngineLost, Pipelined, Staging, TensorSpec
from engines.bundle import Bundle, BundleError, ModelSpec, load_bundle, shipped_bundles
from engines.supply import ENGINES, open_engine

__all__ = [
    "ENGINES", "Array", "Arrays", "Bundle", "BundleError", "Engine", "EngineError", "EngineLost", "ModelSpec",
    "Pipelined", "Staging", "TensorSpec",
    "load_bundle", "open_engine", "shipped_bundles",
]
