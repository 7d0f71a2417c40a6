"""Whatever is asked of a session store in SQL, it answers as the one in memory does, which holds the same: to the last digit.

What they hold is the same in every run, and so are the questions. With ``--campaign`` there are more, and others.
"""

import json
import random

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from asm.adapters import InMemorySessionStore, SqlSessionStore
from asm.core.policies import RetentionPolicy
from asm.core.values import EventType, RunStatus, SessionStatus, Value
from asm.testing.samples import at, event, run, session

NAMES = ["a", "A", "b", "é", "%", "_", "a%", 'q"\\', "\U0001f9ea"]
TEXTS = [
    "Straße",
    "STRASSE",
    "x\ny",
    'say "hi"',
    "a\\b",
    "\0",
    "K",
    "İ",
    "100%",
    "ключ",
    "КЛЮЧ",
    "/",
    "",
    "u0000",
    "\U0001f9ea",
    "n",
]
SCALARS = [1, 1.0, True, 0, -0.0, False, None, "1", 2**53 + 1, 2**62, 0.5, *TEXTS]
ASKED = [text for text in TEXTS if "\0" not in text]


def some_map(chance, depth=0):
    """A map of anything."""
    made = {}
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        if depth < 3 and chance.random() < 0.3:
            item = chance.choice([some_map(chance, depth + 1), [some_map(chance, depth + 1), chance.choice(SCALARS)], {}, []])
        else:
            item = chance.choice(SCALARS)
        made[chance.choice([*NAMES, *TEXTS, "model"])] = item
    return made


def some_usage(chance, depth=0):
    """A map of token usage."""
    numbers = [0, 1, 7, 2**40, -3, 0.5, 2.0, "7", None, True, [1, {"a": 2}]]
    made = {name: chance.choice(numbers) for name in ("total_tokens", "input_tokens", "output_tokens") if chance.random() < 0.4}
    for name in chance.sample([*NAMES, "a.b", "[0]", "\0", ""], chance.choice([0, 0, 1, 2])):
        made[name] = some_usage(chance, depth + 1) if depth < 2 and chance.random() < 0.6 else chance.choice(numbers)
    if chance.random() < 0.3:
        made["large"] = 2**62 + chance.randint(0, 9)
    return made


def contents(chance):
    """What is stored: sessions, runs, events, and which events are deleted again."""
    times = [at(seconds) for seconds in (-200_000, -1, 0, 0.000001, 1, 2, 86_400)]
    sessions = [
        session(
            chance.choice(NAMES),
            id=f"{name}{number}",
            status=chance.choice(list(SessionStatus)),
            parent_session_id=chance.choice([None, *NAMES]),
            metadata=some_map(chance),
            tags=chance.sample(["x", "y", "%", "1", *NAMES], chance.randint(0, 3)),
            created_at=chance.choice(times),
            updated_at=chance.choice(times),
            deleted_at=chance.choice([None, None, None, at(5)]),
        )
        for number, name in enumerate(NAMES * 5)
    ]
    owners = [item.id for item in sessions] + ["unsaved"]
    runs = [
        run(
            chance.choice(owners),
            id=f"{chance.choice(NAMES)}{number}",
            status=chance.choice(list(RunStatus)),
            started_at=chance.choice(times),
            provider=chance.choice([None, *NAMES[:3]]),
            token_usage=some_usage(chance),
            cost_usd=chance.choice([None, 0.0, 0.25, 1.5]),
            provider_metadata=some_map(chance) | chance.choice([{}, {"model": "m"}, {"model": "é\0"}, {"model": 1}]),
            metadata=some_map(chance) | chance.choice([{}, {"model": "n"}]),
        )
        for number in range(120)
    ]
    events = [
        event(
            chance.choice(owners[-20:]),
            id=f"e{number}",
            type=chance.choice([*list(EventType)[:3], "myapp.thought"]),
            timestamp=chance.choice(times),
            run_id=chance.choice([None, *NAMES]),
            correlation_id=chance.choice([None, None, *NAMES]),
            provider=chance.choice([None, "p", "é"]),
            data=some_map(chance),
        )
        for number in range(400)
    ]
    return sessions, runs, events


def fill(store, sessions, runs, events):
    """Store all of it."""
    for item in sessions:
        store.save_session(item)
    for item in runs:
        store.save_run(item)
    store.append_events(events)
    store.delete_events(events[0].session_id, through=5)
    store.delete_events(events[1].session_id, type=events[1].type)
    store.delete_session(events[2].session_id)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stores(request, tmp_path_factory):
    """The two stores, and which sessions there are."""
    url = f"sqlite:///{tmp_path_factory.mktemp('agreement')}/sessions.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_tables")
    filling = contents(random.Random(11))
    with InMemorySessionStore() as memory, SqlSessionStore(url=url) as store:
        for each in (memory, store):
            fill(each, *filling)
        yield memory, store, [item.session_id for item in filling[2][:20]]
    if request.param == "postgres":
        request.getfixturevalue("postgres").empty(url)


def plain(answer):
    return json.dumps(answer, default=Value.to_map, sort_keys=True)


def agree(stores, name, *args, **given):
    """Compare what the two answer; of a search, all pages."""
    cursors = [None, None]
    while True:
        if name.startswith("search"):
            pages = [getattr(store, name)(**given, cursor=cursor) for store, cursor in zip(stores, cursors, strict=True)]
            found, cursors = [page.items for page in pages], [page.cursor for page in pages]
        else:
            found = [getattr(store, name)(*args, **given) for store in stores]
        assert plain(found[1]) == plain(found[0])
        assert [cursor is None for cursor in cursors] in ([True] * 2, [False] * 2)
        if cursors[0] is None:
            return


