# ruff: noqa: E501  A pattern stays on one line: broken up, nobody could read it.
"""What a message means in the course of a conversation: `the cheapest one`, `in blue?`, `make that four`.

By themselves such words say little. What was just found, bought or changed says the rest.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from agents.planner_context import Context, only_handle
from agents.planner_deed import DEEDS
from agents.planner_fill import required
from agents.planner_slots import matching, order_in, phrase_in
from tools.registry import OPERATIONS, Risk

_NUMBER = r"(?:#count|one|two|three|four|five|six|seven|eight|nine|ten|twelve|a couple|a dozen)"
_LEAD = re.compile(
    r"^(?:(?:ok|okay|actually|then|great|nice|cool|hm+|well|so|sorry|wait|please|alright|perfect|good|oh|yes|hi|hello|hey|now)\b[ ,.!]*)+"
)
_MORE = re.compile(r"^(?:and|also|plus)\b(?: also\b| then\b)?[ ,]*")
_TAIL = re.compile(
    r"[ ,]*(?:please|thanks|thank you|too|as well|also|instead|then|for me)?[ .!?]*$"
)
_TOO = re.compile(r"\b(?:too|as well|also|please)\b")
_SHOW = r"(?:(?:show|give|get|find|tell)(?: me)?(?: more)?(?: about| of)? |what (?:is|are|about) |which (?:is|are|one is) |how about |i (?:want|would like|will take|need) |let me see |open |do you have )?"

_MAKE = re.compile(rf"(?:make|set|change) (?:it|that|this|them)(?: to| into)? {_NUMBER}")
_PLACE = re.compile(
    rf"{_SHOW}(?:the )?(?:(?:first|second|third|fourth|fifth|sixth|last)(?: one| product| item| option)?|(?:number|option|no\.?) (?:one|two|three|four|five|six|#count))"
)
_SUPERLATIVE = r"(?P<most>cheapest|least expensive|lowest[- ]priced|most affordable|most expensive|priciest|dearest|newest|latest)"
_MOST = re.compile(
    rf"{_SHOW}(?:the |your |their )?{_SUPERLATIVE}(?: ones?| products?| items?| options?)?(?: (?:you have|there is|there are|of (?:them|those|these|all)))?"
)
_MOST_OF = re.compile(
    rf"{_SHOW}(?:the |your |their |ur )?{_SUPERLATIVE} (?P<what>[a-z][a-z'-]*(?: [a-z][a-z'-]*){{0,2}})"
)
_CHEAP_OF = re.compile(
    rf"{_SHOW}(?:(?:a|an|some|any|the|more|really|very) )*(?:cheap|cheaper|inexpensive|affordable|low[- ]priced) (?P<what>(?!ones?\b|than\b)[a-z][a-z'-]*(?: [a-z][a-z'-]*){{0,5}})"
)
_BETTER = re.compile(
    r"(?:(?:do you have|have you got|is there|are there|show me|got|find me) )?(?:anything|something|any|some|others?|more)(?: else)? ?(?P<how>cheaper|less expensive|more expensive|better|nicer|similar|else|in|under|below|over|above|between|up to|less than|more than).*"
)
_IN = re.compile(
    r"(?:(?:do|does|have|has|is|are|got|can|what about|how about|you|i|it|that|this|them|they|those|these|there|one|ones|any|the same|also|come|comes|get|available) )*in (?P<what>(?!stock|cart|total|time|my|the|your|it|that|there|this|a |an )[a-z]+(?: or [a-z]+)?)(?: colou?r| size)?"
)
_METHOD = re.compile(
    r"(?:(?:ship|send|deliver) (?:it|them) |make (?:it|that) |i (?:want|would like|prefer) |use |take )?(?:by |via |with )?(?P<method>standard|express|pick ?up|pickup)(?: (?:shipping|delivery))?(?: (?:is|would be|sounds) (?:fine|ok|okay|good|great|enough|alright))?"
)
_BUY_IT = re.compile(
    r"(?:i (?:want to|will|would like to) )?(?:buy|purchase|order) (?:it|them|these|this|that|everything|it all|all of it)(?: now)?"
)
_EMAIL = re.compile(r"(?:use )?(?:(?:my|the) )?(?:e-?mail )?(?:address )?(?:is )?#email")
_POINTED = (
    r"(?:the )?(?:first|second|third|fourth|fifth|sixth|last|latest|newest|other)(?: one| order)?"
)
_DO_IT = re.compile(
    rf"(?P<verb>{'|'.join(DEEDS)}) (?:it|this|that|this one|that one|this order|that order|the order|{_POINTED})(?: (?:because|since|as|for) .*)?"
)
# `where is it?`, `has the second one been shipped?`, `did you cancel it?`: how it stands with an order.
_STANDS = re.compile(
    r"(?:(?:and|so|but) )?(?=.*\b(?:it|that|this|they)\b|.*\b" + _POINTED + r"\b)"
    r"(?!.*\b(?:possible|able|allowed|okay?|can|could|may|should|if|to (?:cancel|return|refund|change|send|ship))\b)"
    r"(?:(?:where|when|is|are|was|were|has|have|will|what is the status of)\b.*\b(?:shipped|sent|dispatched|delivered|arrived?|arrives|"
    r"arriving|paid|cancelled|canceled|refunded|returned|coming|comes?|way|here|late|status|gone through)\b.*|"
    r"did\b.*\b(?:cancel|ship|send|refund|arrive|come|work|go through|deliver)(?:ed)?\b.*|"
    r"where (?:is|are|was) (?:it|that|this|they|"
    + _POINTED
    + r")(?: right)?(?: now| at)?[ ?]*|what is the status of\b.*)"
)
# `how much is the blue one?`, of those that were shown.
_ASKS_ABOUT = re.compile(
    r"(?:how much (?:is|are|for)|what (?:does|is|about|are)|tell me (?:more )?about|show(?: me)?|how about|"
    r"what is the price of|more about|details (?:of|on|for)) (?:the|that|this) (?P<what>[a-z][a-z' -]*?)(?: ones?)?(?: cost)?"
)
# What only a product has: asked of one, its description answers, as far as anything does.
_USE = r"(?:(?:dishwasher|microwave|oven|freezer)(?:[- ](?:safe|proof|friendly))?|(?:machine )?washable|waterproof|water[- ]resistant)"
_OF_THING = re.compile(
    rf"(?:is|are|will|can) (?:(?P<it>it|this|that|they|these|those)|(?:the|your|this|that|these|those|a) (?P<what>[a-z][a-z' -]*?)) (?:be |go (?:in(?:to)?|through) )?(?:really |also |even )?(?:the |a )?{_USE}"
)
_OF_IT = re.compile(
    r"(?:(?:and|so) )?(?:what|which|how|is|are|does|do|can|has|have)\b(?:(?= .*\b(?:it|this|that|they|these|those)\b).*\b(?:made (?:of|from|in|by)|material|fabric|"
    r"big|large|tall|long|wide|heavy|deep|thick|high|weigh|size|dimensions?|diameter|volume|capacity|hold|colou?rs?|"
    rf"lids?|batter(?:y|ies)|vegan|organic|handmade|come with|include|clean|wash|{_USE})\b.*)"
)
_ITS_DEED = re.compile(
    rf"(?P<verb>[a-z]+) (?:it|this|that|{_POINTED}|(?:the|this|that) (?:stock |inventory |cycle )?(?P<noun>[a-z]+))(?: now)?"
)
_VERBS: Final = {
    "send": "ship",
    "dispatch": "ship",
    "finish": "close",
    "end": "close",
    "abort": "cancel",
}
_CARTS: Final = frozenset(("cart", "checkout", "product"))
_OF_ORDERS: Final = frozenset(
    [
        "order",
        "checkout",
        "receipt",
        "refund",
        "return",
        "exchange",
        "order_edit",
        "payment",
        "capture",
        "aftersales",
    ]
)
_SELLS = re.compile(
    r"(?:(?:do|does) (?:you|your (?:shop|store)|the shop) (?:also |still |even )?(?:sell|carry|stock)|(?:have )?you got (?:any|some)|got any) (?P<what>[a-z][a-z' -]{2,40})"
)
_GIFT = re.compile(
    r"(?:(?:a|an|some|any|nice|good|small) )*(?:gifts?|presents?)(?: ideas?)? for .+|"
    r"(?:something|anything) for .*\b(?:birthday|wedding|anniversary|christmas)\b.*"
)
_SOUGHT_END = re.compile(
    r"\s(?:for|who|whose|that|which|because|since|as|so|from|to)\s|[,.;!?]\s|\s-\s"
)
_SORTS: Final = {
    "cheapest": "price", "least expensive": "price", "lowest priced": "price", "lowest-priced": "price",
    "most affordable": "price", "most expensive": "-price", "priciest": "-price", "dearest": "-price",
    "newest": "newest", "latest": "newest", "cheaper": "price", "less expensive": "price",
}  # fmt: skip
_CART: Final = ("cart.add_item", "cart.change_item", "cart.remove_item")
_FILTERS: Final = ("query", "category", "min_price_amount", "max_price_amount", "in_stock")


@dataclass(frozen=True, slots=True)
class Following:
    """What follows from what was said before, and whether it may be done without asking."""

    key: str
    slots: dict[str, Any]
    is_sure: bool = True
    about: str = ""
    """What the product is called, where the rest of the message is no part of its name."""


def following(written: str, context: Context, allowed: Collection[str]) -> Following | None:
    """Return what a message adds to the conversation, if it is of that kind.

    Args:
        written: The message in plain words, marked, slips and all.
        context: What the conversation is about.
        allowed: The operations the person may use.
    """
    said = _LEAD.sub("", written)
    is_more = _MORE.match(said) is not None
    core = _TAIL.sub("", _MORE.sub("", said))
    for rule in _RULES:
        found = rule(core, context)
        if found is not None:
            return found if found.key in allowed else None
    if is_more:
        found = _another(core, context, is_asked=bool(_TOO.search(written)))
        return found if found is not None and found.key in allowed else None
    return None


def stated(written: str) -> Following | None:
    """Return the search that a message is by itself: for a superlative, or what we are said to sell."""
    core = _TAIL.sub("", _LEAD.sub("", written))
    if most := _MOST_OF.fullmatch(core):
        query = phrase_in(most["what"])
        slots = {"query": query, "sort": _SORTS[most["most"]]}
        return Following("product.search", slots) if query else None
    if cheap := _CHEAP_OF.fullmatch(core):
        query = phrase_in(sought_in(cheap["what"]))
        slots = {"query": query, "sort": "price"}
        return Following("product.search", slots) if query else None
    if _GIFT.fullmatch(core):
        return Following("product.search", {"query": "gift"})
    if sells := _SELLS.fullmatch(core):
        query = phrase_in(sells["what"])
        return Following("product.search", {"query": query}) if query else None
    return None


def is_place(written: str) -> bool:
    """Tell whether a message only points: `the second one please`."""
    return _PLACE.fullmatch(_TAIL.sub("", _LEAD.sub("", written))) is not None


def sought_in(rest: str) -> str:
    """Return the thing itself of `gift for my sister, she likes cooking`."""
    return _SOUGHT_END.split(rest, maxsplit=1)[0].strip()


def _deed(core: str, context: Context) -> Following | None:
    """`cancel it`, `ship the second one`: of the orders that were just shown."""
    said = _DO_IT.fullmatch(core)
    if said is None or not _is_about_orders(context):
        return None
    number = order_in(core, context)
    return Following(DEEDS[said["verb"]], {} if number is None else {"number": number})


def _deed_of_its_kind(core: str, context: Context) -> Following | None:
    """`close it`, after a stock count; `ship the transfer`, after one was planned."""
    said = _ITS_DEED.fullmatch(core)
    noun = (context.last_operation or "").partition(".")[0]
    if said is None or noun in _CARTS or (said["noun"] and said["noun"] not in noun.split("_")):
        return None
    verb = _VERBS.get(said["verb"], said["verb"])
    key = f"{noun}.{verb}"
    is_deed = key in OPERATIONS and OPERATIONS[key].risk is not Risk.READ
    takes_id = is_deed and any(n.endswith("_id") or n == "case" for n in required(OPERATIONS[key]))
    return Following(key, {}) if takes_id else None


def _thing(core: str, context: Context) -> Following | None:
    """`how much is the blue one?`, `is the tray dishwasher safe?`: what is known of a product."""
    asks = _OF_THING.fullmatch(core)
    if asks is not None and asks["what"] and phrase_in(asks["what"]):
        return Following("product.get", _handle(asks["what"], context), about=asks["what"])
    if (named := _ASKS_ABOUT.fullmatch(core)) is not None:
        handle = _handle(named["what"], context)
        return Following("product.get", handle) if handle else None
    shown = context.focus_sku or context.candidates
    if not shown or context.question is not None or _is_about_orders(context):
        return None
    if asks is None and _OF_IT.fullmatch(core) is None:
        return None
    only = context.only_handle or context.focus_sku
    return Following("product.get", {"handle_or_sku": only} if only else {}, about="it")


def _handle(what: str, context: Context) -> dict[str, Any]:
    """Return which of those that were shown is called that, if it is one product."""
    handle = only_handle(matching(phrase_in(what), context.candidates))
    return {"handle_or_sku": handle} if handle else {}


def _standing(core: str, context: Context) -> Following | None:
    """`where is it?`, `the second one` of orders: how that order stands."""
    asks = _STANDS.fullmatch(core) or (context.orders and _PLACE.fullmatch(core))
    if not asks or context.question is not None or not _is_about_orders(context):
        return None
    number = order_in(core, context)
    return None if number is None else Following("order.get", {"number": number})


def _is_about_orders(context: Context) -> bool:
    known = context.focus_order is not None or bool(context.orders)
    return known and (context.last_operation or "").partition(".")[0] in _OF_ORDERS


def _amount(core: str, context: Context) -> Following | None:
    """`make that four`: of what was just put into the cart."""
    if context.last_operation not in _CART or not context.focus_sku or not _MAKE.fullmatch(core):
        return None
    return Following("cart.change_item", {"sku": context.focus_sku})


def _method(core: str, context: Context) -> Following | None:
    """`express please`, of the cart that is being filled."""
    said = _METHOD.fullmatch(core)
    if said is None or not _is_about_a_cart(context):
        return None
    method = said["method"].replace(" ", "")
    return Following("cart.deliver_to", {"shipping_method": method})


def _email(core: str, context: Context) -> Following | None:
    """`ada@example.com`, of the cart that is being filled."""
    is_meant = _EMAIL.fullmatch(core) is not None and _is_about_a_cart(context)
    return Following("cart.deliver_to", {}) if is_meant else None


def _purchase(core: str, context: Context) -> Following | None:
    """`buy it`, of the cart that was just shown."""
    is_meant = _BUY_IT.fullmatch(core) is not None and _is_about_a_cart(context)
    return Following("checkout.buy", {}) if is_meant else None


def _is_about_a_cart(context: Context) -> bool:
    return (context.last_operation or "").partition(".")[0] in ("cart", "checkout")


def _superlative(core: str, context: Context) -> Following | None:
    most = _MOST.fullmatch(core)
    if most is None or context.search is None:
        return None
    return Following("product.search", _searched(context) | {"sort": _SORTS[most["most"]]})


def _variety(core: str, context: Context) -> Following | None:
    """`do you have it in blue?`: the variants of one product, or others of the kind."""
    asked = _IN.fullmatch(core)
    if asked is None or not context.candidates:
        return None
    if context.only_handle:
        return Following("product.get", {"handle_or_sku": context.only_handle})
    query = (context.search or {}).get("query")
    if not query:
        return None
    return Following("product.search", _searched(context) | {"query": f"{query} {asked['what']}"})


def _place(core: str, context: Context) -> Following | None:
    """`the second one`, when nothing was asked: show it."""
    if context.question is not None or not _PLACE.fullmatch(core):
        return None
    return Following("product.get", {}) if context.candidates else None


def _other(core: str, context: Context) -> Following | None:
    """`anything cheaper?`, `something between 50 and 100`: of what was sought before."""
    other = _BETTER.fullmatch(core)
    query = (context.search or {}).get("query")
    if other is None or not query:
        return None
    how = other["how"]
    if how == "in":
        what = phrase_in(core)
        return Following("product.search", {"query": f"{query} {what}".strip()})
    slots: dict[str, Any] = {"query": query}
    if how in _SORTS:
        slots["sort"] = _SORTS[how]
    return Following("product.search", slots)


_THING = re.compile(
    rf"(?:an?|the|some|another|{_NUMBER}(?: of the)?) (?P<what>(?:[a-z][a-z'-]* ){{0,3}}[a-z][a-z'-]*)"
)


def _another(core: str, context: Context, *, is_asked: bool) -> Following | None:
    """`also a tea towel`: done with it what was done last."""
    if not _THING.fullmatch(core) or not phrase_in(core):
        return None
    if context.last_operation in ("cart.add_item", "cart.change_item"):
        return Following("cart.add_item", {}, is_sure=is_asked)
    return Following("product.search", {"query": phrase_in(core)})


def _searched(context: Context) -> dict[str, Any]:
    return {name: value for name, value in (context.search or {}).items() if name in _FILTERS}


_RULES = (
    _deed, _deed_of_its_kind, _standing, _thing, _amount, _method, _email, _purchase, _superlative,
    _variety, _place, _other,
)  # fmt: skip
