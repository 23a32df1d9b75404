"""Configurations as checked plain data. No torch."""

from seed_oss.config.generation import GenerationConfig
from seed_oss.config.model import SeedOssConfig

__all__ = ["GenerationConfig", "SeedOssConfig"]
