"""Numbered migrations: which there are, in which phase each runs, and what a database lacks.

Owns: the files under ``stores/migrations`` and the rules of a rolling upgrade. Pure but for
reading them; must not know any driver.

    0001_outbox_and_inbox.sql        before new code starts; old code goes on working
    0007_drop_old_column.post.sql    after the last old process has ended
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from seaway.contracts import Phase, SchemaChange
from seaway.errors import ConfigError, SchemaMismatch

_POST = ".post"


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file. ``name`` is what the version table records; it says the phase."""

    version: int
    name: str
    script: str

    @property
    def phase(self) -> Phase:
        """When it may run beside the code of the version before."""
        return phase_of(self.name)

    def change(self, *, applied: bool) -> SchemaChange:
        """What an operator is told of it."""
        return SchemaChange(self.version, self.name, applied, self.phase)


def phase_of(name: str) -> Phase:
    """The phase that a recorded name tells, also of a migration that this version lacks."""
    return "post" if name.endswith(_POST) else "pre"


@cache
def migrations(engine: str) -> tuple[Migration, ...]:
    """All migrations of this version of Seaway for ``engine``, in order."""
    found = []
    for file in files("seaway.stores").joinpath(f"migrations/{engine}").iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, file.read_text("utf-8").strip()))
    return tuple(sorted(found, key=lambda migration: migration.version))


def changes(known: Iterable[Migration], applied: Collection[int]) -> list[SchemaChange]:
    """Every migration, and whether the database has it."""
    return [migration.change(applied=migration.version in applied) for migration in known]


def missing(
    known: Sequence[Migration], applied: Collection[int], phase: Phase | None
) -> list[Migration]:
    """What to apply, in order; ``phase``: only those that may run now.

    ``ConfigError`` where that would leave one out that has to come first.
    """
    lacking = [migration for migration in known if migration.version not in applied]
    chosen = [each for each in lacking if phase is None or each.phase == phase]
    for each in chosen:
        before = [one for one in lacking if one.version < each.version and one.phase != phase]
        if phase is not None and before:
            earlier = before[0]
            raise ConfigError(
                f"{earlier.version:04d}_{earlier.name} must be applied before "
                f"{each.version:04d}_{each.name}",
                hint="seaway db upgrade, as soon as nothing older runs"
                if earlier.phase == "post"
                else "seaway db upgrade --pre",
            )
    return chosen


def refuse_newer(known: Sequence[Migration], recorded: Mapping[int, str], where: str) -> None:
    """``SchemaMismatch`` where a newer Seaway has removed what this one may need.

    Newer migrations of the first phase are made to be lived with.
    """
    newest = known[-1].version
    gone = [v for v, name in recorded.items() if v > newest and phase_of(name) == "post"]
    if gone:
        raise SchemaMismatch(
            f"{where} has Seaway's tables in version {max(gone)}, this Seaway knows "
            f"{newest}: upgrade seaway (pip install -U seaway)"
        )


def refuse_missing(known: Sequence[Migration], recorded: Mapping[int, str], where: str) -> None:
    """``SchemaMismatch`` unless everything that this version needs to run is there."""
    refuse_newer(known, recorded, where)
    lacking = [m for m in known if m.version not in recorded and m.phase == "pre"]
    if lacking:
        names = ", ".join(f"{each.version:04d}_{each.name}" for each in lacking)
        raise SchemaMismatch(f"{where} lacks Seaway's tables ({names}): run seaway db upgrade")
