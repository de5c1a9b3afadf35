"""The record of a blend, blend.json: read and checked."""

from competition.base.files import InputError, read_json, sha256_file
from competition.base.workspace import OOF_NPZ
from competition.runs.record import check_hashes

FORMAT = 2  # of blend.json


def read_blend(table):
    """What `blend.json` holds; InputError when there is none or its fold table or a member has changed."""
    folder = table.paths.runs
    path = table.paths.blend_json
    if not path.exists():
        raise InputError(f"{path}: no such file, `make blend NAME={table.name}` makes it")
    record = read_json(path, "; run `make blend` again")
    try:
        check_hashes(path, table, record, record["classes"])
        if record["metric"] != table.metric or record.get("format") != FORMAT:
            found = record["metric"] if record["metric"] != table.metric else "another version"
            raise InputError(
                f"{path}: a blend for {found}, expected {table.metric} of this one; run `make blend` again"
            )
        for member in record["members"]:
            oof = folder / member["run"] / OOF_NPZ
            if not oof.exists() or sha256_file(oof) != member["oof"]:
                raise InputError(f"{oof}: not the predictions that were blended, run `make blend` again")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a blend's record ({error!r}), rerun `make blend`") from None
    return record
