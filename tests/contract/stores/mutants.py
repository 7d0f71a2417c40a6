"""Stores that break one promise each, and the tests of the suite that are to notice it.

Each is one of our stores with one thing changed. ``breaks`` names the promise: a guarantee by its number (:mod:`asm.ports`), or
an operation. ``noticed_by`` are the classes of the suite that are about it.
"""

import contextlib
import dataclasses
import fnmatch
import io
import json
import time
from datetime import timedelta

import asm
from asm.adapters import FileArtifactStore, InMemorySessionStore
from asm.adapters.exports import Export
from asm.chunks import chunks
from asm.core.results import Page
from asm.operations import OPERATIONS
from asm.testing import contracts

MUTANTS = []


def breaks(promise, *noticed_by, checked=True):
    """Note a store that breaks a promise, and no other: it checks its arguments as ours do, unless that is the promise."""

    def note(cls):
        cls.promise, cls.noticed_by = promise, noticed_by
        for name, function in list(vars(cls).items()):
            if checked and name in OPERATIONS:
                setattr(cls, name, with_checks(OPERATIONS[name], function))
        MUTANTS.append(cls)
        return cls

    return note


def with_checks(operation, function):
    return lambda self, *args, **kwargs: function(self, **operation.bind(args, kwargs))


# -- Guarantees ---------------------------------------------------------------------------------------------------------


@breaks("1: events never change", contracts.Appending)
class ChangesEvents(InMemorySessionStore):
    def append_event_with_sequence(self, event):
        stored = super().append_event_with_sequence(event)
        return event.sequenced(stored.sequence_number)


@breaks("1: events never move", contracts.Deleting)
class ClosesGaps(InMemorySessionStore):
    def get_events(self, session_id, **filters):
        found = super().get_events(session_id)
        numbers = {item.id: number for number, item in enumerate(found, 1)}
        return [item.sequenced(numbers[item.id]) for item in super().get_events(session_id, **filters)]


@breaks("1: a number that was answered is that event's for good", contracts.Deleting)
class GivesNumbersAgain(InMemorySessionStore):
    def delete_events(self, session_id, **conditions):
        count = super().delete_events(session_id, **conditions)
        if count:
            log = self._contents.logs[session_id]
            log.last = log.events[-1].sequence_number if log.events else 0
        return count


@breaks("2: sequences have no gap", contracts.Appending)
class LeavesGaps(InMemorySessionStore):
    def append_events(self, events, **expect):
        stored = super().append_events(events, **expect)
        if stored and stored[0].sequence_number < self.get_latest_sequence(stored[0].session_id):  # a duplicate uses one up
            self._contents.logs[stored[0].session_id].last += 1
        return stored


@breaks("2: sequences are per session", contracts.Appending)
class CountsAllSessions(InMemorySessionStore):
    def append_event_with_sequence(self, event):
        with self._held() as contents:
            contents.log(event.session_id).last = max((log.last for log in contents.logs.values()), default=0)
        return super().append_event_with_sequence(event)


@breaks("2: no duplicate, however many append at once", contracts.Appending)
class Races(InMemorySessionStore):
    def append_event_with_sequence(self, event):
        number = self.get_latest_sequence(event.session_id) + 1
        time.sleep(0.001)
        return super().append_event_with_sequence(event).sequenced(number)


@breaks("3: read after write", contracts.Sessions)
class ReadsLate(InMemorySessionStore):
    def save_session(self, session, **replacing):
        with contextlib.suppress(asm.Error):
            self.__dict__.setdefault("old", {})[session.id] = super().get_session(session.id)
        super().save_session(session, **replacing)

    def get_session(self, session_id):
        return self.__dict__.setdefault("old", {}).pop(session_id, None) or super().get_session(session_id)


@breaks("4: what was acknowledged stays", contracts.Appending)
class Forgets(InMemorySessionStore):
    def append_events(self, events, **expect):
        stored = super().append_events(events, **expect)
        for item in stored[:-1000]:
            super().delete_events(item.session_id, through=item.sequence_number)
        return stored