def maybe(strategy):
    return st.none() | strategy


IDS = st.sampled_from(NAMES)
SEVERAL = st.lists(IDS, min_size=1, max_size=3)
TIMES = st.sampled_from([at(seconds) for seconds in (-200_000, 0, 0.000001, 1, 3)])
LIMITS = st.sampled_from([1, 3, 20, 1000])
ITEMS = st.dictionaries(
    st.sampled_from([*NAMES, *ASKED]), st.sampled_from([value for value in SCALARS if value != "\0"]), max_size=1
)
EVENTS = {
    "run_ids": maybe(SEVERAL),
    "type": maybe(st.lists(st.sampled_from([*list(EventType)[:4], "myapp.thought"]), min_size=1, max_size=2)),
    "provider": maybe(st.sampled_from(["p", "é", "none"])),
    "correlation_id": maybe(IDS),
    "text": maybe(st.sampled_from(ASKED)),
    "since": maybe(TIMES),
    "until": maybe(TIMES),
}
QUESTIONS = {
    "search_sessions": {
        "agent_id": maybe(IDS),
        "status": maybe(st.lists(st.sampled_from(SessionStatus), min_size=1, max_size=3)),
        "provider": maybe(IDS),
        "tags": maybe(st.lists(st.sampled_from(["x", "1", *NAMES]), max_size=2)),
        "parent_session_id": maybe(IDS),
        "id_prefix": maybe(IDS | st.just("\U0001f9ea1")),
        "metadata": maybe(ITEMS),
        **{f"{name}_{side}": maybe(TIMES) for name in ("created", "updated") for side in ("after", "before")},
        "include_deleted": st.booleans(),
        "order": st.sampled_from(["created_at", "-created_at", "updated_at", "-updated_at"]),
        "limit": LIMITS,
    },
    "search_runs": {
        "agent_id": maybe(IDS),
        "status": maybe(st.lists(st.sampled_from(RunStatus), min_size=1, max_size=3)),
        "provider": maybe(IDS),
        "started_after": maybe(TIMES),
        "started_before": maybe(TIMES),
        "min_tokens": maybe(st.sampled_from([0, 1, 8, 2**40])),
        "order": st.sampled_from(["started_at", "-started_at", "tokens", "-tokens"]),
        "limit": LIMITS,
    },
    "search_events": EVENTS | {"order": st.sampled_from(["timestamp", "-timestamp"]), "limit": LIMITS},
    "count_events": EVENTS,
    "get_usage": {
        "agent_id": maybe(IDS),
        "provider": maybe(IDS),
        "since": maybe(TIMES),
        "until": maybe(TIMES),
        "group_by": st.lists(st.sampled_from(["provider", "model", "agent", "status", "day"]), max_size=3, unique=True),
    },
    "get_events": {
        "run_id": maybe(IDS),
        "correlation_id": maybe(IDS),
        "since": maybe(TIMES),
        "until": maybe(TIMES),
        "after": maybe(st.integers(0, 20)),
        "last": maybe(st.integers(1, 8)),
    },
}
"""The questions with their parameters. Few filters are given at once, because most pairs let nothing pass."""


@st.composite
def questions(draw, name):
    parameters = QUESTIONS[name]
    always = [item for item in ("order", "limit", "group_by") if item in parameters]
    others = draw(st.lists(st.sampled_from([item for item in parameters if item not in always]), max_size=2, unique=True))
    return {item: draw(parameters[item]) for item in [*always, *others]}


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_stores_agree(request, stores, name):
    *both, owners = stores
    campaign = request.config.getoption("--campaign", default=False)

    def ask(asked, owner):
        if name == "get_events":
            agree(both, name, owner, **asked)
            return
        of_session = {"search_runs": "session_id", "get_usage": "session_id", "search_events": "session_ids"}.get(name)
        agree(both, name, **(asked | ({of_session: owner} if owner and of_session else {})))

    owner = st.sampled_from(owners)
    check = given(questions(name), owner if name == "get_events" else st.none() | st.none() | owner)(ask)
    number = random.randrange(2**32) if campaign else 11
    print(f"seed {number}")
    settings(max_examples=3000 if campaign else 15, database=None, phases=[Phase.generate])(seed(number)(check))()


def test_the_stores_agree_on_each_session(stores):
    *both, owners = stores
    for owner in owners:
        counts = [store.count_events(session_ids=owner) + len(store.list_runs(owner)) for store in both]
        assert counts[0] == counts[1]
        if counts[0]:
            agree(both, "get_session_stats", owner)
            exports = [store.export_session(owner).read() for store in both]
            assert exports[0] == exports[1]


DAYS = maybe(st.sampled_from([0, 1, 36_500]))
POLICIES = {
    "max_completed_age_days": DAYS,
    "max_age_days": DAYS,
    "hard_delete_after_days": DAYS,
    "max_events_per_session": maybe(st.integers(1, 20)),
    "exempt_statuses": st.lists(st.sampled_from(SessionStatus), max_size=2),
    "exempt_tags": st.lists(st.sampled_from(["x", "1", *NAMES]), max_size=2),
}


def test_the_stores_agree_on_what_is_due(stores):
    *both, _ = stores

    def ask(policy, limit):
        agree(both, "expired", RetentionPolicy(**policy), limit=limit)

    settings(max_examples=30, database=None, phases=[Phase.generate])(
        seed(11)(given(st.fixed_dictionaries(POLICIES), LIMITS)(ask))
    )()
