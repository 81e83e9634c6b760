"""Counts the new orders of each status, and makes a message of each one. Its state needs `instances = 1`."""

from collections import Counter

from rowmill import Transform, exported


class Count(Transform):
    tables = ["shop.orders"]
    columns = ["id", "status"]

    def setup(self, settings):
        self.orders = Counter()

    def row(self, row):
        if row.operation != "insert":
            return
        status = row.text("status")
        if status is None:
            row.fail(f"order {row.integer('id')} has no status")
            return
        self.orders[status] += 1
        row.emit({"status": status, "count": self.orders[status]}, group=status)


WitWorld = exported(Count)
