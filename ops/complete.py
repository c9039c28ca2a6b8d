"""Up to when the sink is complete: every call that ended before is in `cdrs`.

Owns the question. One partition that has no watermark yet, and nobody can say so of any call.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import psycopg

_THROUGH: Final = """
SELECT min(watermark) AT TIME ZONE 'UTC'
FROM (SELECT max(watermark) AS watermark FROM sink_progress GROUP BY partition) AS parts
HAVING count(*) = count(watermark)
"""


def complete_through(connection: psycopg.Connection[Any]) -> datetime | None:
    """The moment, naive in UTC; None: nobody can say.

    Raises:
        psycopg.Error: The database does not answer, or does not let this role look.
    """
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        row = cursor.execute(_THROUGH).fetchone()
    return None if row is None else row[0]
