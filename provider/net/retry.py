"""The retry loop for requests: which failures are retried, and after how long a pause."""

import time
from collections.abc import Callable

from provider.errors import DeadlineExceeded, ProviderError
from provider.net.deadline import Deadline
from provider.net.http import Answer, Failure, Slow

ATTEMPTS = 4
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
# The statuses that mean "not now" (RFC 9110). After any other status, a retry would fail again.
RETRYABLE_STATUSES = (408, 429, 500, 502, 503, 504)
RETRY_HINT = (
    "The server was reached and reports that it cannot answer. The kubelet will try again. If it lasts, check"
    " OCI's status page, or the proxy if there is one."
)
SLOW_HINT = (
    "The connection was established, so routes and security rules are correct, but the server is too slow, or"
    " something on the path (a firewall that inspects TLS, a wrong MTU) drops its answers. The kubelet will"
    " try again. If it lasts, check OCI's status page."
)


def with_retries(
    attempt: Callable[[], Answer],
    deadline: Deadline,
    unreachable: type[ProviderError],
    attempts: int = ATTEMPTS,
    throttled: type[ProviderError] | None = None,
) -> Answer:
    """Call ``attempt`` until it returns an answer whose status is neither retryable nor 5xx.

    Raises ``unreachable`` after ``attempts`` tries, after a failure that is not retryable, or if the next
    pause is longer than the time left; raises ``throttled`` instead if the last status is 429. Raises
    DeadlineExceeded if the deadline has passed, and what ``attempt`` raises except Failure.
    """
    for count in range(1, attempts + 1):
        answer = None
        try:
            answer = attempt()
        except Failure as failure:
            reason, retryable, pause = str(failure), failure.retryable, 0.0
            hint = SLOW_HINT if isinstance(failure, Slow) else None
        else:
            retryable = answer.status in RETRYABLE_STATUSES
            if answer.status < 500 and not retryable:
                return answer
            reason, pause, hint = answer.describe(), retry_after(answer), RETRY_HINT
        pause += backoff(count)
        tries = f"{count} {'try' if count == 1 else 'tries'}"
        if deadline.is_over:
            raise DeadlineExceeded(
                f"{reason}; the {deadline.seconds:g} s of this call are over ({tries})",
                hint or unreachable.default_hint,
            )
        if not retryable or count == attempts or pause >= deadline.left(reason):
            if throttled and answer and answer.status == 429:
                raise throttled(f"{reason} ({tries})")
            raise unreachable(f"{reason} ({tries})", hint)
        time.sleep(pause)
    raise AssertionError("unreachable: the last try returns or raises")


def backoff(tries: int) -> float:
    """Return the pause in seconds after ``tries`` tries: it doubles, and is random so that nodes that failed
    at the same time do not retry at the same time.
    """
    import random

    return random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (tries - 1))


def retry_after(answer: Answer) -> float:
    """Return the seconds in the Retry-After header; 0 without one. OCI documents only the seconds form."""
    text = answer.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0
