"""Bringing a merchant's catalogue into the shop from the file they have.

Good rows go in; each bad one is named with its line, column and reason, and never costs another
row its place. Running the same file again changes nothing: products are found by handle and
variants by SKU, only what differs is written, and stock is received only where a SKU has none yet.
"""

import asyncio
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import orjson
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.types import LocationId, ProductId, new_id
from deps import untrusted
from deps.core import Deps, UnitOfWork
from tools import catalog_format
from tools.catalog_clean import slug
from tools.catalog_entry import Fault, Faults, Judge, ProductEntry, VariantEntry, group
from tools.errors import Forbidden, InvalidInput, NotFound
from tools.events import ProductSaved

ERRORS_NAMED_MAX = 10_000
FLAGGED_LINES_MAX = 10
BATCH_PRODUCTS = 200
# Data exceptions and broken constraints: what is wrong with a row, and not with the database.
REFUSED_CLASSES = ("22", "23")
Progress = Callable[[int, int], None]


class RowError(BaseModel):
    """What is wrong with one row. `column` is the file's own name for it; empty for a whole row."""

    line: int
    column: str
    reason: str
    value: str = ""


class ImportReport(BaseModel):
    """`created`, `updated` and `unchanged` count products; `rows` counts rows of the file."""

    format: str
    rows: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    stocked: int = Field(default=0, description="SKUs that received their first stock.")
    refused: int = Field(default=0, description="All errors; `errors` names the first of them.")
    errors: list[RowError] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    errors_file: Path | None = None

    def add(self, saved: Self) -> None:
        self.created += saved.created
        self.updated += saved.updated
        self.unchanged += saved.unchanged
        self.stocked += saved.stocked
        self.refused += saved.refused
        if saved.errors:
            both = sorted((*self.errors, *saved.errors), key=lambda error: error.line)
            self.errors = both[:ERRORS_NAMED_MAX]

    def refuse(self, *errors: RowError) -> None:
        self.refused += len(errors)
        self.errors += errors


async def import_file(
    deps: Deps,
    path: Path,
    *,
    currency: str,
    location: str | None = None,
    on_progress: Progress | None = None,
    errors_path: Path | None = None,
) -> ImportReport:
    """Import a catalogue file, 200 products to a transaction.

    Interrupted, it leaves whole batches behind; running it again completes them.

    Args:
        path: A file of any supported format, plain or gzipped, or a folder that holds one.
        currency: ISO 4217 code the file's prices are in.
        location: Code of the location that receives the file's stock; the first to ship from
            when None. A shop with no location at all gets one called MAIN.
        on_progress: Called with (products done, products in all) after each batch.
        errors_path: Where to write the bad rows as CSV; beside the input when None. No bad row,
            no file.

    Raises:
        Forbidden: The actor may not write the catalogue.
        InvalidInput: The file as a whole cannot be read, or is no catalogue.
        NotFound: There is no such location.
    """
    if not deps.actor.may("catalog:write"):
        raise Forbidden("This needs the permission catalog:write.", scope="catalog:write")
    found = await asyncio.to_thread(catalog_format.find, path)
    report, entries = await asyncio.to_thread(_read, found, currency)
    location_id = await _receiving_location(deps, location)
    for start in range(0, len(entries), BATCH_PRODUCTS):
        batch = entries[start : start + BATCH_PRODUCTS]
        report.add(await _save_or_split(deps, batch, currency, location_id))
        if on_progress:
            on_progress(start + len(batch), len(entries))
    if report.errors:
        target = errors_path or found.with_name(f"{found.name}.errors.csv")
        try:
            await asyncio.to_thread(_write_errors, target, report.errors)
            report.errors_file = target
        except OSError as error:
            # The import itself is done; the report still holds every error.
            report.warnings.append(f"The bad rows could not be written to {target}: {error}.")
    if report.refused > len(report.errors):
        report.warnings.append(
            f"Only the first {len(report.errors)} bad rows are named; correct them to see the rest."
        )
    return report


