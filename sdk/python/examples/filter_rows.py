"""The filter, row by row: keeps orders that became paid."""

from rowmill import Transform, exported


class Filter(Transform):
    tables = ["shop.orders"]
    columns = ["status"]

    def row(self, row):
        if row.changed_to("status", "paid"):
            row.keep()


WitWorld = exported(Filter)
