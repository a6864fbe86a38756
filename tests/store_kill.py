"""A process that appends records to a store and prints each id once it is committed: to be killed, or to compete."""

import sys
from itertools import count
from pathlib import Path

from ridgepoint.store import Provenance, Store, new_record


def main(path: str, name: str, total: int) -> None:
    """Appends `total` records (0: until killed) that carry `name`."""
    with Store(Path(path)) as store:
        for i in count(1):
            record = new_record("point", {"writer": name, "i": i, "text": "x" * 3000}, Provenance({}, {}, {}))
            store.append(record)
            print(record.id, flush=True)
            if i == total:
                return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