def _read(path: Path, currency: str) -> tuple[ImportReport, list[ProductEntry]]:
    source = catalog_format.read(path)
    faults = Faults(ERRORS_NAMED_MAX)
    rows = 0
    flagged: dict[str, list[int]] = {}

    def refuse_more() -> None:
        if rows + len(source.broken) > catalog_format.ROWS_MAX:
            raise InvalidInput(f"The file has more than {catalog_format.ROWS_MAX} rows.")

    def counted() -> Any:
        nonlocal rows
        for row in source.rows:
            rows += 1
            for flag in untrusted.flags_in(row.fields):
                flagged.setdefault(flag, []).append(row.line)
            refuse_more()
            yield row
        refuse_more()  # What follows the last good row is counted by now.

    judge = Judge(currency, faults)
    entries = [
        entry
        for handle, its_rows in group(counted(), faults)
        if (entry := judge.product(handle, its_rows))
    ]
    for line, reason in source.broken:
        faults.append(Fault(line, "", reason, ""))
    errors = [
        RowError(
            line=fault.line,
            column=source.columns.get(fault.column, fault.column),
            reason=fault.reason,
            value=fault.value,
        )
        for fault in faults
    ]
    report = ImportReport(
        format=source.format,
        rows=rows + len(source.broken),
        refused=faults.count,
        errors=errors,
        warnings=[*source.warnings, *(_remark(*found) for found in flagged.items())],
    )
    return report, entries


def _remark(flag: str, lines: list[int]) -> str:
    """Tell whoever imports what a file's texts hold besides what they show. Hidden parts are not
    stored; words are, as words."""
    named = ", ".join(str(line) for line in lines[:FLAGGED_LINES_MAX])
    more = f" and {len(lines) - FLAGGED_LINES_MAX} more" if len(lines) > FLAGGED_LINES_MAX else ""
    return f"A text has {flag}: line {named}{more}."


async def _receiving_location(deps: Deps, code: str | None) -> LocationId:
    async with deps.begin() as uow:
        rows = await uow.session.execute(
            text("SELECT code, id FROM location WHERE is_active ORDER BY priority, code")
        )
        locations: dict[str, LocationId] = {row.code: row.id for row in rows}
        if code is not None and code not in locations:
            known = ", ".join(locations) or "none yet"
            raise NotFound(f"There is no location {code}. Locations: {known}.", field="location")
        if code is not None:
            return locations[code]
        if locations:
            return next(iter(locations.values()))
        made = LocationId(new_id())
        await uow.session.execute(
            text(
                "INSERT INTO location (id, code, name, priority, is_active)"
                " VALUES (:id, 'MAIN', 'Main warehouse', 100, true)"
            ),
            {"id": made},
        )
        return made


async def _save_or_split(
    deps: Deps, batch: Sequence[ProductEntry], currency: str, location_id: LocationId
) -> ImportReport:
    """Save a batch in one transaction; should the database refuse it, find the one to blame."""
    try:
        async with deps.begin() as uow:
            return await save(uow, batch, currency, location_id)
    except DBAPIError as error:
        if str(getattr(error.orig, "sqlstate", ""))[:2] not in REFUSED_CLASSES:
            raise
        if len(batch) == 1:
            said = str(error.orig).splitlines()[0]
            reason = f"was refused by the database: {(said.partition('>: ')[2] or said)[:300]}"
            refused = RowError(line=batch[0].line, column="", reason=reason, value=batch[0].handle)
            return ImportReport(format="", refused=1, errors=[refused])
    middle = len(batch) // 2
    report = await _save_or_split(deps, batch[:middle], currency, location_id)
    report.add(await _save_or_split(deps, batch[middle:], currency, location_id))
    return report


# One import writes at a time, so two of the same file cannot deadlock on each other's rows or both
# find a SKU without stock. Released at commit.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('catalog_import'))")

_SKU_OWNERS = text("""
    SELECT v.sku, p.handle FROM variant v JOIN product p ON p.id = v.product_id
    WHERE v.sku = ANY(:skus)
""")

_CATEGORIES = text("""
    INSERT INTO category (id, slug, name)
    SELECT id, slug, name FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS x(id uuid, slug text, name text)
    ON CONFLICT (slug) DO NOTHING
""")

_PRODUCT_ROWS = """
    (SELECT x.*, c.id AS category_id FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS x(id uuid, handle text, title text, description text, brand text, category text,
             attributes jsonb, tags text, image_url text, status text)
     LEFT JOIN category c ON c.slug = x.category)
"""

