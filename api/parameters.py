"""Parameters that many endpoints take, with their bounds."""

from typing import Annotated, Final

from fastapi import Path, Query

from tools.page import PAGE_LIMIT_MAX

SEQ_MAX: Final = 2**63 - 1  # Of what counts up in the whole shop.
Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT_MAX)]
Cursor = Annotated[str | None, Query(max_length=1000)]
OrderNumber = Annotated[int, Path(ge=1, lt=2**63, examples=[1001])]
