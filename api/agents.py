"""Structured access to what agents can do: the listing, and one operation without a model."""

from functools import cache
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from agents import coordinator
from agents.base import as_tool
from agents.domains import Domain, operations_in
from api.deps import ActorDep, DepsDep
from api.problems import problems
from deps.given import Given
from tools.errors import InvalidInput, NotFound
from tools.registry import OPERATIONS, Risk

router = APIRouter(tags=["agents"])


class OperationInfo(BaseModel):
    operation: str
    domain: str
    description: str
    scope: str
    risk: Risk
    needs_approval: bool
    idempotent: bool
    examples: list[str]
    parameters: dict[str, Any] = Field(description="JSON schema of `arguments`.")


class AgentInfo(BaseModel):
    domain: Domain
    operations: list[OperationInfo]


class OperationCall(Given):
    arguments: dict[str, Any] = Field(default_factory=dict)


class OperationAnswer(BaseModel):
    """`kind` is `waiting` when `data` is an action that needs approval and nothing ran."""

    kind: str
    operation: str
    data: Any


@router.get("/agents")
async def list_agents(actor: ActorDep) -> list[AgentInfo]:
    """List the domains and what the caller may ask of each."""
    agents = [
        AgentInfo(
            domain=domain,
            operations=[_info(op.key) for op in operations_in(domain) if actor.may(op.scope)],
        )
        for domain in Domain
    ]
    return [agent for agent in agents if agent.operations]


@cache
def _info(key: str) -> OperationInfo:
    operation = OPERATIONS[key]
    tool = as_tool(operation)
    return OperationInfo(
        operation=operation.name,
        domain=operation.domain,
        description=tool.description or "",
        scope=operation.scope,
        risk=operation.risk,
        needs_approval=operation.risk.needs_approval,
        idempotent=operation.idempotent,
        examples=list(operation.examples),
        parameters=tool.function_schema.json_schema,
    )


@router.post("/agents/{domain}/{operation}", responses=problems(NotFound, InvalidInput))
async def call_operation(
    domain: str, operation: str, body: OperationCall, deps: DepsDep
) -> OperationAnswer:
    """Run an operation by name, as the chat would; a risky one waits for approval."""
    answer = await coordinator.perform(deps, domain, operation, body.arguments)
    return OperationAnswer(kind=answer["kind"], operation=answer["operation"], data=answer["data"])