@breaks("5: a call that raises has changed nothing", contracts.Appending)
class StopsHalfWay(InMemorySessionStore):
    def append_events(self, events, *, expect=None):
        if expect is not None:
            return super().append_events(events, expect=expect)
        return [self.append_event_with_sequence(item) for item in events]


@breaks("5: a flush that is refused has changed nothing", contracts.Flushing, contracts.Expecting)
class FlushesHalf(InMemorySessionStore):
    def flush(self, result, **expect):
        if "session" in result:
            super().save_session(result["session"])
        return super().flush(result, **expect)


@breaks("6: events need no session", contracts.Appending)
class WantsASession(InMemorySessionStore):
    def append_event(self, event):
        self.get_session(event.session_id)
        super().append_event(event)


@breaks("6: a log that was deleted begins anew", contracts.Sessions, contracts.Deleting)
class RemembersNumbers(InMemorySessionStore):
    def delete_session(self, session_id):
        last = self.get_latest_sequence(session_id)
        super().delete_session(session_id)
        if last:
            with self._held() as contents:
                contents.log(session_id).last = last


@breaks("6: a session is deleted with all that is its", contracts.Sessions)
class LeavesRuns(InMemorySessionStore):
    def delete_session(self, session_id):
        kept = self.list_runs(session_id)
        super().delete_session(session_id)
        for run in kept:
            self.save_run(run)


@breaks("7: what a caller gives is checked", contracts.Sessions, checked=False)
class TakesAnyLimit(InMemorySessionStore):
    def list_sessions(self, *, limit=None, **filters):
        return super().list_sessions(**filters)[: limit if isinstance(limit, int) else None]


@breaks("7: what is stored comes back as it is", contracts.Runs)
class RoundsNumbers(InMemorySessionStore):
    def get_run(self, run_id):
        run = super().get_run(run_id)
        return run.changed(cost_usd=run.cost_usd and round(run.cost_usd, 6))


@breaks("a wait ends when its time is up, with nothing", contracts.Waiting)
class RaisesWhenTimeIsUp(InMemorySessionStore):
    def get_events(self, session_id, **filters):
        found = super().get_events(session_id, **filters)
        if not found and filters.get("wait_timeout_ms"):
            raise asm.Error("timeout", "the time is up")
        return found


@breaks("only what matches ends a wait", contracts.Waiting)
class WakesForAnything(InMemorySessionStore):
    def get_events(self, session_id, *, wait_timeout_ms=None, **filters):
        found = super().get_events(session_id, **filters)
        return found or (super().get_events(session_id, wait_timeout_ms=wait_timeout_ms) if wait_timeout_ms else [])


# -- Conditional writes -------------------------------------------------------------------------------------------------


@breaks("replacing: only what is expected", contracts.Replacing)
class ReplacesAnything(InMemorySessionStore):
    def save_run(self, run, *, replacing=None):
        if replacing is not None:
            self.get_run(run.id)
        super().save_run(run)


@breaks("replacing: equal in every field", contracts.Replacing)
class ComparesTimes(InMemorySessionStore):
    def save_session(self, session, *, replacing=None):
        if replacing is not None and self.get_session(session.id).updated_at == replacing.updated_at:
            replacing = self.get_session(session.id)
        super().save_session(session, replacing=replacing)


@breaks("replacing: nothing is lost between threads", contracts.Replacing)
class LooksAndSaves(InMemorySessionStore):
    def save_run(self, run, *, replacing=None):
        if replacing is not None and self.get_run(run.id) == replacing:
            time.sleep(0.001)
            replacing = None
        super().save_run(run, replacing=replacing)


@breaks("replacing: a conflict shows what is stored", contracts.Replacing)
class HidesWhatIsStored(InMemorySessionStore):
    def save_session(self, session, *, replacing=None):
        try:
            super().save_session(session, replacing=replacing)
        except asm.Error as error:
            error.details.pop("current", None)
            raise


