"""The log of an attempt for who looks at its run: the same bytes as the API's, by the login of the admin."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from orchestrator.api.following import whole_characters
from orchestrator.console.views.run import LARGEST_ID, OfRun
from orchestrator.models import Attempt
from orchestrator.states import ATTEMPT_FINAL
from orchestrator.store import StoreError, log_key, store_of_process

#: One answer; what is longer is read on from `X-Next-Offset`.
PIECE: Final = 256 * 1024
#: A download comes in one piece up to here; the API has the rest.
LARGEST_DOWNLOAD: Final = 32 * 1024 * 1024


class AttemptLog(OfRun):
    """`?offset=` in bytes; without one, the last piece. `X-Next-Offset`, `X-Complete`, `X-Skipped` (bytes before)."""

    @cached_property
    def attempt(self) -> Attempt:
        attempt_id: int = self.kwargs["attempt_id"]
        rows = Attempt.objects.filter(task_run__run_id=self.run.pk).only("pk", "state", "number")
        attempt = rows.filter(pk=attempt_id).first() if attempt_id <= LARGEST_ID else None
        if attempt is None:
            raise Http404("There is no such attempt.")
        return attempt

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        # The state is read before the log: what an ended attempt wrote is all there.
        ended = self.attempt.state in ATTEMPT_FINAL
        key = log_key(self.run.pk, self.attempt.pk)
        store = store_of_process()
        download = "download" in request.GET
        most = LARGEST_DOWNLOAD if download else PIECE
        given = request.GET.get("offset", "0" if download else "")
        try:
            if given.isascii() and given.isdigit() and len(given) < 16:
                offset, skipped = int(given), 0
            else:
                offset = skipped = max(0, store.size(key) - PIECE)
            data = store.read(key, offset, most)
        except StoreError as error:
            return HttpResponse(error.message, status=503, content_type="text/plain; charset=utf-8")
        at_end = len(data) < most
        if skipped:
            # From the start of a line, and so of a character.
            cut = data.find(b"\n") + 1
            data, offset, skipped = data[cut:], offset + cut, skipped + cut
        complete = ended and at_end
        if not complete:
            data = data[: whole_characters(data)]
        answer = HttpResponse(data.decode(errors="replace").encode(), content_type="text/plain; charset=utf-8")
        answer["X-Next-Offset"] = str(offset + len(data))
        answer["X-Skipped"] = str(skipped)
        answer["X-Content-Type-Options"] = "nosniff"
        answer["Cache-Control"] = "no-store"
        if complete:
            answer["X-Complete"] = "true"
        if download:
            name = f"run-{self.run.pk}-attempt-{self.attempt.pk}.log"
            answer["Content-Disposition"] = f'attachment; filename="{name}"'
        return answer