# Absent in the file (null here) means: leave alone.
_UPDATE_PRODUCTS = text(f"""
    UPDATE product p SET
        title = x.title,
        description = COALESCE(x.description, p.description),
        brand = COALESCE(x.brand, p.brand),
        category_id = COALESCE(x.category_id, p.category_id),
        attributes = COALESCE(x.attributes, p.attributes),
        tags = COALESCE(x.tags, p.tags),
        image_url = COALESCE(x.image_url, p.image_url),
        status = COALESCE(x.status, p.status),
        updated_at = :now
    FROM {_PRODUCT_ROWS} x
    WHERE p.handle = x.handle AND (
        p.title <> x.title OR p.description <> x.description OR p.brand <> x.brand
        OR p.category_id IS DISTINCT FROM COALESCE(x.category_id, p.category_id)
        OR p.attributes <> x.attributes OR p.tags <> x.tags
        OR p.image_url IS DISTINCT FROM COALESCE(x.image_url, p.image_url)
        OR p.status <> x.status)
    RETURNING p.handle
""")

_INSERT_PRODUCTS = text(f"""
    INSERT INTO product (id, handle, title, description, brand, category_id, attributes, tags,
                         image_url, status, created_at, updated_at)
    SELECT id, handle, title, COALESCE(description, ''), COALESCE(brand, ''), category_id,
           COALESCE(attributes, '{{}}'), COALESCE(tags, ''), image_url,
           COALESCE(status, 'active'), :now, :now
    FROM {_PRODUCT_ROWS} x
    ON CONFLICT (handle) DO NOTHING
    RETURNING handle
""")

_PRODUCT_IDS = text("SELECT handle, id FROM product WHERE handle = ANY(:handles)")

_VARIANT_ROWS = """
    jsonb_to_recordset(CAST(:rows AS jsonb))
        AS x(sku text, product_id uuid, title text, options jsonb, price_amount bigint,
             barcode text, weight_g int, position int)
"""

_UPDATE_VARIANTS = text(f"""
    UPDATE variant v SET
        title = x.title, options = x.options, price_amount = x.price_amount, currency = :currency,
        barcode = COALESCE(x.barcode, v.barcode), weight_g = COALESCE(x.weight_g, v.weight_g),
        position = x.position
    FROM {_VARIANT_ROWS}
    WHERE v.sku = x.sku AND v.product_id = x.product_id AND (
        v.title <> x.title OR v.options <> x.options OR v.price_amount <> x.price_amount
        OR v.currency <> :currency OR v.position <> x.position
        OR v.barcode IS DISTINCT FROM COALESCE(x.barcode, v.barcode)
        OR v.weight_g IS DISTINCT FROM COALESCE(x.weight_g, v.weight_g))
    RETURNING v.product_id
""")

_INSERT_VARIANTS = text(f"""
    INSERT INTO variant (sku, product_id, title, options, price_amount, currency, barcode,
                         weight_g, is_active, position)
    SELECT sku, product_id, title, options, price_amount, :currency, barcode, weight_g, true,
           position
    FROM {_VARIANT_ROWS}
    ON CONFLICT (sku) DO NOTHING
    RETURNING product_id
""")

_RECEIVE = text("""
    INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                allocated_delta, reason, actor_id, occurred_at)
    SELECT x.sku, :location_id, 'receive', x.stock, 0, 0, 'catalogue import', :actor_id, :now
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(sku text, stock int)
    WHERE NOT EXISTS (SELECT 1 FROM stock_level l
                      WHERE l.sku = x.sku AND l.location_id = :location_id)
    ORDER BY x.sku
""")


def _json(rows: list[dict[str, Any]]) -> str:
    # `default`: asyncpg's UUIDs are a class of their own.
    return orjson.dumps(rows, default=str).decode()


