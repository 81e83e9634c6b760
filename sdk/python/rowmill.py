"""Write Rowmill transforms in Python: this file is all there is.

    from rowmill import Transform, changed_to, exported

    class Filter(Transform):
        tables = ["shop.orders"]

        def batch(self, batch):
            batch.keep(batch.where(status=changed_to("paid")))

    WitWorld = exported(Filter)

A batch is asked about as a whole, and the engine writes messages as a recipe says: so a row costs next to
nothing, though Python is interpreted. Rows are known by their numbers. A row that is neither kept nor failed is
dropped; rows of other tables pass.

    componentize-py -d wit -w transform componentize --stub-wasi app -o NAME.wasm
"""

import json
import struct

from componentize_py_types import Err
from wit_world.imports import host, query, types

NEWEST, BEFORE, AFTER = query.View.NEWEST, query.View.BEFORE, query.View.AFTER


def _test(test, view=NEWEST, negated=False):
    return (test, view, negated)


def equal(value):
    """The column is this."""
    return _test(query.Test_Equal(str(value)))


def one_of(*values):
    return _test(query.Test_OneOf([str(value) for value in values]))


def prefix(text):
    return _test(query.Test_Prefix(text))


def between(low=None, high=None):
    """Both inclusive; None is no bound."""
    return _test(query.Test_Between(("" if low is None else str(low), "" if high is None else str(high))))


def is_null():
    return _test(query.Test_Null())


def changed():
    return _test(query.Test_Changed())


def changed_to(value):
    """It is this now and wasn't before."""
    return _test(query.Test_ChangedTo(str(value)))


def negated(test):
    return _test(test[0], test[1], not test[2])


def before(test):
    """About the row as it was before."""
    return _test(test[0], BEFORE, test[2])


class part:
    """What a recipe puts into a message."""

    column = types.Part_Column
    before = types.Part_Before
    row = types.Part_Row()
    row_before = types.Part_RowBefore()
    operation = types.Part_Operation()
    schema = types.Part_Schema()
    table = types.Part_Table()
    time = types.Part_Time()

    @staticmethod
    def constant(value):
        return types.Part_Constant(json.dumps(value))


def recipe(fields, group=()):
    """A way to make messages: `recipe({"id": part.column("id")}, group=["order-", part.column("id")])`. Make it
    once, in `setup` or later."""
    fields = [types.Field(name, value) for name, value in fields.items()]
    group = [
        types.GroupPart_Text(piece) if isinstance(piece, str) else types.GroupPart_Column(piece.value) for piece in group
    ]
    return host.add_recipe(types.Recipe(fields, group))


def log(message, level=host.Level.INFO):
    host.log(level, str(message))


def count(counter, n=1):
    host.count(counter, n)


now, env = host.now, host.env
_sinks = {}
_tables = {}


def _sink(name):
    if name is None:
        return None
    if name not in _sinks:
        number = host.sink(name)
        if number is None:
            raise ValueError(f"the configuration has no sink `{name}`")
        _sinks[name] = number
    return _sinks[name]


def _packed(kind, value):
    if value is None:
        return b""
    if kind == types.Kind.INT:
        return struct.pack("<q", value)
    if kind in (types.Kind.UINT, types.Kind.YEAR, types.Kind.BIT):
        return struct.pack("<Q", value)
    if kind == types.Kind.FLOAT:
        return struct.pack("<d", value)
    return value if isinstance(value, bytes) else str(value).encode()


