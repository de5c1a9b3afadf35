"""Which runs differ only in the seed, and which trained heads alone."""

from dataclasses import MISSING, fields

from competition.base.files import hash_json, read_json
from competition.base.workspace import RUN_JSON
from competition.recipes.recipe import Recipe
from competition.runs.kinds import kind_of


def gather_seeds(folder, runs):
    """Runs that differ in the recipe's seed alone are one member: lists of names, in the order of their first."""
    members = {}
    for run in runs:
        members.setdefault(seedless(read_json(folder / run / RUN_JSON)) or run, []).append(run)
    return list(members.values())


def seedless(record):
    """What a run was made from but for its seed, a hash; None for predictions that came from elsewhere.

    Recipe keys that came after the run was made are at their default, which changes nothing.
    """
    config = record.get("config") or {}
    if not config.get("recipe"):
        return None
    known = {
        field.name: field.default_factory() if field.default is MISSING else field.default for field in fields(Recipe)
    }
    return hash_json(config | {"recipe": known | config["recipe"] | {"seed": None}})


def plain_heads(record):
    """The Recipe of a run.json that is of plain heads on frozen features, which train_apart measures; None of others."""
    if not record.get("frozen") or "teacher" in record["config"] or not kind_of(record["config"]).plain:
        return None
    try:
        settings = Recipe(**record["config"]["recipe"])
    except TypeError:  # of another version
        return None
    return None if settings.frozen_copies or settings.oversample_count or settings.synthetic else settings