async def save(
    uow: UnitOfWork, batch: Sequence[ProductEntry], currency: str, location_id: LocationId
) -> ImportReport:
    """Store judged products in the caller's transaction; write and announce only what differs."""
    report = ImportReport(format="")
    await uow.session.execute(_LOCK)
    kept = await _without_foreign_skus(uow, batch, report)
    if not kept:
        return report
    named = {slug(e.category) or "other": e.category for e, _ in kept if e.category}
    categories = [{"id": new_id(), "slug": s, "name": name} for s, name in sorted(named.items())]
    await uow.session.execute(_CATEGORIES, {"rows": _json(categories)})
    products = [
        {
            "id": new_id(),
            "handle": entry.handle,
            "title": entry.title,
            "description": entry.description,
            "brand": entry.brand,
            "category": (slug(entry.category) or "other") if entry.category else None,
            "attributes": entry.attributes,
            "tags": entry.tags,
            "image_url": entry.image_url,
            "status": entry.status,
        }
        for entry, _ in kept
    ]
    given = {"rows": _json(products), "now": uow.now}
    changed = set((await uow.session.execute(_UPDATE_PRODUCTS, given)).scalars())
    created = set((await uow.session.execute(_INSERT_PRODUCTS, given)).scalars())
    ids = await uow.session.execute(_PRODUCT_IDS, {"handles": [e.handle for e, _ in kept]})
    id_of: dict[str, ProductId] = {row.handle: row.id for row in ids}
    with_new_variants = await _save_variants(uow, kept, id_of, currency)
    report.stocked = await _receive(uow, [v for _, its in kept for v in its], location_id)
    for entry, _ in kept:
        product_id = id_of[entry.handle]
        is_new = entry.handle in created
        if is_new:
            report.created += 1
        elif entry.handle in changed or product_id in with_new_variants:
            report.updated += 1
        else:
            report.unchanged += 1
            continue
        uow.publish(ProductSaved(product_id=product_id, handle=entry.handle, created=is_new))
    return report


async def _without_foreign_skus(
    uow: UnitOfWork, batch: Sequence[ProductEntry], report: ImportReport
) -> list[tuple[ProductEntry, list[VariantEntry]]]:
    """Pair each product with the variants it may have; a SKU of another product stays there."""
    skus = [variant.sku for entry in batch for variant in entry.variants]
    rows = await uow.session.execute(_SKU_OWNERS, {"skus": skus})
    owners: dict[str, str] = {row.sku: row.handle for row in rows}
    kept = []
    for entry in batch:
        own = [v for v in entry.variants if owners.get(v.sku, entry.handle) == entry.handle]
        report.refuse(
            *(
                RowError(
                    line=variant.line,
                    column="sku",
                    reason=f"belongs to the product {owners[variant.sku]}",
                    value=variant.sku,
                )
                for variant in entry.variants
                if variant not in own
            )
        )
        if own:
            kept.append((entry, own))
    return kept


async def _save_variants(
    uow: UnitOfWork,
    kept: Sequence[tuple[ProductEntry, list[VariantEntry]]],
    id_of: dict[str, ProductId],
    currency: str,
) -> set[ProductId]:
    variants = [
        {
            "sku": variant.sku,
            "product_id": id_of[entry.handle],
            "title": variant.title,
            "options": variant.options,
            "price_amount": variant.price_amount,
            "barcode": variant.barcode,
            "weight_g": variant.weight_g,
            "position": variant.position,
        }
        for entry, its in kept
        for variant in its
    ]
    given = {"rows": _json(variants), "currency": currency}
    changed = set((await uow.session.execute(_UPDATE_VARIANTS, given)).scalars())
    return changed | set((await uow.session.execute(_INSERT_VARIANTS, given)).scalars())


async def _receive(
    uow: UnitOfWork, variants: Sequence[VariantEntry], location_id: LocationId
) -> int:
    rows = [{"sku": v.sku, "stock": v.stock} for v in variants if v.stock]
    result = await uow.session.execute(
        _RECEIVE,
        {
            "rows": _json(rows),
            "location_id": location_id,
            "actor_id": uow.actor.user_id,
            "now": uow.now,
        },
    )
    count = getattr(result, "rowcount", 0)
    assert isinstance(count, int)
    return count


def _write_errors(target: Path, errors: Sequence[RowError]) -> None:
    def safe(cell: str) -> str:
        # A spreadsheet would run a cell that starts like a formula (OWASP: CSV injection).
        return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t")) else cell

    with target.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["line", "column", "reason", "value"])
        for error in errors:
            writer.writerow([error.line, error.column, error.reason, safe(error.value)])
