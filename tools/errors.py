"""Expected failures of business operations.

    DomainError
    ├── NotFound              404  absent, or not visible to this actor
    ├── InvalidInput          422  a field breaks a rule
    ├── InvalidSignature      400  a webhook is not from whom it says
    ├── Unauthenticated       401  no valid credentials
    ├── Forbidden             403  known, but not allowed
    ├── TooManyRequests       429
    ├── Unavailable           503  a dependency is away; retry
    └── Conflict              409  the request is valid but the state forbids it
        ├── OutOfStock, IllegalTransition, CheckoutIncomplete, TotalChanged, NotRefundable
        ├── NotCapturable
        ├── StateChanged, LimitReached, AftersalesLimit
        ├── PaymentDeclined   402, InsufficientCredit
        ├── TurnRunning
        └── AlreadyExists, IdempotencyInFlight; IdempotencyMismatch 422

Programmer errors are not here: they are `assert`s and crash.
"""

import re
from typing import Any, ClassVar
from uuid import UUID


class DomainError(Exception):
    """An outcome callers must handle. `str(error)` is safe to show to a customer.

    Attributes:
        field: The input field at fault, in dotted form, if one is.
        extra: Machine-readable facts for the caller.
    """

    status_code: ClassVar[int]

    def __init__(self, message: str, *, field: str | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.field = field
        self.extra = extra

    @classmethod
    def error_code(cls) -> str:
        """The stable code clients branch on: `OutOfStock` is `out_of_stock`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


class NotFound(DomainError):
    status_code = 404


class InvalidInput(DomainError):
    status_code = 422


class InvalidSignature(DomainError):
    status_code = 400


class Unauthenticated(DomainError):
    status_code = 401


class Forbidden(DomainError):
    status_code = 403


class TooManyRequests(DomainError):
    status_code = 429


class Unavailable(DomainError):
    status_code = 503


class Conflict(DomainError):
    status_code = 409


class AlreadyExists(Conflict):
    pass


class CheckoutIncomplete(Conflict):
    """`extra["problems"]` lists what is missing or wrong, each with code, field and message."""


class TotalChanged(Conflict):
    pass


class NotRefundable(Conflict):
    """`extra` says how much, or how many units, could be given back."""


class NotCapturable(Conflict):
    """`extra` says how much could be captured."""


class PaymentDeclined(Conflict):
    status_code = 402


class AftersalesLimit(Conflict):
    """The shop's policy allows no more; `extra["limit"]` names the rule."""


class InsufficientCredit(PaymentDeclined):
    """A gift card or store credit does not cover what it is asked for."""


class IdempotencyInFlight(Conflict):
    pass


class IdempotencyMismatch(DomainError):
    status_code = 422


class IdempotencyKeyRequired(DomainError):
    status_code = 400


class StateChanged(Conflict):
    """What was approved is not what would happen now; nothing was done."""


class LimitReached(Conflict):
    """A rolling limit on what agents may do; `extra["limit"]` names it."""


class OutOfStock(Conflict):
    def __init__(self, sku: str, requested: int) -> None:
        super().__init__(
            f"Fewer than {requested} units of {sku} are available.", sku=sku, requested=requested
        )


class TurnRunning(Conflict):
    def __init__(self, turn_id: UUID) -> None:
        super().__init__(
            "An answer is still running; wait for it or stop it.", turn_id=str(turn_id)
        )


class IllegalTransition(Conflict):
    def __init__(self, entity: str, current: str, target: str) -> None:
        super().__init__(
            f"A {current} {entity} cannot become {target}.", current=current, target=target
        )
