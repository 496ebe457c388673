"""What each model family is: its limits and defaults, its pipeline, its samplers."""

from videosdgx.families.magi1.spec import SPEC as MAGI1
from videosdgx.families.spec import FamilySpec, by_name
from videosdgx.families.wan21.spec import SPEC as WAN21

FAMILIES: dict[str, FamilySpec] = by_name((WAN21, MAGI1))
