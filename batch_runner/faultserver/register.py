"""Every fault by name: endings make a reply, twists bend one."""

from collections.abc import Callable

from batch_runner.faultserver.replies import Call, Reply


Ending = Callable[[Call, str], Reply]
Twist = Callable[[Reply, str], Reply]

ENDINGS: dict[str, Ending] = {}
TWISTS: dict[str, Twist] = {}


def ending(name: str) -> Callable[[Ending], Ending]:
    """The function is an ending under this name; its docstring is the line in the catalogue."""

    def entered(function: Ending) -> Ending:
        ENDINGS[name] = function
        return function

    return entered


def twist(name: str) -> Callable[[Twist], Twist]:
    """Likewise a twist."""

    def entered(function: Twist) -> Twist:
        TWISTS[name] = function
        return function

    return entered
