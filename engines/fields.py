"""Kinds of values that passports are made of."""

from typing import Annotated

from msgspec import Meta

# `(?!\n)` because Python's `$` also matches before a newline at the end.
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}(?!\n)$")]
Version = Annotated[str, Meta(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(?!\n)$")]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Hashes = Annotated[str, Meta(pattern=r"^[0-9a-f]{8,64}( [0-9a-f]{8,64})*(?!\n)$", max_length=4096)]
Fraction = Annotated[float, Meta(ge=0.0, lt=1.0)]
Positive = Annotated[float, Meta(gt=0.0, le=1e9)]
#: Name of a channel, as a birth may give it.
ChannelName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}(?!\n)$")]
