"""Who may connect, begin a call and go on, as a decision on plain state: what holds whatever happens in whatever order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asm.core.errors import Error
from asm.processes.accounts import ANSWERS_AHEAD, Account, Call, Client, Lane
from asm.processes.admission import DOOR, OURS, UNREAD_SECONDS, Admission
from asm.processes.limits import Limits

TINY = Limits(
    connections=3,
    calls_in_flight=4,
    bytes_in_flight=400,
    bytes_unread=1000,
    uploads=2,
    total_connections=6,
    total_calls_in_flight=8,
    total_bytes_in_flight=800,
    total_bytes_unread=3000,
    total_bytes_begun=100,
    total_uploads=3,
)


def connect(admission, pid=1):
    account, late = admission.connect(pid)
    assert isinstance(account, Account)
    assert late is None
    return account


def settle_in(account, size=10, count=60):
    """Let a connection have had so many answers of this size."""
    for _ in range(count):
        account.answered(size)


def arrive(admission, account, lane, size=10, *, is_upload=False):
    """A call that is not refused."""
    call = Call(account, lane, size, is_upload=is_upload)
    assert admission.arrive(call) is None
    return call


def refusal(admission, account, lane, size=10, *, is_upload=False):
    """Why a call is refused."""
    error = admission.arrive(Call(account, lane, size, is_upload=is_upload))
    assert error.retryable
    return error.details["reason"]


def test_processes_take_turns_and_so_do_their_connections():
    admission, lane = Admission(Limits()), Lane(2)
    one, other, b = connect(admission, 1), connect(admission, 1), connect(admission, 2)
    for account in (one, other, b):
        settle_in(account)
    at_work = [arrive(admission, one, lane) for _ in range(2)]
    assert all(call.has_turn for call in at_work)
    names = {one: "a", other: "A", b: "b"}
    waiting = [arrive(admission, account, lane) for account in (one,) * 4 + (other,) * 2 + (b,) * 3]
    assert not any(call.has_turn for call in waiting)
    order = ""
    while at_work:
        admission.end(at_work.pop(0))
        begun, refused = admission.next()
        assert refused == []
        at_work += begun
        order += "".join(names[call.account] for call in begun)
    assert order == "abAbabAaa"
    assert (admission.calls, admission.bytes, lane.free) == (0, 0, 2)


def test_of_whom_large_answers_are_foreseen_calls_wait_for_them():
    admission, lane = Admission(Limits()), Lane(100)
    account = connect(admission)
    calls = [arrive(admission, account, lane) for _ in range(10)]
    assert [call.has_turn for call in calls] == [True] + [False] * 9  # anything may come of the first one
    for _ in range(60):
        account.answered(ANSWERS_AHEAD // 4)
    admission.end(calls[0])
    begun, _ = admission.next()
    assert len(begun) == 4


def test_who_takes_no_answers_keeps_only_its_own_calls_waiting():
    admission, lane = Admission(Limits()), Lane(100)
    slow, quick = connect(admission), connect(admission)
    for account in (slow, quick):
        settle_in(account)
    admission.lies(slow, 2 * ANSWERS_AHEAD, 0, 1.0, is_slow=True)
    call = arrive(admission, slow, lane)
    assert not call.has_turn
    assert arrive(admission, quick, lane).has_turn
    assert admission.next() == ([], [])
    admission.lies(slow, 0, 2 * ANSWERS_AHEAD, 2.0, is_slow=False)
    assert admission.next() == ([call], [])


def test_what_keeps_nobody_waiting_gives_up_its_turn_and_may_ask_for_it_again():
    admission, lane = Admission(Limits()), Lane(1)
    account = connect(admission)
    settle_in(account)
    poll, other = arrive(admission, account, lane), arrive(admission, account, lane)
    assert admission.wait(poll) is None
    assert (admission.calls, admission.in_flight) == (1, 2)
    assert admission.next() == ([other], [])
    assert not admission.again(poll)
    assert admission.next() == ([], [])
    admission.end(other)
    assert admission.next() == ([poll], [])
    assert admission.wait(poll) is None
    assert admission.again(poll)
    admission.end(poll)
    assert (admission.calls, lane.free) == (0, 1)


def test_a_call_counts_until_its_thread_lets_go_and_a_store_that_is_stuck_is_said_to_be():
    admission, lane = Admission(Limits()), Lane(2)
    account = connect(admission)
    settle_in(account)
    calls = [arrive(admission, account, lane) for _ in range(2)]
    waiting = arrive(admission, account, lane)
    for call in calls:
        call.holds += 1
        admission.end(call)
    assert (admission.calls, admission.bytes) == (3, 30)
    begun, [(refused, error)] = admission.next()
    assert (begun, refused, error.details) == ([], waiting, {"reason": "overloaded"})
    admission.end(waiting)
    assert refusal(admission, account, lane) == "overloaded"
    admission.disconnect(account)
    assert (admission.calls, admission.bytes) == (2, 20)
    for call in calls:
        admission.let_go(call)
    assert (admission.calls, admission.bytes, lane.free, lane.stuck) == (0, 0, 2, 0)
    assert arrive(admission, connect(admission), lane).has_turn


def test_who_has_less_than_its_share_is_served_whatever_the_others_have():
    admission, lane = Admission(TINY), Lane()
    greedy = [connect(admission, pid) for pid in (1, 2)]
    for account in greedy:
        settle_in(account)
        for _ in range(4):
            arrive(admission, account, lane)
        assert refusal(admission, account, lane) == "overloaded"
        assert (
            refusal(admission, connect(admission, account.client.pid), lane) == "overloaded"
        )  # its connections count together
    modest = connect(admission, 3)
    for _ in range(3):
        arrive(admission, modest, lane)
    assert refusal(admission, modest, lane) == "overloaded"  # a third of all has more than its share


def test_bytes_and_uploads_are_bounded_likewise():
    admission, lane = Admission(TINY), Lane()
    a, b, c, d = (connect(admission, pid) for pid in range(1, 5))
    arrive(admission, a, lane, 400)
    assert refusal(admission, a, lane) == "overloaded"
    uploads = [arrive(admission, account, lane, is_upload=True) for account in (b, b, c)]
    assert refusal(admission, b, lane, is_upload=True) == "overloaded"
    assert refusal(admission, c, lane, is_upload=True) == "overloaded"
    uploads.append(arrive(admission, d, lane, is_upload=True))
    assert not any(call.has_turn for call in uploads)
    for call in uploads:
        admission.end(call)
    assert admission.uploads == 0


def test_a_process_of_our_tree_may_have_more_and_is_let_in_when_nobody_else_is():
    admission, lane = Admission(TINY), Lane(100)
    for pid in range(1, 3):
        for _ in range(3):
            connect(admission, pid)
        refused, late = admission.connect(pid)
        assert (refused.details["reason"], late) == ("overloaded", None)
    ours, late = admission.connect(100)
    assert ours.at_door
    assert late is None
    at_door = [admission.connect(pid) for pid in (3, 3, 4, *range(10, 10 + DOOR - 4))]
    assert all(account.at_door and late is None for account, late in at_door)
    _, late = admission.connect(3)  # a process that knocks most often waits for the shortest time
    assert late is at_door[0][0]
    admission.disconnect(late)
    admission.trust(ours)
    assert not ours.at_door
    for _ in range(OURS * TINY.total_calls_in_flight):
        arrive(admission, ours, lane)
    assert refusal(admission, ours, lane) == "overloaded"


def test_where_there_is_little_room_a_process_may_have_its_share_of_that():
    admission = Admission(Limits(connections=50, total_connections=100), room=10)
    for _ in range(5):
        connect(admission)
    refused, _ = admission.connect(1)
    assert refused.retryable
    for _ in range(20):
        connect(Admission(Limits(), room=40), 0)  # of another namespace: whose they are is not known


def test_of_unfinished_messages_the_one_that_rests_the_longest_is_one_too_many():
    admission = Admission(TINY)
    a, b, c = (connect(admission, pid) for pid in (1, 2, 3))
    admission.began(a, 40)
    admission.began(b, 40)
    admission.began(a, 60)
    assert admission.excess(0.0) == []
    admission.began(c, 10)
    assert [account for account, _why in admission.excess(0.0)] == [b]
    admission.began(b, 0)
    admission.began(c, 20)
    assert admission.excess(0.0) == []


def test_who_reads_is_not_cut_off_and_who_does_not_is():
    admission = Admission(TINY)
    account, other = connect(admission), connect(admission)
    admission.lies(account, 600, 0, 10.0, is_slow=True)
    admission.lies(other, 600, 0, 10.0, is_slow=True)
    assert admission.excess(10.0 + UNREAD_SECONDS / 2) == []
    admission.lies(account, 600, 100, 10.0 + UNREAD_SECONDS / 2, is_slow=True)
    assert [one for one, _why in admission.excess(10.0 + UNREAD_SECONDS)] == [other]
    admission.lies(account, 2001, 100, 10.0, is_slow=True)  # so much is too much, however soon it would be read
    assert account in dict(admission.excess(10.0))
    admission.disconnect(account)
    admission.lies(other, 0, 600, 20.0, is_slow=False)
    assert admission.excess(100.0) == []


def test_of_all_who_do_not_read_the_worst_of_the_worst_is_cut_off():
    admission = Admission(TINY)
    worst, small, modest, ours = (connect(admission, pid) for pid in (1, 1, 2, 3))
    admission.trust(ours)
    admission.lies(worst, 1500, 0, 0.0, is_slow=True)
    admission.lies(small, 400, 0, 0.0, is_slow=True)
    admission.lies(modest, 900, 0, 0.0, is_slow=True)
    admission.lies(ours, OURS * 3000, 0, 0.0, is_slow=True)
    assert admission.excess(0.0) == []
    admission.lies(small, 700, 0, 0.0, is_slow=True)
    assert [one for one, _why in admission.excess(0.0)] == [worst]
    admission.lies(ours, OURS * 3000 + 1, 0, 0.0, is_slow=True)
    assert ours in dict(admission.excess(0.0))


class Happenings(RuleBasedStateMachine):
    """Clients that do whatever they like, and stores that answer when they like, or never."""

    def __init__(self):
        super().__init__()
        self.admission = Admission(TINY)
        self.lanes = [Lane(2), Lane(3)]
        self.accounts, self.calls, self.resting, self.now = [], [], [], 0.0

    def some(self, data, things):
        return data.draw(st.sampled_from(things))

    def alive(self):
        return [call for call in self.calls if not call.is_over]

    def waiting(self):
        return {call for lane in self.lanes for call in lane.waiting()}

    def at_work(self):
        waiting = self.waiting()
        return [call for call in self.alive() if call not in waiting]

    @initialize(pids=st.lists(st.integers(0, 2), min_size=1, max_size=3))
    def begin(self, pids):
        for pid in pids:
            self.connect(pid)

    @rule(pid=st.integers(0, 3))
    def connect(self, pid):
        account, late = self.admission.connect(pid)
        if not isinstance(account, Error):
            self.accounts.append(account)
        if late is not None:
            self.lose(late)

    @rule(data=st.data())
    @precondition(lambda self: self.accounts)
    def trust(self, data):
        account = self.some(data, self.accounts)
        if not any(call.account is account for call in self.calls):
            self.admission.trust(account)

    @rule(data=st.data(), size=st.integers(1, 300), is_upload=st.booleans(), count=st.integers(1, 5))
    @precondition(lambda self: self.accounts)
    def call(self, data, size, is_upload, count):
        account, lane = self.some(data, self.accounts), self.some(data, self.lanes)
        if account.at_door:
            return
        for _ in range(count):
            call = Call(account, lane, size, is_upload=is_upload)
            if self.admission.arrive(call) is None:
                self.calls.append(call)
                assert call.has_turn or is_upload or call in self.waiting()

    @rule()
    def go_on(self):
        begun, refused = self.admission.next()
        assert all(call.has_turn and not call.is_over for call in begun)
        for call, error in refused:
            assert error.retryable
            self.admission.end(call)
        assert not any(lane.free and lane.queues for lane in self.lanes)

    @rule(data=st.data(), count=st.integers(1, 2))
    @precondition(lambda self: self.at_work())
    def hold(self, data, count):
        self.some(data, self.at_work()).holds += count

    @rule(data=st.data(), size=st.integers(1, 2_000_000))
    @precondition(lambda self: any(not call.holds for call in self.at_work()))
    def answer(self, data, size):
        call = self.some(data, [call for call in self.at_work() if not call.holds])
        call.account.answered(size)
        self.admission.end(call)

    @rule(data=st.data())
    @precondition(lambda self: self.alive())
    def cancel(self, data):
        self.admission.end(self.some(data, self.alive()))

    @rule(data=st.data())
    @precondition(lambda self: any(call.holds for call in self.calls))
    def let_go(self, data):
        self.admission.let_go(self.some(data, [call for call in self.calls if call.holds]))

    @rule(data=st.data())
    @precondition(lambda self: any(call.has_turn for call in self.at_work()))
    def rest(self, data):
        self.admission.rest(
            self.some(data, [call for call in self.at_work() if call.has_turn]), is_long=data.draw(st.booleans())
        )

    @rule(data=st.data())
    @precondition(lambda self: any(call.has_turn for call in self.at_work()))
    def wait(self, data):
        call = self.some(data, [call for call in self.at_work() if call.has_turn])
        if (error := self.admission.wait(call)) is not None:
            assert error.retryable
            self.admission.end(call)

    @rule(data=st.data())
    @precondition(lambda self: any(call.waits for call in self.at_work()))
    def again(self, data):
        self.admission.again(self.some(data, [call for call in self.at_work() if call.waits]))

    @rule(data=st.data())
    @precondition(lambda self: any(call.has_turn for call in self.at_work()))
    def lengthen(self, data):
        call = self.some(data, [call for call in self.at_work() if call.has_turn])
        if not call.is_upload and self.admission.lengthen(call) is None:
            assert call.is_upload

    @rule(data=st.data(), unsent=st.integers(0, 1500), taken=st.integers(0, 100), seconds=st.floats(0, UNREAD_SECONDS))
    @precondition(lambda self: self.accounts)
    def lie(self, data, unsent, taken, seconds):
        self.now += seconds
        account = self.some(data, self.accounts)
        self.admission.lies(account, unsent, account.taken + taken, self.now, is_slow=unsent > 100)

    @rule(data=st.data(), size=st.integers(0, 150))
    @precondition(lambda self: self.accounts)
    def begin_message(self, data, size):
        self.admission.began(self.some(data, self.accounts), size)

    @rule()
    def cut_off(self):
        for account, _why in self.admission.excess(self.now):
            self.lose(account)
        assert self.admission.excess(self.now) == []
        slow = [account for account in self.accounts if account.is_slow and not account.client.is_ours]
        assert sum(account.unsent for account in slow) <= TINY.total_bytes_unread

    @rule(data=st.data())
    @precondition(lambda self: self.accounts)
    def leave(self, data):
        self.lose(self.some(data, self.accounts))

    def lose(self, account):
        for call in self.alive():
            if call.account is account:
                self.admission.end(call)
        self.admission.disconnect(account)
        self.accounts.remove(account)

    @invariant()
    def all_is_counted(self):
        self.calls = [call for call in self.calls if not call.is_over or call.holds]
        assert self.admission.in_flight == len(self.calls)
        assert self.admission.waits == sum(call.waits for call in self.calls)
        assert self.admission.bytes == sum(call.size for call in self.calls)
        assert self.admission.uploads == sum(call.is_upload for call in self.calls)
        for lane in self.lanes:
            turns = [call for call in self.calls if call.lane is lane and call.has_turn]
            assert lane.free == lane.room - len(turns) >= 0
            assert lane.stuck == sum(call.is_over for call in turns)
        for account in self.accounts:
            assert account.at_work == sum(call.account is account and call.has_turn and not call.is_over for call in self.calls)

    @invariant()
    def nobody_has_too_much(self):
        clients = {account.client for account in self.accounts} | {call.account.client for call in self.calls}
        for client in clients:
            assert isinstance(client, Client)
            most = OURS * TINY.total_calls_in_flight if client.is_ours else TINY.calls_in_flight
            assert client.calls + client.waits <= 2 * most
            assert client.waits <= most
            assert client.uploads <= (OURS * TINY.total_uploads if client.is_ours else TINY.uploads)
            let_in = [account for account in client.accounts if not account.at_door]
            assert client.is_ours or client.pid == 0 or len(let_in) <= TINY.connections
        assert self.admission.connections <= TINY.total_connections

    def teardown(self):
        """When stores answer and clients read again, everything that waits begins, and in the end nothing is left."""
        for account in self.accounts:
            self.admission.lies(account, 0, account.taken + 1, self.now, is_slow=False)
        for _ in range(2 * len(self.calls) + 2):
            begun, refused = self.admission.next()
            for call in [*begun, *(call for call, _error in refused)]:
                self.admission.end(call)
            for call in self.at_work():
                self.admission.end(call)
            for call in self.calls:
                while call.holds:
                    self.admission.let_go(call)
        assert self.alive() == []
        self.all_is_counted()
        assert self.calls == []
        for account in list(self.accounts):
            self.lose(account)
        assert self.admission.connections == 0
        assert self.admission._clients == {}
        assert all((lane.free, lane.queues, lane.blocked) == (lane.room, {}, {}) for lane in self.lanes)


TestHappenings = Happenings.TestCase
TestHappenings.settings = settings(max_examples=150, stateful_step_count=40)