@breaks("replacing: nothing is not replaced", contracts.Replacing)
class ReplacesNothing(InMemorySessionStore):
    def save_run(self, run, *, replacing=None):
        try:
            self.get_run(run.id)
        except asm.Error as error:
            replacing = None if error.code == "run_not_found" else replacing
        super().save_run(run, replacing=replacing)


@breaks("save_run: a run of another session stays", contracts.Runs)
class TakesAnothersRun(InMemorySessionStore):
    def save_run(self, run, **replacing):
        with self._held() as contents:
            contents.runs.remove(run.id)
        super().save_run(run, **replacing)


@breaks("expect: nothing is stored otherwise", contracts.Expecting)
class ExpectsNothing(InMemorySessionStore):
    def append_events(self, events, *, expect=None):
        return super().append_events(events)


@breaks("expect: every session that is named", contracts.Expecting)
class ExpectsOnlyItsOwn(InMemorySessionStore):
    def append_events(self, events, *, expect=None):
        named = {item.session_id for item in events}
        expect = {name: number for name, number in (expect or {}).items() if name in named}
        return super().append_events(events, expect=expect)


@breaks("expect: a repeat gets its answer", contracts.Expecting)
class RefusesRepeats(InMemorySessionStore):
    def append_events(self, events, *, expect=None):
        super().append_events([], expect=expect)
        return super().append_events(events, expect=expect)


@breaks("expect: one of those who expect the same comes first", contracts.Expecting)
class LooksAndAppends(InMemorySessionStore):
    def append_events(self, events, *, expect=None):
        super().append_events([], expect=expect)
        time.sleep(0.001)
        return super().append_events(events)


@breaks("expect: a flush, too", contracts.Expecting)
class FlushesAnyway(InMemorySessionStore):
    def flush(self, result, *, expect=None):
        return super().flush(result)


@breaks("flush: each part is optional", contracts.Flushing)
class WantsAllParts(InMemorySessionStore):
    def flush(self, result, **expect):
        if not {"session", "run", "events"} <= result.keys():
            raise asm.Error("validation_error", "something is missing")
        return super().flush(result, **expect)


@breaks("flush: the events come back", contracts.Flushing)
class FlushesSilently(InMemorySessionStore):
    def flush(self, result, **expect):
        super().flush(result, **expect)


# -- Reading and deleting events --------------------------------------------------------------------------------------------


@breaks("get_events: correlation_id", contracts.Reading)
class IgnoresCorrelations(InMemorySessionStore):
    def get_events(self, session_id, *, correlation_id=None, **filters):
        return super().get_events(session_id, **filters)


@breaks("get_events: until is no part of it", contracts.Reading)
class IncludesUntil(InMemorySessionStore):
    def get_events(self, session_id, *, until=None, **filters):
        with contextlib.suppress(OverflowError):
            until = until and until + timedelta(microseconds=1)
        return super().get_events(session_id, until=until, **filters)


@breaks("get_events: the last are from the end", contracts.Reading)
class LastIsALimit(InMemorySessionStore):
    def get_events(self, session_id, *, last=None, limit=None, **filters):
        return super().get_events(session_id, limit=limit or last, **filters)


@breaks("get_events: the last that match", contracts.Reading)
class FiltersTheLast(InMemorySessionStore):
    def get_events(self, session_id, *, last=None, **filters):
        found = super().get_events(session_id, **filters)
        newest = found if last is None else super().get_events(session_id, last=last)
        return [item for item in found if item in newest]


@breaks("get_events: the last are ascending", contracts.Reading)
class LastComesFirst(InMemorySessionStore):
    def get_events(self, session_id, *, last=None, **filters):
        return super().get_events(session_id, last=last, **filters)[:: None if last is None else -1]


@breaks("delete_events: all conditions together", contracts.Deleting)
class DeletesWhatMeetsAny(InMemorySessionStore):
    def delete_events(self, session_id, **conditions):
        return sum(
            super(DeletesWhatMeetsAny, self).delete_events(session_id, **{name: conditions[name]}) for name in conditions
        )


