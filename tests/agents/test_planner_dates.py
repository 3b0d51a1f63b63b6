"""Days and periods in words: on the last of a month, over leap days, across a new year."""

from datetime import date

import pytest

from agents.planner_dates import bound_in, day_in

FRIDAY = date(2026, 1, 30)
SUNDAY = date(2026, 11, 22)


@pytest.mark.parametrize(
    ("text", "today", "found"),
    [
        ("from 2026-01-20 on", FRIDAY, "2026-01-20"),
        ("on 2026-13-45", FRIDAY, None),
        ("today", FRIDAY, "2026-01-30"),
        ("yesterday", FRIDAY, "2026-01-29"),
        ("on Friday", FRIDAY, "2026-02-06"),
        ("in 10 days", FRIDAY, "2026-02-09"),
        ("30 January", FRIDAY, "2026-01-30"),
        ("29th of Jan", FRIDAY, "2027-01-29"),
        ("3 March 2024", FRIDAY, "2024-03-03"),
        ("March 3rd, 2024", FRIDAY, "2024-03-03"),
        ("29 February", FRIDAY, "2028-02-29"),
        ("29 February", date(2028, 3, 1), "2032-02-29"),
        ("29 February", date(2096, 3, 1), "2104-02-29"),
        ("29 February 2027", FRIDAY, None),
        ("30 February", FRIDAY, None),
        ("tomorrow", None, None),
        ("2026-02-01", None, "2026-02-01"),
        ("by 2026-02-03", FRIDAY, "2026-02-03"),
        ("tomorrow", FRIDAY, "2026-01-31"),
        ("the day after tomorrow", FRIDAY, "2026-02-01"),
        ("next monday", FRIDAY, "2026-02-02"),
        ("in 2 weeks", FRIDAY, "2026-02-13"),
        ("on 3 March", FRIDAY, "2026-03-03"),
        ("January 5th", FRIDAY, "2027-01-05"),
        ("on the 31st of April", FRIDAY, None),
        ("soon", FRIDAY, None),
    ],
)
def test_a_day_is_one_of_the_calendar(text: str, today: date | None, found: str | None) -> None:
    assert day_in(text, today) == found


@pytest.mark.parametrize(
    ("text", "today", "first", "after"),
    [
        ("since 1 March", SUNDAY, "2026-03-01", None),
        ("since 1 March", date(2026, 3, 1), "2026-03-01", None),
        ("since 1 March", date(2026, 2, 28), "2025-03-01", None),
        ("since 29 February", SUNDAY, "2024-02-29", None),
        ("since yesterday", date(2026, 3, 1), "2026-02-28", None),
        ("since yesterday", date(2028, 3, 1), "2028-02-29", None),
        ("since yesterday", date(2027, 1, 1), "2026-12-31", None),
        ("since the day before yesterday", SUNDAY, "2026-11-20", None),
        ("since last Monday", SUNDAY, "2026-11-16", None),
        ("since Sunday", SUNDAY, "2026-11-15", None),
        ("since Monday", date(2026, 11, 17), "2026-11-16", None),
        ("since 3 days ago", date(2027, 1, 2), "2026-12-30", None),
        ("from 2026-01-20 on", SUNDAY, "2026-01-20", None),
        ("after 31 March", SUNDAY, "2026-04-01", None),
        ("before 31 March", SUNDAY, None, "2026-03-31"),
        ("until 31 March", SUNDAY, None, "2026-04-01"),
        ("on 31 October", SUNDAY, "2026-10-31", "2026-11-01"),
        ("of today", date(2026, 12, 31), "2026-12-31", "2027-01-01"),
        ("in March", SUNDAY, "2026-03-01", "2026-04-01"),
        ("in February", date(2028, 3, 31), "2028-02-01", "2028-03-01"),
        ("since May", SUNDAY, "2026-05-01", None),
        ("in December 2025", SUNDAY, "2025-12-01", "2026-01-01"),
        ("of last month", date(2026, 3, 31), "2026-02-01", "2026-03-01"),
        ("of last month", date(2026, 1, 31), "2025-12-01", "2026-01-01"),
        ("of this month", date(2026, 12, 31), "2026-12-01", "2027-01-01"),
        ("of last week", date(2027, 1, 1), "2026-12-21", "2026-12-28"),
        ("of this year", date(2028, 2, 29), "2028-01-01", "2029-01-01"),
        ("of last year", date(2028, 2, 29), "2027-01-01", "2028-01-01"),
        ("between 1 and 5 November", SUNDAY, "2026-11-01", "2026-11-06"),
        ("between 1 November and 5 November", SUNDAY, "2026-11-01", "2026-11-06"),
        ("from 1 November to 30 November", SUNDAY, "2026-11-01", "2026-12-01"),
        ("from 20 December to 10 January", date(2027, 1, 5), "2026-12-20", "2027-01-11"),
        ("from 20 December to 10 January 2025", SUNDAY, "2024-12-20", "2025-01-11"),
        ("from Monday to Friday", date(2026, 11, 18), "2026-11-16", "2026-11-21"),
        ("from October to November", SUNDAY, "2026-10-01", "2026-12-01"),
        ("between 2026-11-01 and 2026-11-30", None, "2026-11-01", "2026-12-01"),
        ("since Monday", None, None, None),
        ("since 31 June", SUNDAY, None, None),
        ("on 9999-12-31", SUNDAY, None, None),
        ("of Ada, and may I see them", SUNDAY, None, None),
        ("all of them", SUNDAY, None, None),
    ],
)
def test_what_is_looked_up_lies_behind_and_keeps_its_last_day(
    text: str, today: date | None, first: str | None, after: str | None
) -> None:
    found = bound_in(text, today, is_upper=False), bound_in(text, today, is_upper=True)
    assert found == tuple(day and f"{day}T00:00:00Z" for day in (first, after))
