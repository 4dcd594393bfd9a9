"""Write the golden files that are missing."""

from tests.golden import write_missing

print("\n".join(write_missing()) or "nothing was missing")
