"""Settings: TOML file < environment (KIZASHI_SECTION__KEY) < flags.

Every key has its unit in its name, a range, and the reason for its default. `load_settings` reports all faults at
once, each with its source. `Settings()` without arguments is the defaults, whatever the environment holds.
"""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import EnvSettingsSource as _EnvSource

from pipeline.errors import ConfigError
from pipeline.ops.faults import Fault, Origin, explain, stray_variables
from schemas.topics import Topic

ENV_PREFIX = "KIZASHI_"
