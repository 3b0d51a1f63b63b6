"""The catalogue: categories, products and the variants that are sold."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    Identity,
    Index,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlmodel import Field, SQLModel

from db.types import ProductId, UtcDateTime, enum_field, new_id


class ProductStatus(StrEnum):
    DRAFT = "draft"
    ACTIVE = "active"
    ARCHIVED = "archived"


class Category(SQLModel, table=True):
    __tablename__ = "category"

    id: UUID = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    slug: str = Field(max_length=120, unique=True)
    name: str = Field(max_length=200)
    parent_id: UUID | None = Field(
        default=None, foreign_key="category.id", index=True, sa_type=Uuid
    )
    products: int = Field(
        default=0,
        sa_column_kwargs={"server_default": "0"},
        description="How many are listed in it, not below it. Written by triggers only.",
    )


_LISTED = "status = 'active' AND sku IS NOT NULL"


class Product(SQLModel, table=True):
    """What a shopper sees. `handle` is the merchant's stable key and the key of imports.

    `sku`, `price_amount`, `currency` and `variant_count` are what a card shows of its variants;
    a trigger on `variant` is their only writer.
    """

    __tablename__ = "product"
    __table_args__ = (
        Index("ix_product_search", "search", postgresql_using="gin"),
        Index("ix_product_category_id_id", "category_id", "id"),
        Index(
            "ix_product_title_trgm",
            "title",
            postgresql_using="gin",
            postgresql_ops={"title": "gin_trgm_ops"},
        ),
        Index(
            "ix_product_listed_category_price",
            "category_id",
            "price_amount",
            "id",
            postgresql_where=_LISTED,
        ),
        Index(
            "ix_product_listed_category_title",
            "category_id",
            "title",
            "id",
            postgresql_where=_LISTED,
        ),
        Index("ix_product_listed_id", "id", postgresql_where=_LISTED),
        Index("ix_product_listed_price", "price_amount", "id", postgresql_where=_LISTED),
        Index("ix_product_listed_title", "title", "id", postgresql_where=_LISTED),
    )

    id: ProductId = Field(default_factory=new_id, primary_key=True, sa_type=Uuid)
    handle: str = Field(max_length=200, unique=True)
    title: str = Field(max_length=300)
    description: str = Field(default="", sa_type=Text)
    brand: str = Field(default="", max_length=200)
    category_id: UUID | None = Field(default=None, foreign_key="category.id", sa_type=Uuid)
    attributes: dict[str, Any] = Field(default_factory=dict, sa_type=JSONB)
    tags: str = Field(default="", sa_type=Text, description="Space-separated, for search.")
    image_url: str | None = Field(default=None, max_length=2000)
    status: ProductStatus = enum_field(ProductStatus.ACTIVE)
    sku: str | None = Field(default=None, max_length=64, description="The cheapest active one.")
    price_amount: int | None = Field(default=None, sa_type=BigInteger)
    currency: str | None = Field(default=None, max_length=3)
    variant_count: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    created_at: datetime = Field(sa_type=UtcDateTime)
    updated_at: datetime = Field(sa_type=UtcDateTime)
    search: Any = Field(
        default=None,
        sa_column=Column(
            TSVECTOR,
            Computed(
                "setweight(to_tsvector('english', title || ' ' || brand), 'A') || "
                "setweight(to_tsvector('english', tags), 'B') || "
                "setweight(to_tsvector('english', description), 'C')",
                persisted=True,
            ),
        ),
    )


class SearchWord(SQLModel, table=True):
    """A word of titles and brands, and how many listed products have it. Written by triggers only;
    a word that no product has any more stays, with 0."""

    __tablename__ = "search_word"
    __table_args__ = (
        Index(
            "ix_search_word_trgm",
            "word",
            postgresql_using="gin",
            postgresql_ops={"word": "gin_trgm_ops"},
        ),
    )

    word: str = Field(primary_key=True, max_length=40)
    products: int


class CatalogChange(SQLModel, table=True):
    """What a transaction has changed so far of words and categories; it is empty for all others,
    since the commit adds it up and deletes it."""

    __tablename__ = "catalog_change"

    id: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True)
    )
    changes: list[dict[str, Any]] = Field(sa_type=JSONB)


class Variant(SQLModel, table=True):
    """One sellable SKU of a product."""

    __tablename__ = "variant"
    __table_args__ = (
        CheckConstraint("price_amount >= 0", name="price_not_negative"),
        Index("ix_variant_upper_sku", text("upper(sku)")),
    )

    sku: str = Field(primary_key=True, max_length=64)
    product_id: ProductId = Field(
        foreign_key="product.id", ondelete="CASCADE", index=True, sa_type=Uuid
    )
    title: str = Field(default="", max_length=300, description="What sets it apart: `Blue / M`.")
    options: dict[str, Any] = Field(default_factory=dict, sa_type=JSONB)
    price_amount: int = Field(sa_type=BigInteger, description="Minor units of `currency`.")
    currency: str = Field(max_length=3)
    barcode: str | None = Field(default=None, max_length=64)
    weight_g: int | None = None
    is_active: bool = True
    position: int = 0