@breaks("delete_events: says how many", contracts.Deleting)
class CountsWhatIsLeft(InMemorySessionStore):
    def delete_events(self, session_id, **conditions):
        super().delete_events(session_id, **conditions)
        return len(self.get_events(session_id))


@breaks("delete_events: needs a condition", contracts.Deleting, checked=False)
class DeletesEverything(InMemorySessionStore):
    def delete_events(self, session_id, **conditions):
        if all(value is None for value in conditions.values()):
            conditions = {"through": self.get_latest_sequence(session_id)}
        return super().delete_events(session_id, **conditions)


@breaks("delete_events: an expectation sees it", contracts.Deleting)
class StandsAtWhatIsLeft(InMemorySessionStore):
    def append_events(self, events, *, expect=None):
        if expect and not self.get_events(next(iter(expect))):
            expect = dict.fromkeys(expect, self.get_latest_sequence(next(iter(expect))))
        return super().append_events(events, expect=expect)


# -- Queries ------------------------------------------------------------------------------------------------------------------


@breaks("cursors: neither repeated nor passed over", contracts.Paging)
class PagesByOffset(InMemorySessionStore):
    def search_runs(self, *, limit=50, cursor=None, **filters):
        start = int(cursor or 0)
        found = super().search_runs(limit=10_000, **filters).items
        return Page(found[start : start + limit], str(start + limit) if len(found) > start + limit else None)


@breaks("cursors: ties are told apart", contracts.Paging)
class PagesByTime(InMemorySessionStore):
    def search_events(self, *, cursor=None, **filters):
        page = super().search_events(cursor=cursor, **filters)
        return page if cursor is None or not page.items else Page(page.items[1:] or page.items, page.cursor)


@breaks("cursors: only of this search", contracts.Paging)
class TakesAnyCursor(InMemorySessionStore):
    def search_sessions(self, *, cursor=None, **filters):
        try:
            return super().search_sessions(cursor=cursor, **filters)
        except asm.Error as error:
            if error.code != "invalid_cursor":
                raise
            return super().search_sessions(**filters)


@breaks("cursors: none at the end", contracts.Paging)
class NeverEnds(InMemorySessionStore):
    def search_sessions(self, **filters):
        page = super().search_sessions(**filters)
        return dataclasses.replace(page, cursor=page.cursor or "the end")


@breaks("search_sessions: soft-deleted ones only if asked for", contracts.SearchingSessions)
class FindsDeleted(InMemorySessionStore):
    def search_sessions(self, *, include_deleted=False, **filters):
        return super().search_sessions(include_deleted=True, **filters)


@breaks("search_sessions: all of the tags", contracts.SearchingSessions)
class AnyTagWillDo(InMemorySessionStore):
    def search_sessions(self, *, tags=None, **filters):
        return super().search_sessions(tags=tags and tags[:1], **filters)


@breaks("search_sessions: a prefix is no pattern", contracts.SearchingSessions)
class MatchesPatterns(InMemorySessionStore):
    def search_sessions(self, *, id_prefix=None, **filters):
        found = super().search_sessions(**filters)
        pattern = f"{id_prefix}%".replace("_", "?").replace("%", "*") if id_prefix else "*"
        return Page([item for item in found if fnmatch.fnmatchcase(item.id, pattern)], found.cursor)


@breaks("search_runs: ids decide ties", contracts.SearchingRuns)
class LeavesTies(InMemorySessionStore):
    def search_runs(self, *, order="-started_at", **filters):
        page = super().search_runs(order=order, **filters)
        return Page(sorted(page.items, key=lambda run: run.started_at, reverse=True), page.cursor) if order[0] == "-" else page


@breaks("search_runs: the tokens of a run", contracts.SearchingRuns)
class CountsTotalsOnly(InMemorySessionStore):
    def search_runs(self, *, min_tokens=None, **filters):
        page = super().search_runs(min_tokens=min_tokens, **filters)
        return Page([run for run in page if not min_tokens or "total_tokens" in run.token_usage], page.cursor)


