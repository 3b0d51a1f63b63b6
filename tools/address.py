"""Postal addresses, as orders and customers hold them."""

from pydantic import BaseModel, Field


class Address(BaseModel):
    name: str = Field(min_length=1, max_length=200)
    line1: str = Field(min_length=1, max_length=200)
    line2: str | None = Field(default=None, max_length=200)
    city: str = Field(min_length=1, max_length=100)
    region: str | None = Field(default=None, max_length=100)
    postal_code: str = Field(min_length=1, max_length=20)
    country_code: str = Field(pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2.")
