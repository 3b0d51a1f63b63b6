"""REST: what payment providers tell us, and the inbox of it for staff."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request

from api.deps import DepsDep, UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from db.models.webhook import WebhookState
from tools import webhook
from tools.errors import Forbidden, InvalidSignature, NotFound, Unauthenticated
from tools.page import ByTime, Page
from tools.webhook import WebhookReceipt, WebhookView

router = APIRouter(prefix="/webhooks", tags=["webhooks"])
Provider = Annotated[str, Path(pattern="^[a-z]{1,32}$", examples=["stripe"])]
EVENT = {
    "requestBody": {
        "required": True,
        "description": "The provider's event, signed as the provider signs.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


@router.get(
    "", dependencies=[needs("payment:read")], responses=problems(Unauthenticated, Forbidden)
)
async def list_webhooks(
    uow: UowDep,
    provider: Annotated[str | None, Query(max_length=32, examples=["stripe"])] = None,
    state: WebhookState | None = None,
    reference: Annotated[str | None, Query(max_length=200)] = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[WebhookView]:
    """List what providers told us (staff)."""
    return await webhook.list_webhooks(uow, provider, state, reference, sort, limit, cursor)


@router.post(
    "/{webhook_id}/replay",
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def replay_webhook(webhook_id: UUID, uow: UowDep) -> WebhookView:
    """Have a webhook handled again; the provider is asked anew (staff)."""
    return await webhook.replay(uow, webhook_id)


@router.post("/{provider}", openapi_extra=EVENT, responses=problems(NotFound, InvalidSignature))
async def receive_webhook(provider: Provider, request: Request, deps: DepsDep) -> WebhookReceipt:
    """Take a provider's event: verified, written down once, handled by the worker afterwards.

    Any answer but 200 asks the provider to send it again.
    """
    headers = {name.lower(): value for name, value in request.headers.items()}
    return await webhook.receive(deps, provider, headers, await request.body())