@breaks("search_events: whatever the case", contracts.SearchingEvents)
class KnowsAsciiOnly(InMemorySessionStore):
    def search_events(self, *, text=None, **filters):
        page = super().search_events(text=text, **filters)
        return Page([item for item in page if not text or text.isascii() or text in str(item.data)], page.cursor)


@breaks("search_events: in keys and values, and not in what JSON is written with", contracts.SearchingEvents)
class SearchesJson(InMemorySessionStore):
    def search_events(self, *, text=None, **filters):
        page = super().search_events(**filters)
        return Page([item for item in page if not text or text.casefold() in json.dumps(item.data).casefold()], page.cursor)


@breaks("count_events: as search_events", contracts.SearchingEvents)
class CountsOnePage(InMemorySessionStore):
    def count_events(self, **filters):
        return len(super().search_events(**filters, limit=10).items)


@breaks("get_session_stats: nested tokens", contracts.Summing)
class SumsFlat(InMemorySessionStore):
    def get_session_stats(self, session_id):
        stats = super().get_session_stats(session_id)
        flat = {key: value for key, value in stats.token_totals.items() if not isinstance(value, dict)}
        return dataclasses.replace(stats, token_totals=flat)


@breaks("get_usage: whole numbers stay whole", contracts.Summing)
class SumsFloats(InMemorySessionStore):
    def get_usage(self, **filters):
        found = super().get_usage(**filters)
        return [
            dataclasses.replace(
                usage,
                token_totals={key: value * 1.0 if type(value) is int else value for key, value in usage.token_totals.items()},
            )
            for usage in found
        ]


@breaks("get_usage: runs without a cost are told", contracts.Summing)
class CostsNothing(InMemorySessionStore):
    def get_usage(self, **filters):
        return [dataclasses.replace(usage, runs_without_cost=0) for usage in super().get_usage(**filters)]


@breaks("get_usage: days in UTC", contracts.Summing)
class LivesElsewhere(InMemorySessionStore):
    def save_run(self, run, **replacing):
        super().save_run(run.changed(started_at=run.started_at + timedelta(hours=1)), **replacing)


@breaks("get_usage: None is a group", contracts.Summing)
class PassesOverNone(InMemorySessionStore):
    def get_usage(self, **filters):
        return [usage for usage in super().get_usage(**filters) if None not in usage.group.values()]


@breaks("import_session: refused where there is something", contracts.Exporting)
class ImportsOver(InMemorySessionStore):
    def import_session(self, data):
        data = b"".join(chunks(data))
        with contextlib.suppress(asm.Error):
            self.delete_session(Export(data).session_id)
        return super().import_session(data)


@breaks("import_session: numbers stay", contracts.Exporting)
class Renumbers(InMemorySessionStore):
    def import_session(self, data):
        session_id = super().import_session(data)
        events = self.get_events(session_id)
        super().delete_events(session_id, through=self.get_latest_sequence(session_id))
        self._contents.logs.pop(session_id, None)
        self.append_events(events)
        return session_id


@breaks("import_session: the last number stays", contracts.Exporting)
class ForgetsTheLastNumber(InMemorySessionStore):
    def import_session(self, data):
        session_id = super().import_session(data)
        if log := self._contents.logs.get(session_id):
            log.last = log.events[-1].sequence_number
        return session_id


@breaks("import_session: all or nothing", contracts.Exporting)
class ImportsWhatItCan(InMemorySessionStore):
    def import_session(self, data):
        try:
            return super().import_session(data)
        except asm.Error as error:
            if error.code == "invalid_format" and error.details["line"] > 2:
                self.append_event(asm.Event.new(type="session_created", session_id="ses"))
            raise


@breaks("export_session: byte for byte", contracts.Exporting)
class ExportsAnew(InMemorySessionStore):
    def export_session(self, session_id):
        lines = [json.loads(line) for line in super().export_session(session_id)]
        return io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


