"""Keeps orders that became paid; drops all other changes of orders."""

from rowmill import Transform, exported


class Filter(Transform):
    tables = ["shop.orders"]
    columns = ["status"]

    def batch(self, batch):
        batch.keep(batch.where("changed_to(status, 'paid')"))


WitWorld = exported(Filter)
