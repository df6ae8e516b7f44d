"""Whether what came back is what may come back, whatever was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .answers import Answer, NotHttp, parse
from .delivery import Delivery, Outcome, Way

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .attacks import Attack

# In a file beside the server's folder: no answer may have it.
CANARY = b"the canary outside of the folder"
SECRETS = (CANARY, b"root:x:0:")

# Refusals behind which some of the body may be stored. All others store nothing.
KEEPING = frozenset(
    {
        *("BODY_CUT_SHORT", "BODY_MALFORMED", "BODY_TIMED_OUT", "BODY_TOO_LONG"),
        *("MAX_SIZE_EXCEEDED", "UPLOAD_DISPLACED", "UPLOAD_TERMINATED"),
    }
)


class Judgement:
    """``complaints`` about the answers to one attack, and what these say of the uploads."""

    def __init__(self, attack: Attack, outcomes: Sequence[Outcome]) -> None:
        self.complaints: list[str] = []
        self.answers: list[Answer] = []
        self.answered = True  # whatever was sent, as far as can be told
        self._attack = attack
        for delivery, outcome in zip(attack.deliveries, outcomes, strict=True):
            self._judge(delivery, outcome)

    @property
    def locations(self) -> list[str]:
        """URLs of uploads that were created, by requests that succeeded or did not."""
        return [url for answer in self.answers if (url := answer.get("location"))]

    @property
    def refused(self) -> bool:
        """Whether all that was sent was refused, so that nothing of it may be stored."""
        answers = self.answers
        return self._attack.single and len(answers) == 1 and self._stores_nothing(answers[0])

    def _stores_nothing(self, answer: Answer) -> bool:
        if not 400 <= answer.status < 500 or not answer.whole:
            return False
        if answer.code not in KEEPING:
            return True
        # Too long by its Content-Length: that is known before the first byte.
        too_long = answer.code in ("BODY_TOO_LONG", "MAX_SIZE_EXCEEDED")
        return too_long and b"chunked" not in self._attack.sent.lower()

    def _judge(self, delivery: Delivery, outcome: Outcome) -> None:
        if outcome.refused:
            self.complaints.append("no connection was accepted")
            return
        if not outcome.closed:
            self.complaints.append("the connection was not closed in time")
        try:
            answers = parse(outcome.received, heads=b"HEAD" in delivery.sent)
        except NotHttp as error:
            self.complaints.append(f"what came is not HTTP: {error}")
            return
        answers = [answer for answer in answers if answer.status != 999]  # cut off in its head
        self.answers += answers
        self.answered &= len(answers) >= delivery.answers and delivery.way is Way.WAIT
        for number, answer in enumerate(answers):
            self.complaints += self._of(answer, last=number == len(answers) - 1)
        self.complaints += self._of_all(answers, delivery, outcome)

    def _of(self, answer: Answer, *, last: bool) -> Iterator[str]:
        """One answer by itself."""
        status, ours = answer.status, answer.headers.get("tus-resumable") == ["1.0.0"]
        if status >= 500 or (300 <= status < 400 and status != 304):
            yield f"an answer was {status}: {answer.body[:200]!r}"
        if any(secret in answer.body for secret in SECRETS):
            yield "an answer has bytes from outside of the folder"
        if any("injected" in name for name in answer.headers):
            yield "a header was injected into an answer"
        if not ours and status == 400:
            if not last:
                yield "the connection went on behind what the parser refused"
        elif not ours and (self._attack.below or not _is_elsewhere(answer)):
            yield f"an answer {status} lacks Tus-Resumable: {answer.body[:60]!r}"
        if ours and status >= 400 and answer.body and answer.whole and answer.code is None:
            yield f"the text of an error has no code: {answer.body[:60]!r}"
        if ours and status >= 400 and status != 409 and answer.get("upload-offset") is not None:
            yield f"an answer {status} has Upload-Offset"

    def _of_all(
        self, answers: Sequence[Answer], delivery: Delivery, outcome: Outcome
    ) -> Iterator[str]:
        attack = self._attack
        statuses = [answer.status for answer in answers]
        if attack.certain and len(answers) > delivery.answers:
            yield f"{len(answers)} answers came to {delivery.answers} requests: {statuses}"
        if attack.headed and answers and answers[0].body and "tus-resumable" in answers[0].headers:
            yield f"an answer to HEAD has a body: {answers[0].body[:60]!r}"
        if delivery.way is not Way.WAIT:
            return
        if attack.must is not None and statuses != [attack.must]:
            yield f"the answers were {statuses} instead of {attack.must}"
        if attack.probed and len(answers) < 2 and not outcome.ended_first:
            yield f"the connection went on, and a request was not answered: {statuses}"
        if attack.probed and len(answers) == 2 and "tus-version" not in answers[1].headers:
            yield f"a request was answered as if it was another: {statuses}"


def _is_elsewhere(answer: Answer) -> bool:
    """An answer of the application's, outside of the prefix."""
    body = answer.body
    words = (b"404: Not Found", b"405: Method Not Allowed", b"Unknown Expect")
    return not body or body.startswith(words) or b"aiotus-server" in body[:200]
