"""Settings of the server."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ServingConfig(BaseModel):
    """How many texts are decoded together, who may ask, and when the server says no."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(..., min_length=1, description="The model's name, which a request has to give.")
    host: str = Field("127.0.0.1", description="Address to listen at; 0.0.0.0 is every one of this machine.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen at; 0 takes a free one.")
    slots: int = Field(
        16, ge=1, description="Texts decoded together; each takes a KV cache of the model's whole length."
    )
    max_queue: int = Field(
        256, ge=0, description="Texts that may wait for a slot; more are answered with 429, to be sent again later."
    )
    request_timeout: float = Field(
        600.0, gt=0, description="Seconds for a request, waiting included; then it is answered with 504."
    )
    max_body_bytes: int = Field(1 << 20, ge=1024, description="Longest body of a request; longer ones get 413.")
    shutdown_seconds: float = Field(
        30.0, ge=0, description="Seconds that running requests have to finish after SIGTERM or SIGINT."
    )
    api_key: SecretStr | None = Field(
        None, description="What clients must send as 'Authorization: Bearer KEY'; null lets everybody ask."
    )

    @property
    def most_texts(self) -> int:
        """Texts of one request that could ever be taken at once."""
        return self.slots + self.max_queue
