"""Finds an endpoint in one walk down the path, where Starlette tries every route in turn.

FastAPI 0.165 matches included routers once to find and again to call, at every level: with a
hundred routes that is half the cost of a request. Here the templates are a tree of segments, made
once. What the tree does not know (other methods, mounts, redirects, 404) goes to the router itself,
so the answers are the same.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.convertors import StringConvertor
from starlette.types import ASGIApp, Receive, Scope, Send

_TEMPLATE: Final = "shopkeeper.route"


@dataclass(slots=True)
class _Endpoint:
    template: str
    parameters: tuple[str, ...]
    app: ASGIApp
    endpoint: Any
    route: Any


@dataclass(slots=True)
class _Node:
    literals: dict[str, "_Node"] = field(default_factory=dict)
    parameter: "_Node | None" = None
    endpoints: dict[str, _Endpoint] = field(default_factory=dict)


class IndexedRoutes:
    """An ASGI application in front of the router: calls what it finds, else passes on."""

    def __init__(self, app: FastAPI) -> None:
        self._fastapi = app
        self._router = app.router
        self._otherwise: ASGIApp = app.router.middleware_stack
        self._root: _Node | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope.get("root_path"):
            if self._root is None:  # Not earlier: whoever made the application may add to it.
                self._root = _tree(self._fastapi)
            values: list[str] = []
            segments = scope["path"].split("/")
            found = _find(self._root, segments, 1, scope["method"], values)
            if found is not None:
                scope["path_params"] = dict(zip(found.parameters, values, strict=True))
                scope["endpoint"] = found.endpoint
                scope["route"] = found.route
                scope["router"] = self._router
                scope[_TEMPLATE] = found.template
                await found.app(scope, receive, send)
                return
        await self._otherwise(scope, receive, send)


def install(app: FastAPI) -> None:
    """Put the index in front of the router. Middlewares stay outside."""
    app.router.middleware_stack = IndexedRoutes(app)


def route_template(scope: Scope) -> str:
    """Return `/v1/orders/{number}`, never the path: each id would be a time series of its own."""
    known = scope.get(_TEMPLATE)
    if isinstance(known, str):
        return known
    context = scope.get("fastapi", {}).get("effective_route_context")
    for route in (context, scope.get("route")):
        template = getattr(route, "path_format", None) or getattr(route, "path", None)
        if isinstance(template, str):
            return template
    return "/static" if scope["path"].startswith("/static/") else "unmatched"


def _find(
    node: _Node, segments: list[str], at: int, method: str, values: list[str]
) -> _Endpoint | None:
    if at == len(segments):
        return node.endpoints.get(method)
    segment = segments[at]
    literal = node.literals.get(segment)
    if literal is not None:
        found = _find(literal, segments, at + 1, method, values)
        if found is not None:
            return found
    if node.parameter is not None and segment:
        values.append(segment)
        found = _find(node.parameter, segments, at + 1, method, values)
        if found is not None:
            return found
        values.pop()
    return None


def _tree(app: FastAPI) -> _Node:
    root = _Node()
    taken: list[tuple[str, list[str]]] = []
    opaque: list[str] = []  # What begins so may belong to a route that is not in the tree.
    for context in iter_route_contexts(app.routes):
        template = context.path_format or context.path or ""
        if not isinstance(context.original_route, APIRoute) or not _is_plain(context, template):
            opaque.append(template.partition("{")[0])
            continue
        if template.startswith(tuple(opaque)):
            continue
        segments = template.split("/")[1:]
        for method in context.methods or ():
            if any(m == method and _goes_first(earlier, segments) for m, earlier in taken):
                continue  # The router would call the earlier one, and so does the tree.
            taken.append((method, segments))
            _add(root, segments, method, context, template)
    return root


def _is_plain(context: Any, template: str) -> bool:
    convertors = context.param_convertors.values()
    return all(type(convertor) is StringConvertor for convertor in convertors) and all(
        ("{" not in segment) or (segment[0] == "{" and segment[-1] == "}")
        for segment in template.split("/")
    )


def _goes_first(earlier: list[str], later: list[str]) -> bool:
    """Say whether some path fits both, and the tree, which prefers literals, would choose later."""
    if len(earlier) != len(later):
        return False
    pairs = list(zip(earlier, later, strict=True))
    overlap = all(a == b or a.startswith("{") or b.startswith("{") for a, b in pairs)
    first = next(((a, b) for a, b in pairs if a.startswith("{") != b.startswith("{")), None)
    return overlap and (first is None or first[0].startswith("{"))


def _add(root: _Node, segments: list[str], method: str, context: Any, template: str) -> None:
    node, parameters = root, []
    for segment in segments:
        if segment.startswith("{"):
            parameters.append(segment[1:-1])
            node.parameter = node.parameter or _Node()
            node = node.parameter
        else:
            node = node.literals.setdefault(segment, _Node())
    node.endpoints[method] = _Endpoint(
        template, tuple(parameters), context.app, context.endpoint, context.original_route
    )
