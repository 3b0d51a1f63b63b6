"""Errors as problem details (RFC 9457): a stable `code`, the `field` at fault, and facts."""

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.answer import problem
from deps.postgres import OUTAGES, DatabaseUnavailable
from tools.errors import DomainError, InvalidInput, TooManyRequests, Unavailable

RETRY_AFTER_S = "1"
# A database that is away, stopping, full or locked, seen through the session and past it.
AWAY = (DatabaseUnavailable, PoolTimeout, ConnectionError, *OUTAGES)


class FieldError(BaseModel):
    field: str = Field(description="Dotted path of the input at fault.")
    code: str
    message: str


class ProblemDetails(BaseModel):
    """Problem details (RFC 9457). More members are facts that belong to the `code`."""

    type: str = "about:blank"
    title: str
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What went wrong, for people.")
    code: str = Field(description="What went wrong, for programs; stable.")
    field: str | None = Field(default=None, description="The input field at fault, if one is.")
    errors: list[FieldError] | None = None


PROBLEM_CONTENT: Final = {
    "application/problem+json": {
        "schema": {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}
    }
}


def problems(*errors: type[DomainError]) -> dict[int | str, dict[str, Any]]:
    """Document the errors an endpoint can answer, beside those that every one can."""
    by_status: dict[int, list[str]] = {}
    every: tuple[type[DomainError], ...] = (InvalidInput, TooManyRequests, Unavailable)
    for error in (*errors, *every):
        codes = by_status.setdefault(error.status_code, [])
        if error.error_code() not in codes:
            codes.append(error.error_code())
    return {
        status: {
            "description": "Codes: " + ", ".join(f"`{code}`" for code in codes),
            "content": PROBLEM_CONTENT,
        }
        for status, codes in by_status.items()
    }


def _on_domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DomainError)
    headers = {}
    if isinstance(error, Unavailable | TooManyRequests):
        headers["Retry-After"] = RETRY_AFTER_S
    if error.status_code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    extra = {**error.extra, **({"field": error.field} if error.field else {})}
    return problem(error.status_code, error.error_code(), str(error), headers=headers, **extra)


def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        FieldError(field=_field_of(item), code=item["type"], message=item["msg"])
        for item in error.errors()
    ]
    detail = "; ".join(f"{item.field}: {item.message}" for item in found[:5])
    return problem(
        422,
        InvalidInput.error_code(),
        detail,
        field=found[0].field if found else None,
        errors=[item.model_dump() for item in found],
    )


def _field_of(item: dict[str, Any]) -> str:
    if item["type"] == "json_invalid":  # Its place is a position in the text, and no field's name.
        return "body"
    return ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0])


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "http_error")
    return problem(error.status_code, code, str(error.detail), headers=error.headers)


def database_away() -> Response:
    return problem(
        503,
        Unavailable.error_code(),
        "The database is away or busy; try again.",
        headers={"Retry-After": RETRY_AFTER_S},
    )


def _on_database_away(request: Request, error: Exception) -> Response:
    return database_away()


def install(app: FastAPI) -> None:
    app.add_exception_handler(DomainError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    for away in AWAY:
        app.add_exception_handler(away, _on_database_away)
