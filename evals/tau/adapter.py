"""The benchmark's tools over our operations: names, arguments and formats, and no rule of its own.

A person's calls act as that person, so somebody else's order does not exist for them; looking
customers up is staff's, as it is in any shop.
"""

import ast
import json
import operator
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from db.models.user import Role
from db.types import UserId
from deps.core import ROLE_SCOPES, SYSTEM, Actor, Deps, UnitOfWork
from evals.tau import export, names
from evals.tau.data import Json
from evals.tau.export import Names
from tools import (
    address,
    checkout,
    customer,
    exchange,
    handover,
    order,
    order_edit,
    product,
    return_,
)
from tools.errors import (
    AftersalesLimit,
    Conflict,
    DomainError,
    IllegalTransition,
    InsufficientCredit,
    NotFound,
    OutOfStock,
)
from tools.line_change import LineChange, LineRequest
from tools.registry import OPERATIONS, Operation


class Refused(Exception):
    """The call was refused; the message is the benchmark's own, as far as it has one for this."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools as one person, or as nobody, may call them."""

    deps: Deps
    known: Names
    user_id: str | None = None

    @property
    def person(self) -> Deps:
        if self.user_id is None:
            return self.deps.acting_as(Actor(scopes=ROLE_SCOPES[None]))
        return as_user(self.deps, self.user_id)

    @property
    def staff(self) -> Deps:
        return self.deps.acting_as(SYSTEM)

    async def __call__(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Call a tool.

        Raises:
            Refused: As the benchmark's tool would raise a ValueError.
        """
        tool: Callable[..., Awaitable[Any]] | None = TOOLS.get(name)
        if tool is None:
            raise Refused(f"Unknown tool {name}")
        try:
            return await tool(self, **arguments)
        except DomainError as error:
            raise Refused(_said(name, error)) from error
        except TypeError as error:
            if tool.__name__ not in str(error):
                raise
            raise Refused(f"Wrong arguments for {name}") from error

    async def read(self, work: Callable[[UnitOfWork], Awaitable[Any]], *, staff: bool) -> Any:
        async with (self.staff if staff else self.person).begin() as uow:
            return await work(uow)

    async def shown(self, number: int) -> Json:
        found = await export.orders(self.staff, self.known, [number])
        shown: Json = export.shown(found[names.order_id(number)])
        return shown


def as_user(deps: Deps, user_id: str) -> Deps:
    return deps.acting_as(
        Actor(
            role=Role.CUSTOMER,
            user_id=UserId(names.user_uuid(user_id)),
            scopes=ROLE_SCOPES[Role.CUSTOMER],
        )
    )


def _number(order_id: str) -> int:
    number = names.order_number(str(order_id))
    if number is None:
        raise NotFound("No such order.")
    return number


def line_changes(item_ids: list[str], new_item_ids: list[str]) -> list[LineChange]:
    """Return what item lists mean: each new item takes the place of the one at its position."""
    if len(item_ids) != len(new_item_ids):
        raise Refused("The number of items to be exchanged should match.")
    return [
        LineChange(sku=old, new_sku=new)
        for old, new in zip(map(str, item_ids), map(str, new_item_ids), strict=True)
    ]


def line_requests(item_ids: list[str]) -> list[LineRequest]:
    return [LineRequest(sku=str(item_id)) for item_id in item_ids]


async def cancel_pending_order(tools: Tools, order_id: str, reason: str) -> Json:
    number = _number(order_id)
    async with tools.person.begin() as uow:
        # Cancelling again changes nothing here, where the benchmark says no.
        if "cancel" not in (await order.get(uow, number)).allowed_actions:
            raise IllegalTransition("order", "such", "cancelled")
    await checkout.cancel(tools.person, number, reason)
    return await tools.shown(number)


async def modify_pending_order_items(
    tools: Tools,
    order_id: str,
    item_ids: list[str],
    new_item_ids: list[str],
    payment_method_id: str,
) -> Json:
    number = _number(order_id)
    changes = line_changes(item_ids, new_item_ids)
    await order_edit.modify_items(
        tools.person, number, changes, names.method_uuid(payment_method_id)
    )
    return await tools.shown(number)


async def modify_pending_order_payment(tools: Tools, order_id: str, payment_method_id: str) -> Json:
    number = _number(order_id)
    await order_edit.modify_payment(tools.person, number, names.method_uuid(payment_method_id))
    return await tools.shown(number)


async def modify_pending_order_address(tools: Tools, order_id: str, **where: str) -> Json:
    number = _number(order_id)
    async with tools.person.begin() as uow:
        found = await order.get(uow, number)
        wanted = names.to_address(where, found.shipping_address["name"])
        await order_edit.modify_address(uow, number, wanted)
    return await tools.shown(number)


async def return_delivered_order_items(
    tools: Tools, order_id: str, item_ids: list[str], payment_method_id: str
) -> Json:
    number = _number(order_id)
    async with tools.person.begin() as uow:
        await return_.request(
            uow, number, line_requests(item_ids), names.method_uuid(payment_method_id)
        )
    return await tools.shown(number)


async def exchange_delivered_order_items(
    tools: Tools,
    order_id: str,
    item_ids: list[str],
    new_item_ids: list[str],
    payment_method_id: str,
) -> Json:
    number = _number(order_id)
    changes = line_changes(item_ids, new_item_ids)
    async with tools.person.begin() as uow:
        await exchange.request(uow, number, changes, names.method_uuid(payment_method_id))
    return await tools.shown(number)


async def modify_user_address(tools: Tools, user_id: str, **where: str) -> Json:
    if user_id != tools.user_id:  # An address is changed by its owner: nobody else has it.
        raise NotFound("No such user.")
    async with tools.person.begin() as uow:
        found = await customer.account(uow)
        await address.set_default(uow, names.to_address(where, found.name))
    return await get_user_details(tools, user_id)


async def find_user_id_by_email(tools: Tools, email: str) -> str:
    found = await tools.read(lambda uow: customer.find_by_email(uow, email), staff=True)
    return tools.known.users[found.id]


async def find_user_id_by_name_zip(tools: Tools, first_name: str, last_name: str, zip: str) -> str:
    name = f"{first_name} {last_name}"
    found = await tools.read(lambda uow: customer.find_by_name(uow, name, zip), staff=True)
    if not found:
        raise NotFound("No such user.")
    return tools.known.users[found[0].id]


async def get_user_details(tools: Tools, user_id: str) -> Json:
    if user_id != tools.user_id:
        raise NotFound("No such user.")
    await tools.read(customer.account, staff=False)
    found = await export.users(tools.staff, tools.known, [user_id])
    shown: Json = export.shown(found[user_id])
    return shown


async def get_order_details(tools: Tools, order_id: str) -> Json:
    number = _number(order_id)
    await tools.read(lambda uow: order.get(uow, number), staff=False)
    return await tools.shown(number)


async def get_product_details(tools: Tools, product_id: str) -> Json:
    found = await tools.read(lambda uow: product.get(uow, product_id), staff=False)
    if found.handle != product_id:  # An item's id is not a product's.
        raise NotFound("No such product.")
    return {
        "name": found.title,
        "product_id": found.handle,
        "variants": {variant.sku: _variant(variant) for variant in found.variants},
    }


async def get_item_details(tools: Tools, item_id: str) -> Json:
    found = await tools.read(lambda uow: product.get(uow, item_id), staff=False)
    for variant in found.variants:
        if variant.sku == item_id:
            return _variant(variant)
    raise NotFound("No such item.")


def _variant(variant: product.VariantView) -> Json:
    return {
        "item_id": variant.sku,
        "options": variant.options,
        "available": variant.available > 0,
        "price": names.dollars(variant.price_amount),
    }


async def list_all_product_types(tools: Tools) -> str:
    found: dict[str, str] = {}
    cursor: str | None = None
    async with tools.person.begin() as uow:
        while True:
            page = await product.search(uow, sort="title", limit=100, cursor=cursor)
            found |= {card.title: card.handle for card in page.items}
            cursor = page.next_cursor
            if cursor is None:
                return json.dumps(found, sort_keys=True)


async def transfer_to_human_agents(tools: Tools, summary: str) -> str:
    if tools.user_id is not None:
        await tools.read(lambda uow: handover.request(uow, summary), staff=False)
    return "Transfer successful"


async def think(tools: Tools, thought: str) -> str:
    return ""


_OPERATORS: Final[Mapping[type[ast.AST], Callable[..., float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


async def calculate(tools: Tools, expression: str) -> str:
    if not set(expression) <= set("0123456789+-*/(). "):
        raise Refused("Invalid characters in expression")
    try:
        return str(round(float(_value(ast.parse(expression.strip(), mode="eval").body)), 2))
    except (SyntaxError, KeyError, ZeroDivisionError, RecursionError, ValueError) as error:
        raise Refused("Invalid expression") from error


def _value(node: ast.AST) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_value(node.operand))
    raise ValueError("not arithmetic")


TOOLS: Final[Mapping[str, Callable[..., Awaitable[Any]]]] = {
    tool.__name__: tool
    for tool in (
        calculate,
        cancel_pending_order,
        exchange_delivered_order_items,
        find_user_id_by_email,
        find_user_id_by_name_zip,
        get_item_details,
        get_order_details,
        get_product_details,
        get_user_details,
        list_all_product_types,
        modify_pending_order_address,
        modify_pending_order_items,
        modify_pending_order_payment,
        modify_user_address,
        return_delivered_order_items,
        think,
        transfer_to_human_agents,
    )
}
WRITES: Final = frozenset(
    name for name in TOOLS if name.startswith(("cancel_", "exchange_", "modify_", "return_"))
)


async def as_operation(tools: Tools, name: str, given: Mapping[str, Any]) -> tuple[Operation, Json]:
    """Return the operation a writing tool calls and its arguments, for an agent to propose."""
    if name == "modify_user_address":
        person = await tools.read(customer.account, staff=False)
        return OPERATIONS["address.set_default"], {"address": names.to_address(given, person.name)}
    number = _number(given["order_id"])
    if name == "cancel_pending_order":
        return OPERATIONS["checkout.cancel"], {"number": number, "reason": given["reason"]}
    if name == "modify_pending_order_address":
        found = await tools.read(lambda uow: order.get(uow, number), staff=False)
        where = names.to_address(given, found.shipping_address["name"])
        return OPERATIONS["order_edit.modify_address"], {"number": number, "address": where}
    method: UUID = names.method_uuid(given["payment_method_id"])
    arguments: Json = {"number": number, "payment_method": method}
    if name == "modify_pending_order_payment":
        return OPERATIONS["order_edit.modify_payment"], arguments
    if name == "return_delivered_order_items":
        arguments["lines"] = line_requests(given["item_ids"])
        return OPERATIONS["return.request"], arguments
    arguments["changes"] = line_changes(given["item_ids"], given["new_item_ids"])
    key = "exchange.request" if name.startswith("exchange") else "order_edit.modify_items"
    return OPERATIONS[key], arguments


_CLOSED: Final[Mapping[str, str]] = {
    "cancel_pending_order": "Non-pending order cannot be cancelled",
    "exchange_delivered_order_items": "Non-delivered order cannot be exchanged",
    "return_delivered_order_items": "Non-delivered order cannot be returned",
}


def _said(name: str, error: DomainError) -> str:
    """Return the benchmark's sentence for one of our refusals."""
    text = str(error)
    if isinstance(error, InsufficientCredit):
        return "Insufficient gift card balance"
    if isinstance(error, OutOfStock):
        return f"New item {error.extra['sku']} not found or available"
    if isinstance(error, IllegalTransition | AftersalesLimit):
        if error.extra.get("limit") == "payment_changes_max":
            return "There should be exactly one payment for a pending order"
        return _CLOSED.get(name, "Non-pending order cannot be modified")
    if isinstance(error, NotFound):
        for sign, said in (
            ("order", "Order not found"),
            ("method", "Payment method not found"),
            ("SKU", "Variant not found"),
            ("product", "Product not found"),
            ("item", "Item not found"),
        ):
            if sign in text:
                return said
        return "User not found"
    if isinstance(error, Conflict):
        return _CLOSED.get(name, "Non-pending order cannot be modified")
    for sign, said in (
        ("must differ", "The new item id should be different from the old item id"),
        ("with this method already", "The new payment method should be different"),
        ("not a variant", "Variant not found"),
        ("goes back to what paid", "Payment method should be the original payment method"),
        ("fewer than", "Some item not found"),
        ("reason must be", "Invalid reason"),
    ):
        if sign in text:
            return said
    return text