@breaks("health_check: a deletion is no gap", contracts.Maintaining)
class MissesNumbers(InMemorySessionStore):
    def health_check(self):
        return [name for name, log in self._contents.logs.items() if len(log.events) < log.last]


@breaks("compact: loses nothing", contracts.Maintaining)
class CompactsTooMuch(InMemorySessionStore):
    def compact(self):
        size = super().compact()
        for name in list(self._contents.logs):
            super().delete_events(name, through=11)
        return size


@breaks("expired: what is exempt is left alone", contracts.Maintaining)
class ExemptsNobody(InMemorySessionStore):
    def expired(self, policy, **limit):
        return super().expired(dataclasses.replace(policy, exempt_tags=[]), **limit)


@breaks("expired: the oldest first", contracts.Maintaining)
class NewestFirst(InMemorySessionStore):
    def expired(self, policy, *, limit):
        return super().expired(policy, limit=10_000)[::-1][:limit]


@breaks("expired: every age of a policy", contracts.Maintaining)
class NeverDeletesForGood(InMemorySessionStore):
    def expired(self, policy, **limit):
        return [item for item in super().expired(policy, **limit) if item.deleted_at is None]


# -- Artifacts ----------------------------------------------------------------------------------------------------------------


@breaks("put: a put that fails leaves the old", contracts.Artifacts, contracts.Streams)
class PutsInPlace(FileArtifactStore):
    def put(self, key, data):
        super().delete(key)
        super().put(key, data)


@breaks("put: replaces what the key held", contracts.Artifacts)
class KeepsTheFirst(FileArtifactStore):
    def put(self, key, data):
        try:
            self.stat(key)
        except asm.Error:
            super().put(key, data)


@breaks("get: else not_found", contracts.Artifacts)
class FindsNothingEmpty(FileArtifactStore):
    def get(self, key):
        try:
            return super().get(key)
        except asm.Error as error:
            if error.code != "not_found":
                raise
            return b""


@breaks("stat: the checksum of what is there", contracts.Artifacts)
class KnowsNoChecksum(FileArtifactStore):
    def stat(self, key):
        return dataclasses.replace(super().stat(key), checksum_sha256="0" * 64)


class Rereading(io.RawIOBase):
    """A file that opens its artifact anew wherever it is to be read."""

    def __init__(self, store, key):
        self._store, self._key, self._place = store, key, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        with self._file() as file:
            self._place = file.seek(offset, whence)
        return self._place

    def readinto(self, buffer):
        with self._file() as file:
            count = file.readinto(buffer)
        self._place += count
        return count

    def _file(self):
        file = FileArtifactStore.open(self._store, self._key)
        file.seek(self._place)
        return file


@breaks("open: of one version", contracts.Seeking)
class MixesVersions(FileArtifactStore):
    def open(self, key):
        super().open(key).close()
        return io.BufferedReader(Rereading(self, key))


@breaks("open: from anywhere", contracts.Seeking)
class ReadsOnlyOn(FileArtifactStore):
    def open(self, key):
        file = super().open(key)
        file.raw.seek = lambda offset, _whence=io.SEEK_SET: offset
        return file


@breaks("keys: told apart to the last character", contracts.Keys)
class IgnoresCase(FileArtifactStore):
    def put(self, key, data):
        super().put(key.lower(), data)

    def get(self, key):
        return super().get(key.lower())


@breaks("list: by key, ascending", contracts.Listing)
class ListsBackwards(FileArtifactStore):
    def list(self, **filters):
        return super().list(**filters)[::-1]


@breaks("list: a prefix", contracts.Listing)
class IgnoresPrefixes(FileArtifactStore):
    def list(self, *, prefix="", **filters):
        return super().list(**filters)


@breaks("delete_prefix: says how many", contracts.Prefixes)
class DeletesWithoutCounting(FileArtifactStore):
    def delete_prefix(self, prefix):
        super().delete_prefix(prefix)
        return 0
