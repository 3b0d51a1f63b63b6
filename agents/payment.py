"""Payment agent: how orders were paid, stored methods, credit, and what providers say of it all."""

from agents.base import build_agent, operations_of
from tools import capture as _capture  # noqa: F401  Registers the operations.
from tools import confirmation as _confirmation  # noqa: F401
from tools import credit as _credit  # noqa: F401
from tools import credit_desk as _credit_desk  # noqa: F401
from tools import dispute as _dispute  # noqa: F401
from tools import method as _method  # noqa: F401
from tools import payment as _operations  # noqa: F401
from tools import reconciliation as _reconciliation  # noqa: F401
from tools import webhook as _webhook  # noqa: F401

payment_agent = build_agent(
    "payment",
    operations_of("payment", "credit", "capture", "method", "dispute", "webhook", "reconciliation"),
)
