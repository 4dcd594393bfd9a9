"""Machine event: something was done to an asset, at a place among its frames. [ISO 13374 DA]"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from schemas.frame import AssetKey, Int63

#: What a release of today obeys. part_replaced: another part is in the machine. recalibrate: the same machine is
#: healthy as it is now, whatever it was before. Both: what was learnt of the asset is void.
EventKind = Literal["part_replaced", "recalibrate"]

# Bounded as a birth's texts are: they go into alerts and dead letters.
Who = Annotated[str, Meta(max_length=128)]
Why = Annotated[str, Meta(max_length=500)]


class MachineEvent(Struct, frozen=True, omit_defaults=True):
    """Topic `kizashi.telemetry.v1` beside the frames, key = asset, value = msgpack map.

    Its place in the log among the asset's frames is what counts: frames before it belong to the machine as it was.
    What was learnt of the asset starts over with the next frame, and its open alerts are cleared.
    t_ns: Unix time of the deed, nanoseconds, for people. who, why: for people.
    """

    asset: AssetKey
    event: EventKind
    t_ns: Int63
    who: Who = ""
    why: Why = ""
    v: Literal[1] = 1
