"""Mutants of one Python file: each is the file with one decision changed.

Changed are comparisons, conditions, arithmetic, numbers, flags and the conditions of queries; left
out are single statements: calls, assignments to attributes, raises. Not changed are assertions,
texts, logs, declarations (constants, decorators, annotations, defaults, class bodies), and flushes,
whose absence the session makes up for.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import CodeType

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
QUERIES = ("where", "order_by", "having", "filter")
SHOWN_MAX = 70
AROUND = 20


@dataclass(frozen=True, slots=True)
class Mutant:
    """`first` to `last` are the lines that are changed, in the statement of `line`.

    `code` is the whole changed file's.
    """

    first: int
    last: int
    before: str
    after: str
    line: int
    code: CodeType


@dataclass(frozen=True, slots=True)
class Place:
    """A node where it stands, so that it can be exchanged."""

    node: ast.AST
    statement: ast.stmt
    put: Callable[[ast.AST], None]


def mutants_of(file: Path) -> Iterator[Mutant]:
    tree = ast.parse(file.read_text())
    for place in list(_places(tree)):
        node = place.node
        before = ast.unparse(node)
        for other in list(_others(node)):
            ast.copy_location(other, node)
            ast.fix_missing_locations(other)
            place.put(other)
            shown = _changed(before, ast.unparse(other))
            yield Mutant(
                first=getattr(node, "lineno", place.statement.lineno),
                last=getattr(node, "end_lineno", place.statement.end_lineno),
                before=shown[0],
                after=shown[1],
                line=place.statement.lineno,
                code=compile(tree, str(file), "exec"),
            )
            place.put(node)


def unchanged(file: Path) -> Mutant:
    """The file as it is, in the shape of a mutant of all its lines."""
    text = file.read_text()
    return Mutant(1, text.count("\n"), "", "", 1, compile(text, str(file), "exec"))


def _changed(before: str, after: str) -> tuple[str, str]:
    """Cut both to where they differ, with a little of what is around it."""
    before, after = " ".join(before.split()), " ".join(after.split())
    if max(len(before), len(after)) <= SHOWN_MAX:
        return before, after
    same = _shared(before, after)
    tail = _shared(before[same:][::-1], after[same:][::-1])
    begin, end = max(0, same - AROUND), max(0, tail - AROUND)
    return before[begin : len(before) - end], after[begin : len(after) - end]


def _shared(one: str, other: str) -> int:
    """How long both begin alike."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in pairs)


def _places(tree: ast.Module) -> Iterator[Place]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _in_body(node)
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from _in_body(inner)


def _in_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Place]:
    for index, statement in enumerate(function.body):
        yield from _at(function.body, index, statement)


def _at(body: list[ast.stmt], index: int, statement: ast.stmt) -> Iterator[Place]:
    if isinstance(statement, ast.Assert) or _is_quiet(statement):
        return

    def put(other: ast.AST) -> None:
        assert isinstance(other, ast.stmt)
        body[index] = other

    yield Place(statement, statement, put)
    if not isinstance(statement, ast.Raise):
        yield from _below(statement, statement)


def _is_quiet(statement: ast.stmt) -> bool:
    """Say whether it is a docstring, a log entry or a flush."""
    if not isinstance(statement, ast.Expr):
        return False
    if isinstance(statement.value, ast.Constant):
        return True
    text = ast.unparse(statement.value)
    return text.startswith("log.") or text.endswith(".flush()")


def _below(node: ast.AST, statement: ast.stmt) -> Iterator[Place]:
    for name, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            if name in ("annotation", "returns", "args") or isinstance(value, ast.JoinedStr):
                continue
            yield from _there(value, statement, _setter(node, name))
        elif isinstance(value, list):
            if name in ("decorator_list", "targets"):
                continue
            for index, each in enumerate(value):
                if isinstance(each, ast.stmt):
                    yield from _at(value, index, each)
                elif isinstance(each, ast.AST) and not isinstance(each, ast.JoinedStr):
                    yield from _there(each, statement, _item_setter(value, index))


def _there(node: ast.AST, statement: ast.stmt, put: Callable[[ast.AST], None]) -> Iterator[Place]:
    yield Place(node, statement, put)
    yield from _below(node, statement)


def _setter(node: ast.AST, name: str) -> Callable[[ast.AST], None]:
    return lambda other: setattr(node, name, other)


def _item_setter(value: list[ast.AST], index: int) -> Callable[[ast.AST], None]:
    def put(other: ast.AST) -> None:
        value[index] = other

    return put


def _others(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left=left, ops=ops, comparators=right):
            for index, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield ast.Compare(left, [*ops[:index], other(), *ops[index + 1 :]], right)
        case ast.BoolOp(op=op, values=values):
            for index in range(len(values)):
                rest = values[:index] + values[index + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            yield ast.BinOp(left, ARITHMETIC[type(op)](), right)
        case ast.AugAssign(target=target, op=op, value=value):
            if type(op) in ARITHMETIC:
                yield ast.AugAssign(target, ARITHMETIC[type(op)](), value)
            yield ast.Pass()
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.If(test=test, body=body, orelse=orelse):
            if _is_plain(test):
                yield ast.If(_not(test), body, orelse)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            if _is_plain(test):
                yield ast.IfExp(_not(test), body, orelse)
        case ast.comprehension(target=target, iter=source, ifs=ifs, is_async=is_async):
            for index in range(len(ifs)):
                rest = ifs[:index] + ifs[index + 1 :]
                yield ast.comprehension(target, source, rest, is_async)
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1)
        case ast.Call():
            yield from _other_calls(node)
        case ast.Expr() | ast.Raise() | ast.Assign(targets=[ast.Attribute() | ast.Tuple()]):
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case _:
            return


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    match node.func:
        case ast.Name(id=name) if name in CALLS:
            yield ast.Call(ast.Name(CALLS[name], ast.Load()), node.args, node.keywords)
        case ast.Attribute(value=query, attr=attr) if attr in QUERIES and node.args:
            if len(node.args) == 1 or attr == "order_by":
                yield query
            else:
                for index in range(len(node.args)):
                    rest = node.args[:index] + node.args[index + 1 :]
                    yield ast.Call(node.func, rest, node.keywords)
        case _:
            return


def _is_plain(test: ast.expr) -> bool:
    """Say whether nothing below negates it already."""
    return not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp)


def _not(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)