class Batch:
    """Row changes, in binlog order."""

    def __init__(self):
        self._keep, self._reroutes, self._edits, self._emits = [], [], [], []
        self._attributes, self._writes, self._fails = [], [], []
        self._arenas = {name: bytearray() for name in ("reroutes", "edits", "emits", "attributes", "fails")}
        self._rows = None

    def _add(self, arena, value):
        value = value if isinstance(value, bytes) else value.encode()
        self._arenas[arena] += value
        return len(value)

    @property
    def rows(self):
        """The numbers of all rows."""
        if self._rows is None:
            self._rows = list(query.asked())
        return self._rows

    def where(self, **tests):
        """The numbers of the rows for which all of these hold: `column=test`."""
        return query.select(
            [query.Condition(column, view, test, negated) for column, (test, view, negated) in tests.items()]
        )

    def but(self, rows):
        """The numbers of the other rows."""
        without = set(rows)
        return [row for row in self.rows if row not in without]

    def of(self, *operations):
        """The numbers of the rows of these operations: "insert", "update", "delete"."""
        wanted = {("insert", "update", "delete").index(operation) + 1 for operation in operations}
        return [row for row, operation in zip(self.rows, query.operations()) if operation in wanted]

    def texts(self, column, view=NEWEST):
        """A column of each row of `rows`; None where it is NULL or absent."""
        return query.texts(column, view)

    def integers(self, column, view=NEWEST):
        return query.integers(column, view)

    def floats(self, column, view=NEWEST):
        return query.floats(column, view)

    def objects(self, view=NEWEST):
        """Each row of `rows` as a dict."""
        return [None if text is None else json.loads(text) for text in query.json(view)]

    def keep(self, rows, sink=None, group=""):
        """These rows stay. They may go to a sink, in a group."""
        self._keep.extend(rows)
        if sink is not None or group:
            for row in rows:
                self._reroutes.append(types.Reroute(row, _sink(sink), self._add("reroutes", group)))

    def set(self, rows, column, value):
        """A column of these rows gets another value in the row as it is now."""
        table_of = dict(zip(self.rows, query.tables()))
        edits = {}  # the same for all rows of a table
        for row in rows:
            table = table_of[row]
            if table not in edits:
                columns = _tables[table].columns
                index = next((index for index, known in enumerate(columns) if known.name == column), None)
                if index is None:
                    raise ValueError(f"there is no column `{column}`")
                edits[table] = (index, _packed(columns[index].kind, value))
            index, value_bytes = edits[table]
            self._arenas["edits"] += value_bytes
            self._edits.append(
                types.Edit(row, types.Image.AFTER, index, 1 if value is None else 2, len(value_bytes))
            )

    def write(self, recipe, rows, sink=None):
        """The engine makes a message of each of these rows, as the recipe says."""
        if rows:
            self._writes.append(types.Write(recipe, _sink(sink), list(rows)))

    def emit(self, row, body, sink=None, group="", deduplication_id="", attributes=None):
        """A message is made of the row."""
        for name, value in (attributes or {}).items():
            name_len, value_len = self._add("attributes", name), self._add("attributes", value)
            self._attributes.append(types.Attribute(len(self._emits), name_len, value_len))
        group_len, dedup_len = self._add("emits", group), self._add("emits", deduplication_id)
        body_len = self._add("emits", body if isinstance(body, (str, bytes)) else json.dumps(body))
        self._emits.append(types.Emit(row, _sink(sink), group_len, dedup_len, body_len))

    def fail(self, row, message):
        """The row can't be processed; the plugin's `on_error` says what becomes of it."""
        self._fails.append(types.RowFail(row, self._add("fails", message)))

    def _verdict(self):
        return types.Verdict(
            self._keep,
            self._reroutes,
            self._edits,
            self._emits,
            self._attributes,
            self._writes,
            self._fails,
            bytes(b"".join(self._arenas.values())),
        )


class Transform:
    """What a module does."""

    #: The tables whose rows it decides on; None: all.
    tables = None

    def setup(self, settings):
        """Called once with the settings. What it raises stops the engine's start."""

    def batch(self, batch):
        """Decides on a batch."""
        raise NotImplementedError


def exported(transform):
    """What the module exports."""
    instance = transform()

    class WitWorld:
        def configure(self, settings):
            try:
                instance.setup(json.loads(settings))
            except Exception as error:
                raise Err(str(error))

        def describe(self, table):
            _tables[table.id] = table
            wanted = instance.tables is None or f"{table.schema}.{table.name}" in instance.tables
            return types.Interest_All() if wanted else types.Interest_Pass()

        def process(self, rows):
            batch = Batch()
            try:
                instance.batch(batch)
            except Exception as error:
                raise Err(types.Failure_Reject(f"{type(error).__name__}: {error}"))
            return batch._verdict()

    return WitWorld
