"""The children of a tree, in start order: who is started next, who is restarted with whom, and who is stopped next.

::

    wishes: restart, redescribe, leave ──┐                ┌─► stop those that are to be started again, the last one first
                                         ├─► the children ┼─► start the next child, or one whose backoff is over
    a process has ended ─────────────────┘                └─► let go of who is not described, when all others are settled

Nothing here waits, and nothing here ends the tree: what ends it is returned as an :class:`~asm_supervisor.outcomes.Exit`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from asm_supervisor.driven import Driven
from asm_supervisor.link import Ending
from asm_supervisor.outcomes import Exit, Reloaded
from asm_supervisor.policy import Policy, next_to_start, next_to_stop, what_follows
from asm_supervisor.restarts import Restart
from asm_supervisor.sockets import ListenError
from asm_supervisor.spec import ChildSpec, SpecError, check_specs
from asm_supervisor.states import SETTLED, State, Wanted
from asm_supervisor.watch import take_names

__all__ = ["Group"]

logger = logging.getLogger("asm_supervisor")


class Group:
    """The children of a tree.

    :param tree: what the tree is called in logs.
    :param specs: the children, in the order in which they are started.
    :param policy: who is restarted with a child that died, how soon, and when that was too often.
    :param make: makes a child.
    :ivar policy: as given; :meth:`redescribe` brings another one.
    :ivar children: in start order. Those that a reload took out of the description come first, because they are stopped last.
    :raises SpecError: when something in ``specs`` cannot work.
    """

    def __init__(self, tree: str, specs: Iterable[ChildSpec], policy: Policy, make: Callable[[ChildSpec], Driven]) -> None:
        self._tree = tree
        self.policy = policy
        self._make = make
        self.children = [make(spec) for spec in check_specs(specs)]

    @property
    def described(self) -> list[Driven]:
        """Those that are to be there."""
        return [child for child in self.children if child.wanted is not Wanted.LEAVE]

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to happen any more to those who are described."""
        return all(child.wanted is Wanted.RUN and child.state in SETTLED for child in self.described)

    @property
    def is_as_described(self) -> bool:
        """Whether that is so, and nobody else is there."""
        return self.is_settled and len(self.described) == len(self.children)

    # -- Wishes ------------------------------------------------------------------------------------------------------

    def restart(self, name: str) -> None:
        """Stop a child and start it again; start one that failed or ended. Its history begins anew.

        :raises KeyError: when there is no such child.
        :raises ListenError: when a child that failed or ended cannot have its socket again.
        """
        child = next((child for child in self.described if child.name == name), None)
        if child is None:
            raise KeyError(name)
        self._restart(child)

    def redescribe(self, specs: Iterable[ChildSpec], policy: Policy) -> Reloaded:
        """Be what is described now.

        :return: what that changes.
        :raises SpecError: when it cannot work, or changes a socket; nothing was changed then.
        :raises ListenError: when a new child cannot have its socket; nothing was changed then.
        """
        checked = check_specs(specs)
        present = {child.name: child for child in self.children}
        for spec in checked:
            old = present[spec.name].spec if spec.name in present else spec
            if (old.listen, old.listen_mode) != (spec.listen, spec.listen_mode):
                raise SpecError(spec.name, "listen", "cannot change while the tree runs; give the child another name")
        added = [self._make(spec) for spec in checked if spec.name not in present]
        take_names(added)

        self.policy = policy
        wanted = {spec.name: spec for spec in checked}
        removed = [child for child in self.described if child.name not in wanted]
        leaving = [child for child in self.children if child.name not in wanted]
        for child in leaving:
            child.want(Wanted.LEAVE)
        everyone = present | {child.name: child for child in added}
        self.children = [*leaving, *(everyone[name] for name in wanted)]
        differing = [present[name] for name, spec in wanted.items() if name in present and present[name].spec != spec]
        changed = [present[name] for name in wanted if name in present and self._redescribe(present[name], wanted[name])]
        adjusted = [child for child in differing if child not in changed]
        groups = {"added": added, "changed": changed, "adjusted": adjusted, "removed": removed}
        return Reloaded(**{what: tuple(child.name for child in children) for what, children in groups.items()})

    def leave(self) -> None:
        """Let nobody be wanted any more."""
        for child in self.children:
            child.want(Wanted.LEAVE)

    # -- What happens, and what follows ------------------------------------------------------------------------------

    def take_ending(self, child: Driven, ending: Ending, now: float, *, tree_was_up: bool) -> Exit | None:
        """Decide what follows when a process has ended; return why the tree is to end, if it is."""
        has_come_up = child.ever_up or tree_was_up
        match what_follows(child.wanted, child.spec.restart, ending.status, has_come_up=has_come_up):
            case "stopped":
                child.become(State.STOPPED, ending.reason)
            case "restart":
                child.await_restart(now)
            case "ended":
                child.rest(State.ENDED, ending.reason)
            case "death":
                return self._take_death(child, ending, now)
            case "no start":
                child.rest(State.FAILED, ending.reason)
                reason = f"{child.name} {ending.reason}"
                return Exit(kind="start_failed", reason=reason, child=child.name, error=ending.error)
        return None

    def go_on(self, now: float) -> None:
        """Do what is due."""
        self._stop_unwanted(now)
        self._start_due(now)
        self._let_go(now)

    def stop_last(self, now: float) -> None:
        """Stop the last child that is there. Those before it stay as they are, because it may still need them."""
        for child in self.children:
            if child.state is State.BACKOFF:
                child.dismiss(now)
        last = next_to_stop([child.state for child in self.children])
        if last is not None:
            self.children[last].dismiss(now)

    def kill_all(self, reason: str, now: float) -> None:
        """Kill every process at once.

        :param reason: why, in words that follow a child's name.
        """
        for child in reversed(self.children):
            child.dismiss(now)
            child.kill(reason, now)

    # -- inside

    def _restart(self, child: Driven) -> None:
        """Stop a child and start it again."""
        child.forget()
        now = time.monotonic()
        if child.has_process:
            child.want(Wanted.RESTART, "was stopped to be started again")
        elif child.state is State.BACKOFF:
            child.restart_at = now
        elif child.state is not State.STOPPED:
            self._revive(child, "is started again, as asked", "asked", now)

    def _revive(self, child: Driven, why: str, kind: Literal["asked", "needed"], now: float) -> None:
        """Start a child that failed or ended.

        :raises ListenError: when it cannot have its socket again.
        """
        child.listen()
        child.want(Wanted.RUN, why, kind)
        child.await_restart(now)

    def _redescribe(self, child: Driven, spec: ChildSpec) -> bool:
        """Let a child be what is described now; return whether it needs another process for that."""
        needed = child.describe(spec)
        if child.wanted is Wanted.LEAVE:  # a reload before this one had taken it out
            child.want(Wanted.RUN)
            needed |= child.state in {State.STOPPING, State.BACKOFF}
        if needed:
            with contextlib.suppress(ListenError):  # it failed before, and stays so
                self._restart(child)
        return needed

    def _take_death(self, child: Driven, ending: Ending, now: float) -> Exit | None:
        """Restart a child that died, and whoever is restarted with it; unless it died too often."""
        policy = self.policy
        child.deaths, too_many = policy.add_death(child.deaths, Restart(now, child.name, ending.reason))
        if too_many or child.is_on_trial:
            return self._give_up(child, ending)
        child.streak = policy.backoff.streak(child.streak, None if child.up_at is None else now - child.up_at)
        delay = policy.backoff.delay(child.streak, random.random())  # noqa: S311  # no secret
        child.await_restart(now + delay, ending.reason)
        described = self.described
        again = policy.together([each.name for each in described], child.name)
        for other in described:
            if other.name in again and other is not child:
                self._restart_with(other, f"was stopped, because {child.name} {ending.reason}", now)
        return None

    def _restart_with(self, other: Driven, why: str, now: float) -> None:
        """Restart a child with another that died, as OTP does: also a transient one that had ended, and no temporary one."""
        restart = other.spec.restart
        if other.has_process and other.wanted is Wanted.RUN:
            other.want(Wanted.END if restart == "temporary" else Wanted.RESTART, why, "needed")
        elif other.state is State.ENDED and restart == "transient":
            with contextlib.suppress(ListenError):  # it had ended, and stays so
                self._revive(other, why, "needed", now)

    def _give_up(self, child: Driven, ending: Ending) -> Exit | None:
        """Let a child be ``failed``. Of one that was tried again, its change of the state says enough."""
        child.rest(State.FAILED, ending.reason)
        reason = self.policy.too_many(child.deaths)
        if child.spec.on_failure == "shutdown":
            return Exit(kind="restarts_exceeded", reason=reason, child=child.name, error=ending.error)
        if not child.is_on_trial:
            logger.error(
                "%s: goes on without %s: %s", self._tree, child.name, reason, extra={"child": child.name, "reason": reason}
            )
        return None

    def _stop_unwanted(self, now: float) -> None:
        """Stop the last one of those whose processes are to go while the tree goes on."""
        last = next((child for child in reversed(self.described) if child.wanted is not Wanted.RUN), None)
        if last is not None:
            last.dismiss(now)

    def _start_due(self, now: float) -> None:
        described = self.described
        for index, child in enumerate(described):
            if child.restart_at is not None and now >= child.restart_at and self._may_restart(described[:index]):
                self._begin(child, now)
        following = next_to_start([child.state for child in described])
        if following is not None:
            described[following].begin(now)

    def _begin(self, child: Driven, now: float) -> None:
        """Start a process whose time has come. One that had failed has to listen again."""
        try:
            child.listen()
        except ListenError as error:
            child.restart_at = now + child.spec.retry_after
            logger.error("%s: stays failed: %s", child.name, error, extra={"child": child.name})  # noqa: TRY400  # no defect
        else:
            child.begin(now)

    def _may_restart(self, before: Sequence[Driven]) -> bool:
        """Whether a child's turn has come: with children that are restarted together, when all are stopped that are to be."""
        if not self.policy.in_order:
            return True
        nobody_goes = all(child.wanted is Wanted.RUN for child in self.described)
        return nobody_goes and all(child.state in SETTLED for child in before)

    def _let_go(self, now: float) -> None:
        """Stop who has no place in the description any more, once nobody can need it: when all others are settled."""
        leaving = [child for child in self.children if child.wanted is Wanted.LEAVE]
        for child in leaving:
            if not child.has_process:
                child.dismiss(now)
                child.release()
                self.children = [each for each in self.children if each is not child]
        if leaving and self.is_settled and (last := leaving[-1]).has_process:
            last.dismiss(now)
