"""What all settings of a training config have in common."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen; a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
