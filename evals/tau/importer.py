"""The benchmark's shop as one of ours: people, methods, gift cards, catalogue, stock, past orders.

Everything is written as the shop itself would have left it, so that every invariant holds: balances
through movements, stock through movements, payments with their ledger, orders with their event.
What the benchmark calls unavailable has its units at a location that does not sell.
"""

from datetime import timedelta
from uuid import UUID

from db.models.aftersales import AftersalesPolicy
from db.models.credit import CreditAccount, CreditKind
from db.models.customer import CustomerAddress
from db.models.inventory import (
    MovementKind,
    StockMovement,
)
from db.models.payment import (
    MethodKind,
    StoredMethod,
)
from db.models.product import Product, Variant
from db.models.user import User
from db.types import LocationId, ProductId, UserId, new_id
from deps.core import SYSTEM, Deps
from evals.tau import history, names
from evals.tau.book import Book
from evals.tau.data import DataMissing, Json, Shop

UNITS = 100_000  # Of what can be had: more than all the calls of a run take.
POLICY = AftersalesPolicy(
    item_edits_max=1,
    payment_changes_max=1,
    requests_max=1,
    item_edit_closes=True,
    refunds_to_any_method=True,
    return_window_days=None,
    cancel_reasons=["no longer needed", "ordered by mistake"],
)
_KINDS = {"credit_card": MethodKind.CARD, "paypal": MethodKind.PAYPAL}


async def load(deps: Deps, shop: Shop) -> None:
    """Write the shop into an empty, migrated database, in one transaction.

    Raises:
        DataMissing: An order is in a state, or was paid in a way, that is not known.
    """
    async with deps.acting_as(SYSTEM).begin() as uow:
        book = Book(uow.now - timedelta(days=30))
        book.add(AftersalesPolicy(**POLICY.model_dump()))
        products = _catalogue(book, shop)
        _people(book, shop)
        history.write(book, shop, products)
        _stock(book, shop)
        await book.write(uow)


def _catalogue(book: Book, shop: Shop) -> dict[str, UUID]:
    ids: dict[str, UUID] = {}
    for product_id, product in shop.products.items():
        ids[product_id] = new_id()
        book.add(
            Product(
                id=ProductId(ids[product_id]),
                handle=product_id,
                title=product["name"],
                created_at=book.at,
                updated_at=book.at,
            )
        )
        for position, (item_id, item) in enumerate(product["variants"].items()):
            book.add(
                Variant(
                    sku=item_id,
                    product_id=ProductId(ids[product_id]),
                    title=" / ".join(str(value) for value in item["options"].values()),
                    options=item["options"],
                    price_amount=names.cents(item["price"]),
                    currency=names.CURRENCY,
                    position=position,
                )
            )
    return ids


def _people(book: Book, shop: Shop) -> None:
    for user_id, user in shop.users.items():
        owner = UserId(names.user_uuid(user_id))
        name = f"{user['name']['first_name']} {user['name']['last_name']}"
        book.add(
            User(
                id=owner,
                email=user["email"].strip().lower(),
                name=name,
                password_hash="!",
                created_at=book.at,
            )
        )
        address = names.to_address(user["address"], name)
        book.add(
            CustomerAddress(
                customer_id=owner,
                postal_code=address.postal_code,
                address=address.model_dump(),
                updated_at=book.at,
            )
        )
        for at, (method_id, method) in enumerate(user["payment_methods"].items()):
            _method(book, owner, method_id, method, at)


def _method(book: Book, owner: UserId, method_id: str, method: Json, at: int) -> None:
    is_gift_card = method["source"] == "gift_card"
    if not is_gift_card and method["source"] not in _KINDS:
        raise DataMissing(f"{method_id} is a {method['source']}: no such way to pay is known.")
    account_id = names.account_uuid(method_id) if is_gift_card else None
    if account_id is not None:
        book.add(
            CreditAccount(
                id=account_id,
                kind=CreditKind.GIFT_CARD,
                customer_id=owner,
                code_last4=method_id[-4:],
                currency=names.CURRENCY,
                created_at=book.at,
            )
        )
        # What was on it before the orders were paid with it.
        book.spent.setdefault(account_id, 0)
    book.add(
        StoredMethod(
            id=names.method_uuid(method_id),
            customer_id=owner,
            provider="credit" if is_gift_card else "scripted",
            token=method_id,
            kind=MethodKind.CREDIT if is_gift_card else _KINDS[method["source"]],
            brand=method.get("brand") or "",
            last4=method.get("last_four") or "",
            credit_account_id=account_id,
            created_at=book.at + timedelta(microseconds=at),
        )
    )


def _stock(book: Book, shop: Shop) -> None:
    """Receive what is on sale and what the open orders have, then allocate the latter."""
    allocated = []
    for product in shop.products.values():
        for sku, item in product["variants"].items():
            taken = book.units.get(sku, 0)
            where = LocationId((book.place if item["available"] else book.closed).id)
            on_hand = taken + (UNITS if item["available"] else 0)
            if on_hand:
                book.add(
                    StockMovement(
                        sku=sku,
                        location_id=where,
                        kind=MovementKind.RECEIVE,
                        on_hand_delta=on_hand,
                        reason="opening stock",
                        occurred_at=book.at,
                    )
                )
            if taken:
                allocated.append(
                    StockMovement(
                        sku=sku,
                        location_id=where,
                        kind=MovementKind.ALLOCATE,
                        allocated_delta=taken,
                        reason="open orders",
                        occurred_at=book.at,
                    )
                )
    book.add(*allocated)
